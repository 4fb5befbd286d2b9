"""Floating-point operations of a training step, counted from the network.

XLA's own count depends on how a convolution was lowered, so it is not asked.
The plain form's forward pass is traced, and the multiply-accumulates of its
convolutions and matrix products are summed; nothing is computed. Backward costs
twice as much, once for each operand's gradient, but for the first layer, whose
input needs none. Two operations a multiply-accumulate; element-wise work counts
nothing.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import jax_step, workload
from benchmarks.plain_linen import PlainBinaryConv


def _products(jaxpr: Any) -> list[int]:
  """Multiply-accumulates of each convolution and product, in order."""
  found = []
  for equation in jaxpr.eqns:
    shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars)]
    if equation.primitive.name == "conv_general_dilated":
      _, kernel, out = shapes
      spec = equation.params["dimension_numbers"].rhs_spec
      found.append(math.prod(out) * math.prod(kernel) // kernel[spec[0]])
    elif equation.primitive.name == "dot_general":
      left, _, out = shapes
      (axes, _), _ = equation.params["dimension_numbers"]
      found.append(math.prod(out) * math.prod(left[axis] for axis in axes))
    for value in equation.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        found += _products(inner)
  return found


def forward_products(work: workload.Workload) -> list[int]:
  """Multiply-accumulates of each layer for one batch, the first layer first."""
  model = jax_step.network(work, {"conv": PlainBinaryConv})
  images = jnp.zeros((work.batch, work.side, work.side, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  traced = jax.make_jaxpr(lambda v, x: model.apply(v, x))(variables, images)
  return _products(traced.jaxpr)


def training_step(work: workload.Workload) -> int:
  """Operations of one training step on a batch."""
  products = forward_products(work)
  return 2 * (3 * sum(products) - products[0])
