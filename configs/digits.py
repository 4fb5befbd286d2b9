"""ResNet-20's layout on handwritten digits: minutes on a laptop, no download.

Paper: Xiang et al., "OvSW: Overcoming Silent Weights for Accurate Binary Neural
Networks", ECCV 2024, https://arxiv.org/abs/2407.05257. The data set and this
recipe are ours; delta and the decaying weight are the authors' for CIFAR-10.

Command:  python main.py --config=configs/digits.py
Others:   --config=configs/digits.py:vanilla (or ags, sad, full_precision), and
          :smoke, alone or as in :vanilla,smoke, for a run of seconds.
Expected: see the README's table of methods and seeds.
Cost:     under 3 minutes on 2 CPU cores.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s method, `ovsw` by default."""
  method, smoke = base.parse(arg)
  config = base.experiment("digits", method)
  config.data.pad = 1
  config.schedule.warmup_epochs = 2
  config.train.checkpoint_every = 5
  config.eval.batch_size = 360  # the test set in one batch
  return base.shrink(config) if smoke else config
