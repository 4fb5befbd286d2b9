"""Finds a model's layers, and counts what each holds and multiplies.

The model is traced on shapes alone. Layers and their variables come from Flax;
multiplications are read from the traced program, in which every operation
carries the path of the module that it belongs to.
"""

import collections
import functools
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from ovsw_jax import nn as layers
from ovsw_jax import quantizers
from ovsw_jax._summary._table import LayerSummary, Summary

Path = tuple[str, ...]

# Collections of variables that inference reads; both are of 32 bits.
_KEPT = ("params", "batch_stats")
_BINARY = (layers.BinaryConv, layers.BinaryDense)


class _Layer(NamedTuple):
  """A module, and the shapes of what its calls returned, without batch axis."""

  module: nn.Module
  outputs: list[tuple[int, ...]]

  def is_binary(self) -> bool:
    return isinstance(self.module, _BINARY)

  def has_bits(self) -> bool:
    """Whether the weights are bits: in two-step training's first step, not."""
    if not isinstance(self.module, _BINARY):
      return False
    quantizer = self.module.weight_quantizer
    while isinstance(quantizer, functools.partial):
      quantizer = quantizer.func
    return quantizer is not quantizers.real_weights


def summary(
  model: nn.Module, input_shape: Sequence[int], **arguments: Any
) -> Summary:
  """The table of a model's layers: bits, memory, multiplications by precision.

  Of one example, in inference. Nothing is computed: the model is traced on
  shapes. A row is a layer with parameters or multiplications; the quantizers
  of a binary layer are part of it.

  * Parameters are what is trained. Those named `latent` of the binary layers
    count one bit each, all others 32, whatever dtype they train in. Per-channel
    scales that a method computes from the latent weights are no parameters;
    they can be multiplied into the normalization that follows.
  * Memory is that of parameters and batch statistics. Variables that only
    training reads, such as RBNN's rotations, are left out.
  * MACs (multiply-accumulates) are those of convolutions and matrix products,
    taps on padding included. They are of 1 bit where a binary layer multiplies
    bits by bits, and of 32 bits everywhere else. Quantizing weights costs
    none, since it is done once; nor do scales, normalizations, pooling and
    non-linearities.

  Args:
    model: a Flax linen module, such as `models.make` returns.
    input_shape: shape of one example, without batch axis; (32, 32, 3) of CIFAR.
    **arguments: keyword arguments of the model's call beside its input.

  Returns:
    A `Summary`: `str` and `print` give the table as text, notebooks show it as
    HTML, `to_dict` gives the numbers.

  Raises:
    ValueError: for an `input_shape` that is no shape or that the model does not
      take.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> model = ovsw.models.cifar_resnet20(num_classes=10)
    >>> table = ovsw.summary(model, (32, 32, 3))
    >>> table.parameters_1bit, table.parameters_32bit
    (267264, 2586)
    >>> table.macs_1bit, table.macs_32bit
    (40108032, 443008)
    >>> print(f"{table.compression_ratio:.1f} times smaller")
    21.8 times smaller
  """
  shape = _checked_shape(input_shape)
  images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  found: dict[Path, _Layer] = {}

  def init(key, images):
    with nn.intercept_methods(functools.partial(_note_call, found)):
      return model.init(key, images, **arguments)

  def apply(variables, images):
    return model.apply(variables, images, **arguments)

  try:
    variables = jax.eval_shape(init, jax.random.key(0), images)
    program = jax.make_jaxpr(apply)(variables, images).jaxpr
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"{type(model).__name__} does not take input_shape={shape}, the shape of"
      f" one example without batch axis: {str(error).strip()}"
    ) from error
  # What lies inside of a binary layer is part of its row.
  paths = {
    path
    for path in found
    if not any(found[path[:end]].is_binary() for end in range(len(path)))
  }
  held = _variables(variables, found, paths)
  macs = _multiplications(program, held, found, paths)
  rows = [
    _row(path, layer, held[path], macs[path])
    for path, layer in found.items()
    if path in paths and (held[path] or any(macs[path].values()))
  ]
  return Summary(type(model).__name__, shape, tuple(rows))


def _checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
  shape = (input_shape,) if isinstance(input_shape, int) else input_shape
  shape = tuple(shape)
  if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
    raise ValueError(
      f"input_shape={input_shape!r} must be the sizes of one example's axes,"
      " without batch axis, such as (32, 32, 3)."
    )
  return shape


