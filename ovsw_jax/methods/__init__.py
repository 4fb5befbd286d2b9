"""Methods: each a value that any model and any training run accepts.

====================  ========================================================
`vanilla`             OvSW's binary layer, plain straight-through gradient
`ovsw`                adaptive gradient scaling, then silence-aware decaying
`ags`, `sad`          its two halves
`xnor_net`            scaled signs of centred and clipped weights
`xnor_net_plus_plus`  scaled signs of centred weights, a learned scale
`bireal`              scaled signs, ApproxSign, no other non-linearity
`irnet`               Libra-PB weights, the error decay estimator
`recu`                weights clamped at a growing quantile
`rbnn`                weights rotated towards their bits
`sdbnn`               learned shifts before the signs
`sdbnn_imagenet`      its twin for ImageNet
`reactnet`            RSign, RPReLU
`rbonn`               bilinear weights and a recurrent view
`full_precision`      the same network with real weights and activations
====================  ========================================================

`with_transform` adds the gradient transformation of one method to another,
`real_weights` makes the first stage of two-step training from any.
"""

from typing import Any

from ovsw_jax.methods import _make
from ovsw_jax.methods._bireal import bireal as bireal
from ovsw_jax.methods._full_precision import full_precision as full_precision
from ovsw_jax.methods._irnet import irnet as irnet
from ovsw_jax.methods._method import Method as Method
from ovsw_jax.methods._method import View as View
from ovsw_jax.methods._method import real_weights as real_weights
from ovsw_jax.methods._method import with_transform as with_transform
from ovsw_jax.methods._ovsw import ags as ags
from ovsw_jax.methods._ovsw import ovsw as ovsw
from ovsw_jax.methods._ovsw import sad as sad
from ovsw_jax.methods._ovsw import vanilla as vanilla
from ovsw_jax.methods._rbnn import rbnn as rbnn
from ovsw_jax.methods._rbonn import rbonn as rbonn
from ovsw_jax.methods._reactnet import reactnet as reactnet
from ovsw_jax.methods._recu import recu as recu
from ovsw_jax.methods._sdbnn import sdbnn as sdbnn
from ovsw_jax.methods._sdbnn import sdbnn_imagenet as sdbnn_imagenet
from ovsw_jax.methods._xnor_net import xnor_net as xnor_net
from ovsw_jax.methods._xnor_net_plus_plus import (
  xnor_net_plus_plus as xnor_net_plus_plus,
)

# Every file of this package names its methods in `__all__`. The imports above
# are for editors and type checkers; a method is public without one too.
METHODS = _make.declared(__name__, __path__)
"""The constructors of methods by name, as `make` and configs know them."""
globals().update(METHODS)


def make(name: str, **arguments) -> Method:
  """Makes a method by name.

  Args:
    name: a key of `METHODS`; a module such as `"my_package.my_method"`, or the
      path of a `.py` file, that defines `method(**arguments) -> Method`; or
      several of these joined by "+", of which the first is the method and the
      others give their gradient transformation, see `with_transform`.
    **arguments: hyperparameters of that method; of several, each goes to the
      one that takes it.

  Raises:
    ValueError: for an unknown name or argument, naming those there are, for a
      module or file that is not there or defines no method, and for values out
      of range.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.methods.make("ovsw", delta=0.01, weight=2e-5).name
    'ovsw'
    >>> ovsw.methods.make("irnet+ovsw", t_min=0.1, delta=0.01).name
    'irnet+ovsw'
  """
  return _make.make(name, METHODS, arguments)


def defaults(name: str) -> dict[str, Any]:
  """The hyperparameters of a method and their defaults.

  Args:
    name: as for `make`.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.methods.defaults("recu+ags")
    {'tau_min': 0.85, 'tau_max': 0.99, 'delta': 0.04}
  """
  return _make.defaults(name, METHODS)
