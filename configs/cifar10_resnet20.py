"""ResNet-20 on CIFAR-10, with OvSW.

Paper: Xiang et al., "OvSW: Overcoming Silent Weights for Accurate Binary Neural
Networks", ECCV 2024, https://arxiv.org/abs/2407.05257.
The recipe is the authors' published one, delta and the decaying weight included
(their script also has 300, 400 and 500 epochs, and seeds 46 to 50).

Command:  python main.py --config=configs/cifar10_resnet20.py
Data:     prepared TFDS `cifar10`, or an image folder or archive of one:
          --config.data.name=folder:PATH
Others:   --config=configs/cifar10_resnet20.py:vanilla (or ags, sad,
          full_precision); :smoke trains this model for seconds on digits.
Expected: on the JPEG copy, in bfloat16, 83.2 ± 0.1 % (2 seeds), and vanilla
          83.9 % (1 seed). The authors' repository states no accuracy.
Cost:     600 epochs of 195 steps; on an H200 5.6 minutes for vanilla, and 11.9
          for two seeds of OvSW with --config.replicas=2.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s method, `ovsw` by default."""
  return base.cifar("cifar10_resnet20", "tfds:cifar10", "cifar_resnet20", arg)
