"""What a method of training a binary network is."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax


@dataclasses.dataclass(frozen=True)
class Method:
  """A method: which layer it trains, and what it does to the gradient.

  Attributes:
    name: as in `methods.METHODS`.
    conv: factory of the convolutions that the network binarizes.
    transform: gradient transformation that comes before weight decay, momentum
      and learning rate; None for none.
    binary: whether the network has latent weights at all.
  """

  name: str
  conv: Callable[..., Any]
  transform: optax.GradientTransformationExtraArgs | None = None
  binary: bool = True
