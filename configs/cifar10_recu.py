"""ReCU's published recipe on CIFAR-10.

Paper: Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural Networks",
ICCV 2021, https://arxiv.org/abs/2103.12369.
Reported: ResNet-18 92.8 %, ResNet-20 87.5 %, VGG-Small 92.2 %.
Different here: after the warm-up the code's cosine is timed to E - 4 epochs,
ours to E - 5, so that it ends at zero without a jump.

Command:  python main.py --config=configs/cifar10_recu.py
Data:     prepared TFDS `cifar10`, or an image folder or archive of one:
          --config.data.name=folder:PATH
Others:   :resnet18 and :vgg_small take these networks; :ovsw (or ags, sad) adds
          its gradient transformation; :smoke trains for seconds on digits. They
          combine.
Expected: not measured yet.
Cost:     600 epochs of 195 steps; meant for a GPU or TPU.
"""

from ml_collections import ConfigDict

from configs import base

RECIPE = {
  "schedule.warmup_epochs": 5,
  "train.batch_size": 256,
  "train.epochs": 600,
}
NETWORKS = {name: RECIPE for name in ("resnet20", "resnet18", "vgg_small")}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, ResNet-20 by default."""
  return base.published("cifar10_recu", "recu", NETWORKS, arg)
