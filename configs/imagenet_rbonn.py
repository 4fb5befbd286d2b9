"""RBONN's published recipe on ImageNet: two steps with a teacher.

Paper: Xu et al., "Recurrent Bilinear Optimization for Binary Neural Networks",
ECCV 2022, https://arxiv.org/abs/2209.01542.
Reported: ResNet-18 66.7 % (top-5 87.0 %).
The authors publish the second step; the first is ReActNet's. `u` learns at a
tenth of the rate. Unlike ReActNet they step the schedule after each epoch.
Different here: the recurrence is on with several devices, where the authors'
code loses the last gradient, so that their number may be one without it;
--config.method_args.variant=paper is the method of the paper. The teacher is
trained first, as torchvision trains its ResNet-34; the authors take
torchvision's weights.

Stages:   `a_teacher`, on the labels; `b_real_weights`, binary activations,
          taught by it; `c_binary`, binary weights as well, begun with the one
          before.
Command:  python main.py --config=configs/imagenet_rbonn.py
Data:     prepared TFDS `imagenet2012` (array_record), or a folder with
          train/<class>/* and val/<class>/*: --config.data.name=stream:PATH
Others:   :ovsw (or ags, sad) adds its gradient transformation; :smoke trains
          all stages for seconds on digits. They combine.
Expected: not measured yet.
Cost:     90 epochs of 5,004 steps, 128 of 2,502 and 256 of 2,502, the last two
          with the teacher's forward pass; meant for several GPUs or TPUs.
"""

from ml_collections import ConfigDict

from configs import base

NETWORKS = {
  "birealnet18": {
    "data.lighting": "uint8",
    "model.conv_init": "torch_uniform",
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.0,
    "optimizer.decay_paths": base.REACTNET_DECAY,
    "schedule.name": "linear",
    "train.epochs": 256,
  }
}
FIRST = {
  "optimizer.learning_rate": 2.5e-3,
  "optimizer.weight_decay": 1e-5,
  "schedule.name": "linear_early",
  "train.epochs": 128,
}


def get_config(arg: str = "") -> ConfigDict:
  """The config of Bi-Real Net's ResNet-18."""
  stages = base.two_steps(base.RESNET34, FIRST)
  return base.published_imagenet(
    "imagenet_rbonn", "rbonn", NETWORKS, arg, stages
  )
