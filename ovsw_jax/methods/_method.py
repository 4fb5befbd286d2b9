"""What a method of training a binary network is, and how methods combine."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax import linen as nn

from ovsw_jax import quantizers

Params = Any
Memory = Any
Variables = Mapping[str, Any]
Progress = jax.typing.ArrayLike


@dataclasses.dataclass(frozen=True)
class View:
  """What the forward pass of *training* sees in the place of the parameters.

  A quantizer sees one latent weight; a view sees the whole tree and what an
  earlier step left behind. A step is::

      def loss(params):
        return task(model, view.apply(params, memory, progress), batch)

      gradient = jax.grad(loss)(params)
      base = view.apply(params, memory, progress) if view.overwrite else params
      updates, opt_state = tx.update(gradient, opt_state, base)
      params = optax.apply_updates(base, updates)
      memory = view.remember(base, gradient)

  with the gradient averaged over devices, before the optimizer touches it. All
  three functions are pure and can be jitted. Evaluation uses the parameters.

  Attributes:
    init: `params -> memory`, a tree of arrays, before the first step.
    apply: `(params, memory, progress) -> params` of the same structure,
      differentiable in its first argument.
    remember: `(params, gradient) -> memory` for the next step.
    overwrite: whether the update is made on the parameters that were seen.

  Examples:
    A forward pass at weights that are one momentum step ahead:

    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import methods
    >>> look_ahead = methods.View(
    ...   init=lambda params: jax.tree.map(jnp.zeros_like, params),
    ...   apply=lambda params, memory, progress: jax.tree.map(
    ...     lambda w, g: w - 0.1 * g, params, memory
    ...   ),
    ...   remember=lambda params, gradient: gradient,
    ... )
    >>> float(look_ahead.apply({"w": 1.0}, {"w": 2.0}, 0.5)["w"])
    0.8
  """

  init: Callable[[Params], Memory]
  apply: Callable[[Params, Memory, Progress], Params]
  remember: Callable[[Params, Params], Memory]
  overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Method:
  """A method: its binary layer, and what it does around the gradient.

  A method is a value. Models take `conv` and `activation`, the optimizer
  `transform` and `tail`, the training step `view`, the loop `refresh`; none of
  them knows which method it serves. What a method's forward pass schedules is a
  function of `progress`, the share of training that is done, which goes to
  every layer as a traced scalar.

  Attributes:
    name: as in `methods.METHODS`, or the author's own.
    conv: factory of the convolutions that the network binarizes, called as
      `conv(features, kernel_size, strides=, name=)(x, train, progress)`:
      `nn.BinaryConv`, or a `functools.partial` of it with other slots.
    transform: gradient transformation that comes before weight decay, momentum
      and learning rate; None for none.
    binary: whether the network has latent binary weights.
    activation: module factory `(name=)` of the non-linearity that takes the
      place of the network's own; None keeps that.
    tail: transformation of the updates after the learning rate, the last of the
      chain, such as a projection; None for none.
    view: see `View`; None for the parameters as they are.
    refresh: `(variables, progress) -> variables`, run before the first step and
      then at the start of every epoch, on all variables of the model; a pure
      function that can be jitted. None for none.

  Examples:
    >>> import functools
    >>> from ovsw_jax import methods, nn, quantizers
    >>> conv = functools.partial(
    ...   nn.BinaryConv, weight_quantizer=quantizers.libra_weights()
    ... )
    >>> methods.with_transform(methods.Method("mine", conv), methods.ags()).name
    'mine+ags'
  """

  name: str
  conv: Callable[..., Any]
  transform: optax.GradientTransformationExtraArgs | None = None
  binary: bool = True
  activation: Callable[..., Any] | None = None
  tail: optax.GradientTransformation | None = None
  view: View | None = None
  refresh: Callable[[Variables, Progress], Variables] | None = None

  def __post_init__(self):
    for field in ("conv", "activation"):
      if isinstance(getattr(self, field), nn.Module):
        kind = type(getattr(self, field)).__name__
        raise TypeError(
          f"method {self.name!r}: {field} is an instance of {kind}, which all "
          "layers would share; pass the class or a functools.partial of it."
        )


def with_transform(method: Method, other: Method) -> Method:
  """A method with the gradient transformation of another one added.

  The other's transformation comes after the method's own, if it has one. AGS
  and SAD touch only gradients, so that OvSW goes with any method.

  Args:
    method: any method with binary weights.
    other: a method with a `transform`, whose other fields are left aside.

  Returns:
    A method named `"<method>+<other>"`.

  Raises:
    ValueError: if there is nothing to add, or nothing to add it to.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.with_transform(methods.irnet(), methods.ovsw()).name
    'irnet+ovsw'
  """
  if other.transform is None:
    raise ValueError(
      f"method {other.name!r} has no gradient transformation to add to "
      f"{method.name!r}; ags, sad and ovsw have one."
    )
  if not method.binary:
    raise ValueError(
      f"method {method.name!r} has no binary weights for the transformation of "
      f"{other.name!r} to act on."
    )
  transform = other.transform
  if method.transform is not None:
    transform = optax.chain(method.transform, transform)
  return dataclasses.replace(
    method, name=f"{method.name}+{other.name}", transform=transform
  )


def real_weights(method: Method) -> Method:
  """The first stage of two-step training: binary activations, real weights.

  The latent weights are used as they are, without output scale, and are plain
  weights to the optimizer: what a method does to binary weights (`transform`,
  `tail`, `view`, `refresh`) is left away. Parameters keep their names, so that
  the second stage loads those that the first one has: latent weights,
  activation quantizers, non-linearities. Parameters of weight quantizers and
  output scales come new in the second stage.

  Raises:
    ValueError: if the method has no binary weights.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.real_weights(methods.reactnet()).name
    'reactnet_step1'
  """
  if not method.binary:
    raise ValueError(
      f"method {method.name!r} has no binary weights, so it has no first stage "
      "with real ones."
    )
  return Method(
    name=f"{method.name}_step1",
    conv=functools.partial(
      method.conv,
      weight_quantizer=quantizers.real_weights,
      output_scale=None,
      post=None,
    ),
    activation=method.activation,
    binary=False,
  )
