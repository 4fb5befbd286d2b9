"""SD-BNN's published recipe on CIFAR-10.

Paper: Xue et al., "Self-distribution Binary Neural Networks", 2021,
https://arxiv.org/abs/2103.02394.
Reported: ResNet-20 86.9 %, ResNet-18 92.5 %, VGG-Small 90.8 %. In the code the
weights' shift is 1 % of the filter's mean times a sigmoid, and decays.
Different here: images are normalized with CIFAR-10's mean and deviation, not
ImageNet's, and all test images count; the code drops the last 16. The dense
layers inside of the activation quantizer start as elsewhere in this project.

Command:  python main.py --config=configs/cifar10_sdbnn.py
Data:     prepared TFDS `cifar10`, or an image folder or archive of one:
          --config.data.name=folder:PATH
Others:   :resnet18 and :vgg_small take these networks; :ovsw (or ags, sad) adds
          its gradient transformation; :smoke trains for seconds on digits. They
          combine.
Expected: not measured yet.
Cost:     500 (ResNet-18 600, VGG-Small 400) epochs of 390 steps; meant for a
          GPU or TPU.
"""

from ml_collections import ConfigDict

from configs import base

NETWORKS = {
  "resnet20": {
    "method_args.t_min": 1e-3,
    "model.shortcut": "strided",
    "model.conv_init": "he_normal",
    "model.head_init": "he_normal",
    "optimizer.learning_rate": 0.11,
    "optimizer.weight_decay": 1e-4,
    "train.epochs": 500,
  },
  "resnet18": {
    "method_args.t_min": 1e-3,
    "model.shortcut": "real",
    "model.stem_activation": "hardtanh",
    "model.conv_init": "he_normal",
    "model.head_init": "he_normal",
    "optimizer.learning_rate": 0.08,
    "optimizer.weight_decay": 1e-4,
    "train.epochs": 600,
  },
  "vgg_small": {
    "method_args.t_min": 1e-1,
    "model.last_activation": "hardtanh",
    "optimizer.learning_rate": 0.08,
    "optimizer.weight_decay": 1e-4,
    "train.epochs": 400,
  },
}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, ResNet-20 by default."""
  return base.published("cifar10_sdbnn", "sdbnn", NETWORKS, arg)
