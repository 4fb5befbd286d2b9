"""Bi-Real Net's recipe on ImageNet, that of its authors' PyTorch code.

Paper: Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs With
Improved Representational Capability and Advanced Training Algorithm", ECCV
2018, https://arxiv.org/abs/1808.00278.
Reported: 18 layers 56.4 % (top-5 79.5 %), 34 layers 62.2 % (83.9 %), with the
paper's recipe: a real network whose ReLU becomes a clip in stages, then 20
epochs of SGD. The PyTorch code, which is followed here, trains from scratch in
one step, with 18 layers.
The code steps its linear schedule before each epoch, so that the last epoch has
a rate of zero; latent weights begin positive, all bits as +1.

Command:  python main.py --config=configs/imagenet_bireal.py
Data:     prepared TFDS `imagenet2012` (array_record), or a folder with
          train/<class>/* and val/<class>/*: --config.data.name=stream:PATH
Others:   :birealnet34 takes that network; :ovsw (or ags, sad) adds its gradient
          transformation; :smoke trains for seconds on digits. They combine.
Expected: not measured yet.
Cost:     256 epochs of 2,502 steps of batch 512; meant for several GPUs or
          TPUs.
"""

from ml_collections import ConfigDict

from configs import base

RECIPE = {
  "data.lighting": "uint8",
  "loss.label_smoothing": 0.1,
  "method_args.positive_init": True,
  "optimizer.name": "adam",
  "optimizer.learning_rate": 1e-3,
  "optimizer.weight_decay": 0.0,
  "schedule.name": "linear_early",
  "train.epochs": 256,
}
NETWORKS = {name: RECIPE for name in ("birealnet18", "birealnet34")}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, Bi-Real Net 18 by default."""
  return base.published_imagenet("imagenet_bireal", "bireal", NETWORKS, arg)
