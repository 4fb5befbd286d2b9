"""XNOR-Net++ on CIFAR-10, after its authors' example.

Paper: Bulat and Tzimiropoulos, "XNOR-Net++: Improved Binary Neural Networks",
BMVC 2019, https://arxiv.org/abs/1909.13863.
Reported: for ImageNet alone, up to 6 points above XNOR-Net; the full text and
its recipe were not available to us. Optimizer, rate, batch and epochs are those
of the authors' CIFAR-10 example, which binarizes as XNOR-Net does.
Different here: the network is our ResNet-18 for CIFAR with real shortcuts and
PReLU, theirs ImageNet's with ReLU; training has one step, while their code for
XNOR-Net++ begins with real weights. Images are divided by another deviation.

Command:  python main.py --config=configs/cifar10_xnor_net_plus_plus.py
Data:     prepared TFDS `cifar10`, or an image folder or archive of one:
          --config.data.name=folder:PATH
Others:   :resnet20 and :vgg_small take these networks; :ovsw (or ags, sad) adds
          its gradient transformation; :smoke trains for seconds on digits. They
          combine.
Expected: not measured yet.
Cost:     200 epochs of 390 steps; meant for a GPU or TPU.
"""

from ml_collections import ConfigDict

from configs import base

RECIPE = {
  "model.activation": "prelu",
  "optimizer.name": "adam",
  "optimizer.learning_rate": 1e-3,
  "optimizer.weight_decay": 0.0,
  "schedule.name": "constant",
  "train.epochs": 200,
}
NETWORKS = {
  "resnet18": RECIPE | {"model.shortcut": "real"},
  "resnet20": RECIPE,
  "vgg_small": RECIPE,
}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, ResNet-18 by default."""
  return base.published(
    "cifar10_xnor_net_plus_plus", "xnor_net_plus_plus", NETWORKS, arg
  )
