"""IR-Net's recipe for ImageNet, as far as it is published.

Paper: Qin et al., "Forward and Backward Information Retention for Accurate
Binary Neural Networks", CVPR 2020, https://arxiv.org/abs/1909.10788.
Reported: ResNet-18 58.1 % (top-5 80.0 %), ResNet-34 62.9 % (84.1 %).
The authors give the fields below for a framework that is not public, in
iterations of 32 GPUs with 64 images each: 62,500 are 100 epochs of 2048, of
which 4 warm up to 0.8. How the estimator moves on ImageNet is not published;
here by the epoch, from the paper's t = 0.1.
Different here: the warm-up goes by the epoch, from 0.2; there is no colour
jitter; batch statistics are those of the whole batch.

Command:  python main.py --config=configs/imagenet_irnet.py
Data:     prepared TFDS `imagenet2012` (array_record), or a folder with
          train/<class>/* and val/<class>/*: --config.data.name=stream:PATH
Others:   :resnet34 takes that network; :ovsw (or ags, sad) adds its gradient
          transformation; :smoke trains for seconds on digits. They combine.
Expected: not measured yet.
Cost:     100 epochs of 625 steps of batch 2048, which wants many devices, or
          --config.train.accumulate to cut it up.
"""

from ml_collections import ConfigDict

from configs import base

RECIPE = {
  "method_args.t_min": 1e-1,
  "model.conv_init": "fan_out_normal",
  "model.norm_scale": 1.0,
  "optimizer.learning_rate": 0.8,
  "optimizer.nesterov": True,
  "schedule.name": "multistep_warmup",
  "schedule.warmup_epochs": 4,
  "schedule.every": 30,
  "schedule.gamma": 0.1,
  "train.batch_size": 2048,
  "train.epochs": 100,
}
NETWORKS = {
  "resnet18": RECIPE | {"optimizer.weight_decay": 1e-5},
  "resnet34": RECIPE | {"optimizer.weight_decay": 1e-4},
}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, ResNet-18 by default."""
  return base.published_imagenet("imagenet_irnet", "irnet", NETWORKS, arg)
