"""The published networks, as Flax modules.

Each constructor takes `conv`, the factory of its binary convolutions: pass
`conv=ovsw_jax.nn.RealConv` for the full-precision twin.
"""

from flax import linen as nn

from ovsw_jax.models._blocks import Hardtanh as Hardtanh
from ovsw_jax.models._resnet import ResNet as ResNet
from ovsw_jax.models._resnet import cifar_resnet18 as cifar_resnet18
from ovsw_jax.models._resnet import cifar_resnet20 as cifar_resnet20
from ovsw_jax.models._resnet import cifar_resnet34 as cifar_resnet34
from ovsw_jax.models._resnet import resnet18 as resnet18
from ovsw_jax.models._resnet import resnet34 as resnet34
from ovsw_jax.models._vgg import VGGSmall as VGGSmall
from ovsw_jax.models._vgg import vgg_small as vgg_small

ARCHITECTURES = {
  "cifar_resnet18": cifar_resnet18,
  "cifar_resnet20": cifar_resnet20,
  "cifar_resnet34": cifar_resnet34,
  "resnet18": resnet18,
  "resnet34": resnet34,
  "vgg_small": vgg_small,
}


def make(name: str, *, num_classes: int, **kwargs) -> nn.Module:
  """Makes a network by name.

  Args:
    name: a key of `ARCHITECTURES`.
    num_classes: number of logits.
    **kwargs: `conv`, `dtype`, `norm_axis_name`, and what else the constructor
      of that name takes.

  Returns:
    A Flax module called as `model.apply(variables, images, train=, progress=)`.

  Raises:
    ValueError: for an unknown name, or fewer than two classes.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.make("cifar_resnet20", num_classes=10).widths
    (16, 32, 64)
    >>> twin = ovsw.models.vgg_small(conv=ovsw.nn.RealConv)  # full precision
  """
  if name not in ARCHITECTURES:
    raise ValueError(
      f"unknown model {name!r}; the models are {', '.join(ARCHITECTURES)}."
    )
  if num_classes < 2:
    raise ValueError(f"num_classes={num_classes} must be at least 2.")
  return ARCHITECTURES[name](num_classes, **kwargs)
