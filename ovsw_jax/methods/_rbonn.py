"""RBONN: bits and scales that fit the weights, and a recurrent look at them.

Xu et al., `Recurrent Bilinear Optimization for Binary Neural Networks
<https://arxiv.org/abs/2209.01542>`_, ECCV 2022. The paper and the authors' code
differ; both are here.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from ovsw_jax import nn
from ovsw_jax import optax as transforms
from ovsw_jax.methods import _latents
from ovsw_jax.methods._method import Method, View

__all__ = ["rbonn"]

_VARIANTS = ("code", "paper")


def sparse_channels(outputs: int, density: float = 0.6) -> int:
  """How many output channels are looked back at: ``int(out (1 - density))``."""
  return int(outputs * (1 - density))


def code_mask(scale: jax.Array, density: float = 0.6) -> jax.Array:
  """The channels that the code chooses, shape (out,), booleans.

  It takes the *channel* at each place of the ascending order of the scales for
  the *rank* of the channel of that number, and so chooses as good as at random.
  """
  order = jnp.argsort(scale)
  return order < sparse_channels(scale.shape[0], density)


def paper_mask(
  scale: jax.Array, latent: jax.Array, density: float = 0.6
) -> jax.Array:
  """The channels that the paper chooses, shape (out,), booleans.

  Those whose scale is among the smallest, unless the sum of their ``|w|`` is
  among the largest.
  """
  outputs = scale.shape[0]
  count = sparse_channels(outputs, density)
  norm = jnp.sum(jnp.abs(latent), axis=tuple(range(latent.ndim - 1)))
  rank = jnp.argsort(jnp.argsort(scale))
  norm_rank = jnp.argsort(jnp.argsort(norm))
  return (rank < count) & (norm_rank < outputs - count)


def _layer(params, path):
  for key in path:
    params = params[key]
  own = params["weight_quantizer"]
  return params["latent"], jnp.abs(own["gamma"]), own["u"]


def _init(params):
  zeros = jax.tree.map(jnp.zeros_like, _latents.by_layer(params))
  return _latents.tree(zeros)


def _look(params, memory, progress, *, term):
  """Adds to every latent weight its term of u and what was remembered."""
  del progress
  remembered = _latents.by_layer(memory)
  return _latents.replace(
    params,
    {
      path: latent + term(*_layer(params, path), remembered[path])
      for path, latent in _latents.by_layer(params).items()
    },
  )


def _code_view(density: float) -> View:
  """One more step along the last gradient, in two fifths of the channels."""

  def term(latent, scale, u, gradient):
    del latent
    return -u * code_mask(scale, density) * gradient

  def remember(params, gradient):
    del params
    return _latents.tree(_latents.by_layer(gradient))

  return View(_init, functools.partial(_look, term=term), remember)


def _paper_view(density: float) -> View:
  """Back to the last weights, where scales are sparse and weights are not."""

  def term(latent, scale, u, backtracked):
    del latent, scale
    return u * backtracked

  def remember(params, gradient):
    del gradient
    chosen = {}
    for path in _latents.by_layer(params):
      latent, scale, _ = _layer(params, path)
      chosen[path] = latent * paper_mask(scale, latent, density)
    return _latents.tree(chosen)

  look = functools.partial(_look, term=term)
  return View(_init, look, remember, overwrite=True)


def rbonn(
  variant: str = "code",
  unit: float = 0.02,
  penalty: float = 1e-4,
  density: float = 0.6,
  u_init: float = 0.2,
  u_rate: float = 0.1,
) -> Method:
  """RBONN: ReActNet with a bilinear weight quantizer and a recurrent view.

  Each output channel of the weight is ``unit |gamma| sign(w)`` with a learned
  `gamma`, which starts normal; see `nn.BilinearWeights` for the gradients. In
  training the forward pass sees, for the gradient g of the step before:

  * "code": ``w - u m g``, where m chooses ``int(out (1 - density))`` channels
    (`code_mask`); w itself stays. Across devices g is the averaged gradient,
    while the authors' code has none there, and leaves this out;
  * "paper": ``w + u m w'`` with the weights w' of the step before and m by the
    true ranks (`paper_mask`); the step goes on from there, and `u` and `gamma`
    are made positive after each.

  `u` is learned, per output channel, at `u_rate` times the learning rate.

  Args:
    variant: "code", to the letter of the authors', or "paper".
    unit: size of the bits.
    penalty: weight of the bilinear term in the gradient.
    density: share of the channels that count as dense.
    u_init: where `u` starts.
    u_rate: factor on the updates of `u`.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.rbonn().view.overwrite  # the code's, not the paper's
    False
  """
  if variant not in _VARIANTS:
    raise ValueError(
      f"variant={variant!r} must be one of {', '.join(_VARIANTS)}."
    )
  if not 0 <= density <= 1:
    raise ValueError(f"density={density} must be a share in [0, 1].")
  conv = functools.partial(
    nn.BinaryConv,
    weight_quantizer=functools.partial(
      nn.BilinearWeights,
      unit=unit,
      penalty=penalty,
      variant=variant,
      u_init=u_init,
    ),
    activation_quantizer=nn.RSign,
    output_scale=None,
  )
  of_u = transforms.binary_mask(r"(^|/)weight_quantizer/u$")
  tail = optax.masked(optax.scale(u_rate), of_u)
  if variant == "paper":
    learned = transforms.binary_mask(r"(^|/)weight_quantizer/(u|gamma)$")
    tail = optax.chain(tail, transforms.project(jnp.abs, mask=learned))
  view = _code_view(density) if variant == "code" else _paper_view(density)
  return Method("rbonn", conv, activation=nn.RPReLU, tail=tail, view=view)