def _note_call(found: dict[Path, _Layer], call, args, kwargs, context) -> Any:
  """Notes a module's call; modules stay in the order of their first one."""
  module = context.module
  if context.method_name != "__call__":
    return call(*args, **kwargs)
  layer = found.setdefault(module.path, _Layer(module, []))
  result = call(*args, **kwargs)
  arrays = [x for x in jax.tree.leaves(result) if hasattr(x, "shape")]
  layer.outputs.append(tuple(arrays[0].shape[1:]) if arrays else ())
  return result


def _row_of(path: Path, paths: Collection[Path]) -> Path:
  """The innermost row that `path` lies in; () is the model itself."""
  return next(
    (path[:end] for end in range(len(path), 0, -1) if path[:end] in paths), ()
  )


def _variables(variables, found, paths) -> dict[Path, collections.Counter]:
  """How many values each row holds: latent weights apart from the others."""
  held = collections.defaultdict(collections.Counter)
  for name in _KEPT:
    for keys, leaf in jax.tree.leaves_with_path(variables.get(name, {})):
      path = tuple(getattr(key, "key", str(key)) for key in keys)
      owner = found.get(path[:-1])
      latent = path[-1] == "latent" and owner is not None and owner.is_binary()
      held[_row_of(path, paths)]["latent" if latent else name] += leaf.size
  return held


def _multiplications(program, held, found, paths) -> dict[Path, dict[int, int]]:
  """MACs of each row, by the operands' bits: 1 or 32."""
  macs: dict[Path, dict[int, int]] = {path: {1: 0, 32: 0} for path in paths}
  for path, count in _products(program, ()):
    row = _row_of(path, paths)
    # Of a binary layer only what it does to its input: weights are quantized
    # once, and how bits are multiplied is the platform's choice.
    inside = path[len(row) :][:1]
    if not found[row].is_binary() or inside == ("activation_quantizer",):
      macs[row][32] += count
  for path in paths:
    if found[path].is_binary():
      # Every position of the output takes every weight once.
      positions = sum(math.prod(shape[:-1]) for shape in found[path].outputs)
      bits = 1 if found[path].has_bits() else 32
      macs[path][bits] += positions * held[path]["latent"]
  return macs


def _products(program: core.Jaxpr, scope: Path) -> Iterator[tuple[Path, int]]:
  """MACs of every convolution and matrix product, and the module's path."""
  for equation in program.eqns:
    stack = str(equation.source_info.name_stack)
    path = (*scope, *filter(None, stack.split("/")))
    name = equation.primitive.name
    if name in _MACS:
      # The model's own name comes first.
      yield path[1:], _MACS[name](equation)
      continue
    inner = core.jaxprs_in_params(equation.params)
    found = [list(_products(part, path)) for part in inner]
    if name == "cond" and found:
      # One of the branches runs; the most expensive is what may be needed.
      found = [max(found, key=lambda macs: sum(count for _, count in macs))]
    times = equation.params["length"] if name == "scan" else 1
    for inside, count in itertools.chain.from_iterable(found):
      yield inside, times * count


def _of_dot(equation) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  inputs = equation.invars[0].aval.shape
  outputs = equation.outvars[0].aval.shape
  return math.prod(outputs) * math.prod(inputs[axis] for axis in contracted)


def _of_convolution(equation) -> int:
  kernel = equation.invars[1].aval.shape
  outputs = equation.outvars[0].aval.shape
  out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
  # A transposed convolution multiplies the zeros between its inputs by nothing.
  zeros = math.prod(equation.params["lhs_dilation"])
  return math.prod(outputs) * math.prod(kernel) // out_features // zeros


_MACS = {"dot_general": _of_dot, "conv_general_dilated": _of_convolution}


def _row(path: Path, layer: _Layer, held, macs) -> LayerSummary:
  latent = held["latent"]
  bits = latent if layer.has_bits() else 0
  input_bits = 1 if layer.is_binary() else 32
  return LayerSummary(
    name="/".join(path) or type(layer.module).__name__,
    kind=type(layer.module).__name__,
    input_bits=input_bits if any(macs.values()) else None,
    output_shape=layer.outputs[0],
    parameters_1bit=bits,
    parameters_32bit=held["params"] + latent - bits,
    statistics=held["batch_stats"],
    macs_1bit=macs[1],
    macs_32bit=macs[32],
  )
