"""ResNet-34 on ImageNet, with OvSW.

Paper: Xiang et al., "OvSW: Overcoming Silent Weights for Accurate Binary Neural
Networks", ECCV 2024, https://arxiv.org/abs/2407.05257.
The recipe is the authors' published one, as their README has it (their script
leaves warm-up out). Crops are drawn from (0.08, 1.25) of the area, and those
that do not fit are drawn anew; their lighting is a tint,
--config.data.lighting=alexnet is as intended.

Command:  python main.py --config=configs/imagenet_resnet34.py
Data:     prepared TFDS `imagenet2012` (array_record), or a folder with
          train/<class>/* and val/<class>/*: --config.data.name=stream:PATH
Others:   --config=configs/imagenet_resnet34.py:vanilla (or ags, sad,
          full_precision); :smoke trains this model for seconds on digits.
Expected: not measured yet. Reported: 65.5 %.
Cost:     200 epochs of 2,502 steps of batch 512; meant for several GPUs or
          TPUs, and for as many cores as decode what they take, see
          benchmarks/decode.py.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s method, `ovsw` by default."""
  return base.imagenet("imagenet_resnet34", "resnet34", arg)
