"""RBNN's published recipe on ImageNet.

Paper: Lin et al., "Rotated Binary Neural Network", NeurIPS 2020,
https://arxiv.org/abs/2009.13055.
Reported: ResNet-18 59.9 % (top-5 81.9 %), ResNet-34 63.1 % (84.4 %), and 63.5 %
after 200 epochs. As published the latent weights have no gradient at all until
weight decay pulls the angle off pi/2; --config.method_args.beta_init=0.785
trains from the first step. Crops are drawn from (0.08, 1.25) of the area, and
those that do not fit are drawn anew.
Different here: the reported numbers come from another reader of the images
(DALI), which the authors say costs accuracy.

Command:  python main.py --config=configs/imagenet_rbnn.py
Data:     prepared TFDS `imagenet2012` (array_record), or a folder with
          train/<class>/* and val/<class>/*: --config.data.name=stream:PATH
Others:   :resnet34 takes that network; :ovsw (or ags, sad) adds its gradient
          transformation; :smoke trains for seconds on digits. They combine.
Expected: not measured yet.
Cost:     150 epochs of 2,502 steps of batch 512, each epoch begun with the
          singular value decompositions of all layers; meant for several GPUs or
          TPUs.
"""

from ml_collections import ConfigDict

from configs import base

RECIPE = {
  "data.crop": (0.08, 1.25),
  "model.conv_init": "fan_out_normal",
  "model.norm_scale": 1.0,
  "optimizer.weight_decay": 1e-4,
  "train.epochs": 150,
}
NETWORKS = {name: RECIPE for name in ("resnet18", "resnet34")}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, ResNet-18 by default."""
  return base.published_imagenet("imagenet_rbnn", "rbnn", NETWORKS, arg)
