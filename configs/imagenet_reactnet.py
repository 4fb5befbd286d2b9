"""ReActNet's published recipe on ImageNet: two steps with a teacher.

Paper: Liu et al., "ReActNet: Towards Precise Binary Neural Network with
Generalized Activation Functions", ECCV 2020, https://arxiv.org/abs/2003.03488.
Reported: Bi-Real Net's ResNet-18 65.9 %, ReActNet-A 69.4 %.
These are the authors' settings of 128 epochs a step; of 256, which they find
alike, have --config.train.epochs=256 and a --config.optimizer.learning_rate of
1e-3, and 5e-4 for ReActNet-A. The code steps its linear schedule before each
epoch, so that the last one has a rate of zero, and its lighting moves a byte by
0 or -1.
AdamBNN (Liu et al., ICML 2021; 70.5 % reported) is :reactnet_a with 256 epochs
at 1.25e-3 and --config.stages.b_real_weights.optimizer.weight_decay=5e-6.
Different here: the teacher is trained first, as torchvision trains its
ResNet-34; the authors take torchvision's weights.

Stages:   `a_teacher`, on the labels; `b_real_weights`, binary activations,
          taught by it; `c_binary`, binary weights as well, begun with the one
          before.
Command:  python main.py --config=configs/imagenet_reactnet.py
Data:     prepared TFDS `imagenet2012` (array_record), or a folder with
          train/<class>/* and val/<class>/*: --config.data.name=stream:PATH
Others:   :reactnet_a takes that network; :ovsw (or ags, sad) adds its gradient
          transformation; :smoke trains all stages for seconds on digits. They
          combine.
Expected: not measured yet.
Cost:     90 epochs of 5,004 steps, then twice 128 of 2,502 (ReActNet-A 5,004),
          each with the teacher's forward pass; meant for several GPUs or TPUs.
"""

from ml_collections import ConfigDict

from configs import base

RECIPE = {
  "data.lighting": "uint8",
  "model.conv_init": "torch_uniform",
  "optimizer.name": "adam",
  "optimizer.learning_rate": 2.5e-3,
  "optimizer.weight_decay": 0.0,
  "optimizer.decay_paths": base.REACTNET_DECAY,
  "schedule.name": "linear_early",
  "train.epochs": 128,
}
NETWORKS = {
  "birealnet18": RECIPE,
  "reactnet_a": RECIPE
  | {"optimizer.learning_rate": 1.25e-3, "train.batch_size": 256},
}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, Bi-Real Net's ResNet-18 by default."""
  stages = base.two_steps(base.RESNET34, {"optimizer.weight_decay": 1e-5})
  return base.published_imagenet(
    "imagenet_reactnet", "reactnet", NETWORKS, arg, stages
  )
