"""RBNN's published recipe on CIFAR-10.

Paper: Lin et al., "Rotated Binary Neural Network", NeurIPS 2020,
https://arxiv.org/abs/2009.13055.
Reported: ResNet-18 92.2 %, ResNet-20 86.5 %, VGG-Small 91.3 %. As published
the latent weights have no gradient at all until weight decay pulls the angle
off pi/2; --config.method_args.beta_init=0.785 trains from the first step.
Different here: after the warm-up the code's cosine is timed to E - 4 epochs,
ours to E - 5, so that it ends at zero without a jump.

Command:  python main.py --config=configs/cifar10_rbnn.py
Data:     prepared TFDS `cifar10`, or an image folder or archive of one:
          --config.data.name=folder:PATH
Others:   :resnet18 and :vgg_small take these networks; :ovsw (or ags, sad) adds
          its gradient transformation; :smoke trains for seconds on digits. They
          combine.
Expected: not measured yet.
Cost:     1000 epochs of 195 steps, each begun with the singular value
          decompositions of all layers; meant for a GPU or TPU.
"""

from ml_collections import ConfigDict

from configs import base

RECIPE = {
  "optimizer.weight_decay": 1e-4,
  "schedule.warmup_epochs": 5,
  "train.batch_size": 256,
  "train.epochs": 1000,
}
NETWORKS = {name: RECIPE for name in ("resnet20", "resnet18", "vgg_small")}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, ResNet-20 by default."""
  return base.published("cifar10_rbnn", "rbnn", NETWORKS, arg)
