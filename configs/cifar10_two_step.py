"""Two-step training with a teacher on CIFAR-10: ReActNet and its relatives.

Paper: Liu et al., "ReActNet: Towards Precise Binary Neural Network with
Generalized Activation Functions", ECCV 2020, https://arxiv.org/abs/2003.03488;
Xu et al., "Recurrent Bilinear Optimization for Binary Neural Networks", ECCV
2022, https://arxiv.org/abs/2209.01542.
Their recipe (Adam, a linear schedule, weight decay on convolutions and shifts
in the first step alone, the loss of a teacher's distribution and no labels) is
published for ImageNet: 65.9 % and 66.7 % with ResNet-18. Brought to CIFAR-10 it
is ours: batch, epochs and learning rate, the teacher, Bi-Real Net's ResNet-18
of one convolution a block.

Stages:   `a_teacher`, the same network with real weights and activations and
          ReLU, on the labels; `b_real_weights`, binary activations, taught by
          it; `c_binary`, binary weights as well, begun with what fits of the
          one before.
Command:  python main.py --config=configs/cifar10_two_step.py
Data:     prepared TFDS `cifar10`, or an image folder or archive of one:
          --config.data.name=folder:PATH
Others:   :rbonn, :bireal or another method; :reactnet,ovsw adds OvSW's gradient
          transformation; :smoke trains all stages for seconds on digits.
Expected: not measured yet.
Cost:     three times 200 epochs of 390 steps; meant for a GPU or TPU.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s method, `reactnet` by default."""
  named = [part.strip() for part in (arg or "").split(",")]
  if not {*named} - {"", "smoke"}:
    named = ["reactnet", *named]
  method, smoke = base.parse(",".join(named))
  config = base.experiment("cifar10_two_step", method)
  config.model.name = "cifar_birealnet18"
  config.data.name = "tfds:cifar10"
  config.data.pad = 4
  config.data.flip = True
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.0
  config.optimizer.decay_paths = base.REACTNET_DECAY
  config.schedule.name = "linear"
  config.train.epochs = 200
  config.train.batch_size = 128
  config.train.log_every = 100
  config.train.checkpoint_every = 10
  config.stages = base.two_steps(
    teacher={"model.activation": "relu", "optimizer.weight_decay": 1e-4},
    first={"optimizer.weight_decay": 1e-5},
  )
  return base.shrink(config) if smoke else config
