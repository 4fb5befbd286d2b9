"""IR-Net's published recipe on CIFAR-10.

Paper: Qin et al., "Forward and Backward Information Retention for Accurate
Binary Neural Networks", CVPR 2020, https://arxiv.org/abs/1909.10788.
Reported: ResNet-20 86.5 %, VGG-Small 90.4 % (an outsider got 87.8 % with the
authors' VGG script). The estimator starts at t = 1e-3 for ResNet-20 and 1e-1
for VGG-Small, as in the code; the paper has 1e-1.
Different here: images are normalized with CIFAR-10's mean and deviation, not
ImageNet's, and all test images count; the code drops the last 16.

Command:  python main.py --config=configs/cifar10_irnet.py
Data:     prepared TFDS `cifar10`, or an image folder or archive of one:
          --config.data.name=folder:PATH
Others:   :vgg_small takes that network; :ovsw (or ags, sad) adds its gradient
          transformation; :smoke trains for seconds on digits. They combine.
Expected: not measured yet.
Cost:     400 (VGG-Small 300) epochs of 390 steps; meant for a GPU or TPU.
"""

from ml_collections import ConfigDict

from configs import base

NETWORKS = {
  "resnet20": {
    "method_args.t_min": 1e-3,
    "model.shortcut": "strided",
    "model.conv_init": "he_normal",
    "model.head_init": "he_normal",
    "optimizer.weight_decay": 1e-4,
    "train.epochs": 400,
  },
  "vgg_small": {
    "method_args.t_min": 1e-1,
    "model.last_activation": "hardtanh",
    "optimizer.learning_rate": 0.007,
    "optimizer.weight_decay": 1e-4,
    "train.epochs": 300,
  },
}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, ResNet-20 by default."""
  return base.published("cifar10_irnet", "irnet", NETWORKS, arg)
