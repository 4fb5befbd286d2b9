"""ReCU's published one-step recipe on ImageNet.

Paper: Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural Networks",
ICCV 2021, https://arxiv.org/abs/2103.12369.
Reported: ResNet-18 60.98 % (top-5 82.57 %), ResNet-34 65.10 % (85.78 %); by
fine-tuning the authors add about 0.2. Their recipe in two steps, 66.4 % with
ResNet-18, is not here: its first step is not published, and its script names
two schedules.
Convolutions and classifier decay, by their names; batch normalization and the
real shortcuts do not. Crops are drawn from (0.08, 1.25) of the area, and those
that do not fit are drawn anew. The images' part is not verified: it is that of
the authors' code of two steps, that of one step was not available to us.
Different here: after the warm-up the code's cosine is timed to E - 4 epochs,
ours to E - 5, so that it ends at zero without a jump.

Command:  python main.py --config=configs/imagenet_recu.py
Data:     prepared TFDS `imagenet2012` (array_record), or a folder with
          train/<class>/* and val/<class>/*: --config.data.name=stream:PATH
Others:   :resnet34 takes that network; :ovsw (or ags, sad) adds its gradient
          transformation; :smoke trains for seconds on digits. They combine.
Expected: not measured yet.
Cost:     200 epochs of 2,502 steps of batch 512; meant for several GPUs or
          TPUs.
"""

from ml_collections import ConfigDict

from configs import base

RECIPE = {
  "data.crop": (0.08, 1.25),
  "data.lighting": "uint8",
  "model.conv_init": "he_normal",
  "optimizer.weight_decay": 1e-4,
  "optimizer.decay_paths": (
    r"(conv\d/(latent|output_scale)|stem_conv/kernel|head/(kernel|bias))$"
  ),
  "schedule.warmup_epochs": 5,
  "train.epochs": 200,
}
NETWORKS = {name: RECIPE for name in ("resnet18", "resnet34")}


def get_config(arg: str = "") -> ConfigDict:
  """The config of `arg`'s network, ResNet-18 by default."""
  return base.published_imagenet("imagenet_recu", "recu", NETWORKS, arg)
