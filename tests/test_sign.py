"""Sign estimators: properties, then the reference's values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import quantizers, sign

ESTIMATORS = {
  "ste": sign.ste,
  "clipped_ste": sign.clipped_ste,
  "approx": sign.approx,
  "magnitude_gated": sign.magnitude_gated(),
}
FLOATS = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)


def factor(estimator, x):
  return jax.grad(lambda x: estimator(x).astype(jnp.float32).sum())(x)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_value_is_a_bit_in_the_dtype_of_the_input(name, dtype, x64):
  x = jax.random.normal(jax.random.key(0), (5, 7), dtype)
  bits = ESTIMATORS[name](x)
  assert bits.dtype == dtype and bits.shape == x.shape
  assert set(np.unique(np.asarray(bits, np.float64))) == {-1.0, 1.0}
  np.testing.assert_array_equal(bits > 0, x >= 0)
  assert factor(ESTIMATORS[name], x).dtype == dtype


@pytest.mark.parametrize("name", ESTIMATORS)
def test_zero_is_positive_whatever_its_sign(name):
  zeros = jnp.array([[0.0, -0.0]])
  np.testing.assert_array_equal(ESTIMATORS[name](zeros), 1.0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_transforms_agree(name):
  estimator = ESTIMATORS[name]
  x = jax.random.normal(jax.random.key(1), (4, 6, 3))
  np.testing.assert_array_equal(jax.jit(estimator)(x), estimator(x))
  one_by_one = jnp.stack([factor(estimator, row) for row in x])
  mapped = jax.vmap(lambda row: factor(estimator, row))(x)
  np.testing.assert_array_equal(mapped, one_by_one)
  _, scanned = jax.lax.scan(lambda c, row: (c, factor(estimator, row)), 0, x)
  np.testing.assert_array_equal(scanned, one_by_one)


def test_factors():
  x = jnp.array([-3.0, -1.0, -0.75, 0.0, 0.25, 1.0, 2.0])
  np.testing.assert_array_equal(factor(sign.ste, x), 1)
  np.testing.assert_array_equal(
    factor(sign.clipped_ste, x), [0, 0, 1, 1, 1, 0, 0]
  )
  np.testing.assert_array_equal(
    factor(sign.approx, x), [0, 0, 0.5, 2, 1.5, 0, 0]
  )


def test_gate_is_per_output_channel_and_scale_free():
  w = jax.random.normal(jax.random.key(2), (3, 3, 4, 5))
  gate = factor(sign.magnitude_gated(), w)
  mean = jnp.abs(w).mean((0, 1, 2))
  np.testing.assert_array_equal(gate, (jnp.abs(w) < mean).astype(w.dtype))
  scales = jnp.array([0.5, 1.0, 2.0, 4.0, 8.0])
  np.testing.assert_array_equal(
    factor(sign.magnitude_gated(), w * scales), gate
  )
  first = factor(sign.magnitude_gated(0), jnp.moveaxis(w, -1, 0))
  np.testing.assert_array_equal(jnp.moveaxis(first, 0, -1), gate)


def test_hard_sign_has_no_gradient():
  x = jnp.array([-0.5, 0.5])
  np.testing.assert_array_equal(factor(sign.hard_sign, x), 0)


def test_identity_estimator_keeps_no_residual():
  _, vjp = jax.vjp(sign.ste, jnp.ones((1000,)))
  assert sum(leaf.size for leaf in jax.tree.leaves(vjp)) == 0


def test_integers_are_refused():
  with pytest.raises(TypeError, match=r"int32.*astype"):
    sign.ste(jnp.arange(3))


def scaled(w):
  return quantizers.scaled_sign_weights(w).value


# In the golden file filters lie on the first axis.
REFERENCE = {
  "StraightThroughEstimator": sign.ste,
  "StraightThroughEstimatorV2": lambda w: jnp.moveaxis(
    scaled(jnp.moveaxis(w, 0, -1)), -1, 0
  ),
  "BinaryQuantizedEstimator": sign.approx,
  "HtanhSTEThroughEstimator": sign.clipped_ste,
  "HtanhSTEThroughEstimatorV2": sign.magnitude_gated(0),
}


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("precision", ("f32", "f64"))
def test_reference(name, precision, golden, x64):
  values = golden("estimators")
  dtype = {"f32": jnp.float32, "f64": jnp.float64}[precision]
  rtol = {"f32": 1e-6, "f64": 1e-12}[precision]
  x, g = (jnp.asarray(values[key], dtype) for key in ("x", "g"))
  out, vjp = jax.vjp(REFERENCE[name], x)
  # The reference's sign(0) is 0, a third value; here it is +1.
  keep = values["x"] != 0
  assert (~keep).sum() == 2
  if precision == "f32":  # XLA takes float32 denormals for zero
    denormal = keep & (np.abs(values["x"]) < np.finfo(np.float32).tiny)
    assert denormal.sum() == 4
    keep &= ~denormal
  np.testing.assert_allclose(
    out[keep], values[f"{name}/{precision}/out"][keep], rtol=rtol
  )
  np.testing.assert_allclose(
    vjp(g)[0], values[f"{name}/{precision}/grad"], rtol=rtol, atol=0
  )
