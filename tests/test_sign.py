"""Sign estimators: properties, then the reference's values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import quantizers, sign

ESTIMATORS = {
  "ste": sign.ste,
  "clipped_ste": sign.clipped_ste,
  "clipped_ste_closed": sign.clipped_ste_closed,
  "approx": sign.approx,
  "magnitude_gated": sign.magnitude_gated(),
  "ede": sign.ede(10.0, 0.1),
  "rbnn": sign.rbnn(1, 2),
  "swish": sign.swish(5),
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
  np.testing.assert_allclose(mapped, one_by_one, rtol=1e-5)
  _, scanned = jax.lax.scan(lambda c, row: (c, factor(estimator, row)), 0, x)
  np.testing.assert_allclose(scanned, one_by_one, rtol=1e-5)


def test_factors():
  x = jnp.array([-3.0, -1.0, -0.75, 0.0, 0.25, 1.0, 2.0])
  np.testing.assert_array_equal(factor(sign.ste, x), 1)
  np.testing.assert_array_equal(
    factor(sign.clipped_ste, x), [0, 0, 1, 1, 1, 0, 0]
  )
  np.testing.assert_array_equal(
    factor(sign.clipped_ste_closed, x), [0, 1, 1, 1, 1, 1, 0]
  )
  np.testing.assert_array_equal(
    factor(sign.approx, x), [0, 0, 0.5, 2, 1.5, 0, 0]
  )


SHARPNESS = ((1.0, 2.0), (10.0, 0.1), (1000.0, 1e-3), (1.0, 10.0))


@pytest.mark.parametrize(("k", "t"), SHARPNESS)
def test_factors_with_parameters(k, t, x64):
  x = np.linspace(-3, 3, 61)
  np.testing.assert_allclose(
    factor(sign.ede(k, t), jnp.asarray(x)),
    k * t / np.cosh(t * x) ** 2,
    atol=1e-12,
  )
  np.testing.assert_allclose(
    factor(sign.rbnn(k, t), jnp.asarray(x)),
    np.maximum(0, k * (2 * np.sqrt(t**2 / 2) - np.abs(t**2 * x))),
    atol=1e-14,
  )


def test_approx_is_a_member_of_rbnn(x64):
  x = jax.random.normal(jax.random.key(3), (100,))
  np.testing.assert_allclose(
    factor(sign.rbnn(1.0, 2**0.5), x), factor(sign.approx, x), atol=1e-14
  )


def test_swish_is_the_derivative_of_sign_swish(x64):
  beta = 5.0

  def sign_swish(x):
    s = jax.nn.sigmoid(beta * x)
    return (2 * s * (1 + beta * x * (1 - s)) - 1).sum()

  x = jnp.linspace(-2, 2, 41)
  np.testing.assert_allclose(
    factor(sign.swish(beta), x), jax.grad(sign_swish)(x), atol=1e-13
  )
  far = jnp.array([-1e4, 1e4])
  np.testing.assert_array_equal(factor(sign.swish(beta), far), 0)  # not NaN


@pytest.mark.parametrize(
  ("estimator", "area"),
  [
    (sign.clipped_ste, 2),
    (sign.approx, 2),
    (sign.swish(4.0), 2),
    (sign.ede(3.0, 2.0), 6),
    (sign.rbnn(3.0, 2.0), 6),
  ],
)
def test_area_is_that_of_a_step_of_height_two(estimator, area, x64):
  x = jnp.linspace(-20, 20, 400_001)
  np.testing.assert_allclose(
    jax.scipy.integrate.trapezoid(factor(estimator, x), x), area, rtol=1e-4
  )


@pytest.mark.parametrize("build", (sign.ede, sign.rbnn))
def test_one_compilation_serves_all_of_a_schedule(build):
  schedule = sign.annealing(1e-3, 10.0)
  traces = 0

  @jax.jit
  def gradient(x, progress):
    nonlocal traces
    traces += 1
    return factor(build(*schedule(progress)), x)

  x = jnp.array([0.3, -0.8])
  for progress in (0.0, 0.5, 1.0):
    np.testing.assert_allclose(
      gradient(x, progress),
      factor(build(*schedule(progress)), x),
      rtol=1e-5,
      atol=1e-6,
    )
  assert traces == 1


def test_parameters_of_the_derivative_have_no_gradient():
  gradient = jax.grad(
    lambda p, x: sign.ede(*sign.annealing(0.1)(p))(x).sum(), (0, 1)
  )(0.3, jnp.ones(3))
  assert gradient[0] == 0 and np.all(gradient[1] > 0)


# (epoch of 400, t, k) as the authors' loop sets them before that epoch.
SCHEDULES = {
  1e-3: [
    (0, 0.001, 1000),
    (100, 0.01, 100),
    (200, 0.1, 10),
    (300, 1, 1),
    (399, 9.772, 1),
  ],
  1e-1: [
    (0, 0.1, 10),
    (100, 0.31623, 3.1623),
    (200, 1, 1),
    (300, 3.1623, 1),
    (399, 9.886, 1),
  ],
}


@pytest.mark.parametrize("t_min", SCHEDULES)
def test_annealing_is_the_published_schedule(t_min):
  schedule = sign.annealing(t_min, 10.0)
  for epoch, t, k in SCHEDULES[t_min]:
    np.testing.assert_allclose(schedule(epoch / 400), (k, t), rtol=1e-4)


def test_annealing_refuses_what_is_no_range():
  for t_min, t_max in ((0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)):
    with pytest.raises(ValueError, match=rf"t_min={t_min} .*t_max={t_max}"):
      sign.annealing(t_min, t_max)


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
