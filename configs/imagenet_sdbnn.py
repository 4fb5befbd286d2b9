"""SD-BNN on ImageNet, in two steps with a teacher: not a verified recipe.

Paper: Xue et al., "Self-distribution Binary Neural Networks", 2021,
https://arxiv.org/abs/2103.02394.
Reported: ResNet-18 66.5 % (top-5 86.7 %).
No trainer is published, and the published network does not run as it is. A
comment in its file gives optimizer, rate, schedule, epochs, batch and teacher;
the authors point to Real-to-Binary Nets for the rest. Weight decay, ReActNet's
in the first step and none in the second, augmentation and the loss without
labels are ours.
Different here: the first step begins with He-normal weights, that file's with
small positive ones. The teacher is trained first, as torchvision trains its
ResNet-34.

Stages:   `a_teacher`, on the labels; `b_real_weights`, binary activations,
          taught by it; `c_binary`, binary weights as well, begun with the one
          before.
Command:  python main.py --config=configs/imagenet_sdbnn.py
Data:     prepared TFDS `imagenet2012` (array_record), or a folder with
          train/<class>/* and val/<class>/*: --config.data.name=stream:PATH
Others:   :ovsw (or ags, sad) adds its gradient transformation; :smoke trains
          all stages for seconds on digits. They combine.
Expected: not measured yet.
Cost:     90 epochs of 5,004 steps, then twice 256 of 2,502, with the teacher's
          forward pass; meant for several GPUs or TPUs.
"""

from ml_collections import ConfigDict

from configs import base

NETWORKS = {
  "birealnet18": {
    "data.lighting": "uint8",
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.0,
    "optimizer.decay_paths": base.REACTNET_DECAY,
    "schedule.name": "linear",
    "train.epochs": 256,
  }
}


def get_config(arg: str = "") -> ConfigDict:
  """The config of Bi-Real Net's ResNet-18."""
  stages = base.two_steps(base.RESNET34, {"optimizer.weight_decay": 1e-5})
  return base.published_imagenet(
    "imagenet_sdbnn", "sdbnn_imagenet", NETWORKS, arg, stages
  )
