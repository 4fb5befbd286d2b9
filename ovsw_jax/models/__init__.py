"""The published networks, as Flax modules.

Each constructor takes `conv`, the factory of its binary convolutions (pass
`conv=ovsw_jax.nn.RealConv` for the full-precision twin), `activation`, the
non-linearity between them, and whatever else is to differ from the published
network: see `ResNet` and `VGGSmall`.
"""

from flax import linen as nn

from ovsw_jax.models import _options, _own
from ovsw_jax.models._published import birealnet18 as birealnet18
from ovsw_jax.models._published import birealnet34 as birealnet34
from ovsw_jax.models._published import cifar_birealnet18 as cifar_birealnet18
from ovsw_jax.models._published import cifar_birealnet20 as cifar_birealnet20
from ovsw_jax.models._published import cifar_resnet18 as cifar_resnet18
from ovsw_jax.models._published import cifar_resnet20 as cifar_resnet20
from ovsw_jax.models._published import cifar_resnet34 as cifar_resnet34
from ovsw_jax.models._published import reactnet_a as reactnet_a
from ovsw_jax.models._published import resnet18 as resnet18
from ovsw_jax.models._published import resnet34 as resnet34
from ovsw_jax.models._resnet import ResNet as ResNet
from ovsw_jax.models._vgg import VGGSmall as VGGSmall
from ovsw_jax.models._vgg import vgg_small as vgg_small

ARCHITECTURES = {
  "birealnet18": birealnet18,
  "birealnet34": birealnet34,
  "cifar_birealnet18": cifar_birealnet18,
  "cifar_birealnet20": cifar_birealnet20,
  "cifar_resnet18": cifar_resnet18,
  "cifar_resnet20": cifar_resnet20,
  "cifar_resnet34": cifar_resnet34,
  "reactnet_a": reactnet_a,
  "resnet18": resnet18,
  "resnet34": resnet34,
  "vgg_small": vgg_small,
}
"""The published networks by name, as `make` and configs know them."""


def make(name: str, *, num_classes: int, **options) -> nn.Module:
  """Makes a network by name.

  Args:
    name: a key of `ARCHITECTURES`, or one's own: a Python file
      ("path/my_network.py") or module ("my_package.my_network") that defines
      `network(num_classes, **options) -> flax.linen.Module`.
    num_classes: number of logits.
    **options: what differs from the published network, attributes of `ResNet`
      or `VGGSmall`: `conv`, `activation`, `dtype`, `shortcut`, ...; None leaves
      an option as published. One's own network takes those that its function
      has as arguments.

  Returns:
    A Flax module called as `model.apply(variables, images, train=, progress=)`.

  Raises:
    ValueError: for an unknown name, option or value, naming those there are,
      or fewer than two classes.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.make("cifar_resnet20", num_classes=10).widths
    (16, 32, 64)
    >>> twin = ovsw.models.vgg_small(conv=ovsw.nn.RealConv)  # full precision
  """
  if name not in ARCHITECTURES and "." not in name:
    raise ValueError(
      f"unknown model {name!r}; the models are {', '.join(ARCHITECTURES)}, or "
      "a module ('my_package.my_network') or file ('path/my_network.py') that "
      f"defines `{_own.SIGNATURE}`."
    )
  if num_classes < 2:
    raise ValueError(f"num_classes={num_classes} must be at least 2.")
  if name not in ARCHITECTURES:
    return _own.network(name, num_classes, options)
  network = ARCHITECTURES[name]
  known = _options.names_of(network(num_classes))
  for option in options:
    if option not in known:
      raise ValueError(
        f"model {name!r} has no option {option!r}; it takes {', '.join(known)}."
      )
  return network(num_classes, **options)
