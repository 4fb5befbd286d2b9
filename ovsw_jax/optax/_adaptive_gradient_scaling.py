"""Adaptive gradient scaling (AGS), a lower bound on relative gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ovsw_jax.optax import (
  _fractions,
  _hyperparameters,
  _masks,
  _statistics,
)


class AGSState(NamedTuple):
  """Statistics of the last update, and the schedule's step count."""

  ags_count: jax.Array | None  # shape=(), dtype=jnp.int32; None: no schedule.
  # Per leaf the mean over its filters of the clamped ratio before scaling.
  ags_ratio: Any  # shape=() per leaf, dtype=float32 (float64 for float64).
  # Per leaf these ratios, of shape (filters,), or () of a leaf of rank 0 or 1.
  ags_filter_ratio: Any
  ags_scaled_fraction: jax.Array  # shape=(), dtype as ags_ratio.


def _reduced_axes(
  shape: tuple[int, ...], output_axis: int | None, path: Any
) -> tuple[int, ...]:
  """The axes of one output unit; all of them in scalars and vectors."""
  rank = len(shape)
  if rank <= 1:
    return tuple(range(rank))
  axis = -1 if output_axis is None else output_axis
  if not -rank <= axis < rank:
    raise ValueError(
      f"ags: `output_axis` is {axis}, but `{_masks.path_name(path)}` has shape"
      f" {shape}; pass an axis in [{-rank}, {rank}), or leave the leaf out with"
      " `mask`."
    )
  return tuple(i for i in range(rank) if i != axis % rank)


