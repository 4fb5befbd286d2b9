"""ResNet-18 on CIFAR-10, with OvSW.

Paper: Xiang et al., "OvSW: Overcoming Silent Weights for Accurate Binary Neural
Networks", ECCV 2024, https://arxiv.org/abs/2407.05257.
The recipe is the authors' for ResNet-20 on CIFAR-10: for ResNet-18 on CIFAR-10
they published neither delta nor the decaying weight.

Command:  python main.py --config=configs/cifar10_resnet18.py
Data:     prepared TFDS `cifar10`, or an image folder or archive of one:
          --config.data.name=folder:PATH
Others:   --config=configs/cifar10_resnet18.py:vanilla (or ags, sad,
          full_precision); :smoke trains this model for seconds on digits.
Expected: not measured yet; without published settings, no promise.
Cost:     600 epochs of 195 steps; meant for a GPU or TPU.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s method, `ovsw` by default."""
  return base.cifar("cifar10_resnet18", "tfds:cifar10", "cifar_resnet18", arg)