def ags(
  delta: optax.ScalarOrSchedule = 0.04,
  *,
  output_axis: int | None = None,
  eps: jax.typing.ArrayLike = 1e-3,
  grad_eps: jax.typing.ArrayLike = 1e-6,
  mask: _masks.Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Scales gradients up to at least ``delta * parameter_norm``, filter-wise.

  The straight-through gradient of a binary layer does not know how large the
  latent weight is, so where weights are large they hardly ever change sign.
  For each output filter :math:`o`, with :math:`G_o` and :math:`W_o` its
  gradient and its latent weights,

  .. math::

    r_o = \frac{\max(\|G_o\|_2, \epsilon_g)}{\max(\|W_o\|_2, \epsilon)},
    \qquad
    G_o \leftarrow \begin{cases}
      \dfrac{\delta}{r_o}\, G_o & \text{if } r_o < \delta, \\
      G_o & \text{otherwise.} \end{cases}

  It is the mirror image of :func:`optax.adaptive_grad_clip`, which bounds the
  same ratio from above. A gradient of zero stays zero, and the clamp
  :math:`\epsilon_g` keeps gradients that are only noise from becoming steps of
  full size. Put it first in the chain, before weight decay and momentum; under
  data parallelism, give it the gradient averaged over all devices.

  Statistics, read with ``optax.tree.get(opt_state, name)``:
  ``ags_filter_ratio``, the :math:`r_o` of each filter before scaling;
  ``ags_ratio``, their mean (a scalar for each leaf); and
  ``ags_scaled_fraction``, the share of all filters with :math:`r_o < \delta`.

  Args:
    delta: the lower bound :math:`\delta \geq 0`: a number, a 0-d array or a
      schedule. The reference trains ResNet-20 on CIFAR-10 with 0.04 and
      ImageNet with 0.01.
    output_axis: the axis of the output channels in every selected leaf of rank
      2 or more; all others are reduced over. ``None`` is the last, as in HWIO
      convolution kernels and (in, out) dense kernels; OIHW kernels need 0.
      Leaves of rank 0 and 1 are one filter each.
    eps: smallest norm :math:`\epsilon > 0` of a filter's weights.
    grad_eps: smallest norm :math:`\epsilon_g > 0` of a filter's gradient.
    mask: which leaves are binary: a function from the parameters to a tree of
      booleans, such as :func:`binary_mask`, or such a tree. ``None`` takes the
      leaves named ``latent`` if there are any, else all of rank 2 or more,
      else all. The others pass unchanged.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` object. Its ``update``
    needs ``params``. Updates keep shape and dtype; norms are summed in float32,
    for float64 in float64.

  Raises:
    ValueError: for a negative or non-finite `delta`, an `eps` or `grad_eps`
      that is not positive, a mask that selects nothing, an `output_axis` that a
      leaf lacks, `params` that are missing, or updates that do not fit them.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import ovsw_jax as ovsw
    >>> params = {"latent": jnp.ones((3, 3, 4, 2))}
    >>> grads = {"latent": jnp.ones((3, 3, 4, 2)) * jnp.array([1e-3, 1.0])}
    >>> tx = optax.chain(ovsw.optax.ags(0.04), optax.sgd(0.1, momentum=0.9))
    >>> updates, opt_state = tx.update(grads, tx.init(params), params)
    >>> print(updates["latent"][0, 0, 0])  # the first filter is lifted
    [-0.004 -0.1  ]
    >>> print(optax.tree.get(opt_state, "ags_scaled_fraction"))
    0.5

  References:
    Xiang et al., `OvSW: Overcoming Silent Weights for Accurate Binary Neural
    Networks <https://arxiv.org/abs/2407.05257>`_, ECCV 2024, adaptive gradient
    scaling.

  .. note:: Under :func:`optax.inject_hyperparams` numbers become arrays, so
    pass ``static_args=("output_axis", "mask")`` when you set these two. What
    is traced cannot be checked for its range.
  """
  _hyperparameters.check_scalar("ags", "delta", delta)
  _hyperparameters.check_scalar("ags", "eps", eps, open_low=True)
  _hyperparameters.check_scalar("ags", "grad_eps", grad_eps, open_low=True)
  if isinstance(output_axis, jax.core.Tracer):
    raise ValueError(
      "ags: `output_axis` is traced; pass a Python integer, and under"
      ' inject_hyperparams static_args=("output_axis", "mask").'
    )

  def squared_norms(path, g, p):
    axes = _reduced_axes(jnp.shape(p), output_axis, path)
    dtype = jnp.promote_types(
      _statistics.float_dtype(g), _statistics.float_dtype(p)
    )

    def of(x):
      return jnp.sum(jnp.square(x.astype(dtype)), axis=axes, keepdims=True)

    return of(g), of(p)

  def unit_ratio(gradient, weight):
    dtype = gradient.dtype
    low = jnp.asarray(grad_eps, dtype), jnp.asarray(eps, dtype)
    gradient, weight = jnp.sqrt(gradient), jnp.sqrt(weight)
    return jnp.maximum(gradient, low[0]) / jnp.maximum(weight, low[1])

  def each_filter(reduce, tree, params):
    def leaf(path, x, p):
      axes = _reduced_axes(jnp.shape(p), output_axis, path)
      return reduce(x, axis=axes).astype(_statistics.float_dtype(p))

    filters = jax.tree_util.tree_map_with_path(leaf, tree, params)
    return _statistics.per_leaf(lambda x: x, filters)

  def init_fn(params):
    none = _statistics.filled(_statistics.positive(params), False, jnp.bool_)
    # Sums over the leaves, not fresh scalars, have on every mesh the type that
    # update gives them.
    ratio = _statistics.per_leaf(
      lambda n, p: jnp.sum(n, dtype=_statistics.float_dtype(p)), none, params
    )
    return AGSState(
      ags_count=_hyperparameters.first_count(delta),
      ags_ratio=ratio,
      ags_filter_ratio=each_filter(jnp.sum, none, params),
      ags_scaled_fraction=_fractions.fractions(params, none)[0],
    )

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    bound = _hyperparameters.value_at(delta, state.ags_count)
    norms = jax.tree_util.tree_map_with_path(squared_norms, updates, params)
    gradients, weights = jax.tree.transpose(
      jax.tree.structure(updates), jax.tree.structure((0, 0)), norms
    )
    ratios = _statistics.elementwise(unit_ratio, gradients, weights)
    below = jax.tree.map(lambda r: r < jnp.asarray(bound, r.dtype), ratios)

    def lift(g, r, low):
      gain = jnp.where(low, jnp.asarray(bound, r.dtype) / r, 1)
      return (g.astype(r.dtype) * gain).astype(g.dtype)

    new_state = AGSState(
      ags_count=_hyperparameters.next_count(state.ags_count),
      ags_ratio=_statistics.means(params, ratios),
      ags_filter_ratio=each_filter(jnp.squeeze, ratios, params),
      ags_scaled_fraction=_fractions.fractions(params, below)[0],
    )
    return jax.tree.map(lift, updates, ratios, below), new_state

  inner = optax.GradientTransformationExtraArgs(init_fn, update_fn)
  return _masks.restrict("ags", inner, mask)
