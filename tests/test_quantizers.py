"""Quantizers: value = bits * scale, and what the scale is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import quantizers, sign

WEIGHT_QUANTIZERS = {
  "sign": quantizers.sign_weights(),
  "clipped": quantizers.sign_weights(sign.clipped_ste),
  "scaled": quantizers.scaled_sign_weights,
  "bireal": quantizers.scaled_sign(lambda w: abs(w) <= 1),
}


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
@pytest.mark.parametrize("shape", ((3, 3, 4, 6), (5, 2)))
def test_value_is_bits_times_scale(name, shape):
  latent = jax.random.normal(jax.random.key(0), shape)
  quantized = WEIGHT_QUANTIZERS[name](latent, 0.5)
  np.testing.assert_array_equal(jnp.abs(quantized.bits), 1)
  assert quantized.scale.shape == shape[-1:]
  np.testing.assert_array_equal(
    quantized.value, quantized.bits * quantized.scale
  )
  np.testing.assert_array_equal(quantized.bits, sign.hard_sign(latent))


def test_scaled_sign_passes_the_gradient_of_its_value_unchanged():
  latent = jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
  latent = latent.at[..., 0].set(0.0)
  g = jax.random.normal(jax.random.key(2), latent.shape)
  _, vjp = jax.vjp(lambda w: quantizers.scaled_sign_weights(w).value, latent)
  np.testing.assert_allclose(vjp(g)[0][..., 1:], g[..., 1:], rtol=1e-6)
  np.testing.assert_array_equal(vjp(g)[0][..., 0], 0)  # not NaN


@pytest.mark.parametrize(
  "scale", (quantizers.mean_magnitude, quantizers.standardized_magnitude)
)
def test_scales_carry_no_gradient(scale):
  latent = jax.random.normal(jax.random.key(3), (3, 3, 2, 4))
  gradient = jax.grad(lambda w: scale(w).sum())(latent)
  np.testing.assert_array_equal(gradient, 0)


def test_standardized_magnitude_does_not_see_scale_or_offset():
  latent = 10 * jax.random.normal(jax.random.key(4), (3, 3, 8, 4))
  scale = quantizers.standardized_magnitude(latent)
  np.testing.assert_allclose(
    quantizers.standardized_magnitude(7 * latent + 3), scale, rtol=1e-5
  )
  assert np.all((scale > 0.7) & (scale < 0.9))  # 0.798 for a Gaussian


def test_standardized_magnitude_of_the_reference(golden, x64):
  values = golden("conv")
  weight = jnp.asarray(values["get_scale/weight"], jnp.float64)
  np.testing.assert_allclose(
    quantizers.standardized_magnitude(weight.transpose(2, 3, 1, 0)),
    values["get_scale/f64"].ravel(),
    rtol=1e-12,
  )


def test_one_weight_a_filter_has_no_variance():
  with pytest.raises(ValueError, match=r"\(1, 1, 1, 4\).*output scale"):
    quantizers.standardized_magnitude(jnp.ones((1, 1, 1, 4)))


def test_normalization_moves_the_window_and_not_the_bits():
  x = 3 * jax.random.normal(jax.random.key(5), (4, 6, 6, 2))
  binarize = quantizers.sign_activations()
  plain = quantizers.sign_activations(normalize=False)
  np.testing.assert_array_equal(binarize(x, True, 0.0), plain(x, True, 0.0))

  def window(quantize, train):
    return jax.grad(lambda x: quantize(x, train, 0.0).sum())(x)

  deviation = jnp.sqrt(x.var((1, 2, 3), ddof=1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(
    window(binarize, True),
    jnp.maximum(0, 2 - 2 * jnp.abs(x / deviation)) / deviation,
    rtol=1e-5,
    atol=1e-6,
  )
  np.testing.assert_array_equal(window(binarize, False), window(plain, True))


def test_each_example_is_normalized_alone():
  x = jax.random.normal(jax.random.key(6), (4, 5, 5, 2))
  binarize = quantizers.sign_activations()
  gradient = jax.grad(lambda x: binarize(x, True, 0.0).sum())
  alone = jnp.concatenate([gradient(x[i : i + 1]) for i in range(4)])
  np.testing.assert_allclose(gradient(x), alone, rtol=1e-6)


def test_an_attached_deviation_takes_out_the_gradient_along_x():
  x = jax.random.normal(jax.random.key(7), (3, 4, 4, 2))
  weights = jax.random.normal(jax.random.key(8), x.shape)

  def along_x(quantize):
    loss = lambda x: (quantize(x, True, 0.0) * weights).sum()
    return (jax.grad(loss)(x) * x).sum((1, 2, 3))

  # x / deviation is the same for 2x, but for the 1e-5 under the root.
  attached = quantizers.sign_activations(detach=False)
  np.testing.assert_allclose(along_x(attached), 0, atol=1e-3)
  assert np.abs(along_x(quantizers.sign_activations())).min() > 1e-2


def test_standardized_activations_see_neither_scale_nor_offset():
  x = jax.random.normal(jax.random.key(9), (3, 4, 4, 2))
  binarize = quantizers.standardized_sign_activations()
  bits = binarize(x, False, 0.0)
  np.testing.assert_array_equal(
    bits, sign.hard_sign(x - x.mean((1, 2, 3), keepdims=True))
  )
  np.testing.assert_array_equal(bits, binarize(5 * x + 7, True, 0.0))


def test_standardized_weights():
  latent = 3 + 5 * jax.random.normal(jax.random.key(10), (3, 3, 4, 6))
  z = quantizers.standardized(latent, epsilon=0.0)
  np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(z.var((0, 1, 2), ddof=1), 1, rtol=1e-4)
  # Neither scale nor offset of a filter gets any gradient.
  weights = jax.random.normal(jax.random.key(11), latent.shape)
  loss = lambda w: (quantizers.standardized(w, epsilon=0.0) * weights).sum()
  gradient = jax.grad(loss)(latent)
  np.testing.assert_allclose(gradient.sum((0, 1, 2)), 0, atol=1e-4)
  np.testing.assert_allclose((gradient * z).sum((0, 1, 2)), 0, atol=1e-4)


@pytest.mark.parametrize(
  ("draw", "shift"), [(jax.random.normal, 0), (jax.random.cauchy, -1)]
)
def test_libra_scale_is_an_exact_power_of_two(draw, shift):
  latent = draw(jax.random.key(12), (3, 3, 64, 8))
  _, scale = quantizers.libra_weights()(latent, 0.0)
  exponents = np.log2(np.asarray(scale, np.float64))
  np.testing.assert_array_equal(exponents, np.round(exponents))
  assert np.all(exponents <= shift)


def test_libra_weights_of_equal_weights_need_epsilon():
  latent = jnp.full((3, 3, 4, 2), 0.5)
  safe = quantizers.libra_weights(epsilon=1e-5)
  gradient = jax.grad(lambda w: safe(w, 0.0).bits.sum())(latent)
  assert np.all(np.isfinite(gradient))
  unsafe = quantizers.libra_weights()
  gradient = jax.grad(lambda w: unsafe(w, 0.0).bits.sum())(latent)
  assert np.all(np.isnan(gradient))  # as documented, and as in the authors'


# (epoch of 600, tau) by the authors' formula, in decimals.
TAU = [(0, 0.85), (150, 0.87314), (300, 0.902855), (450, 0.941011), (600, 0.99)]


def test_tau_is_the_published_schedule():
  schedule = quantizers.tau_schedule()
  for epoch, tau in TAU:
    np.testing.assert_allclose(schedule(epoch / 600), tau, atol=1e-5)


@pytest.mark.parametrize("tau", (0.85, 0.95, 0.99))
def test_clamp_is_a_quantile_of_laplace_and_keeps_the_bits(tau):
  latent = jax.random.laplace(jax.random.key(13), (100_000, 2))
  weights = jax.random.normal(jax.random.key(14), latent.shape)
  _, vjp = jax.vjp(
    lambda w: quantizers.clamped_weights(tau)(w, 0.0).bits, latent
  )
  bits, _ = quantizers.clamped_weights(tau)(latent, 0.0)
  np.testing.assert_array_equal(bits, sign.hard_sign(latent - latent.mean(0)))
  # A weight outside gets what standardization gives: a line in z.
  gradient, z = vjp(weights)[0][:, 0], quantizers.standardized(latent)[:, 0]
  through, constant = np.polyfit(
    *(np.asarray(v)[np.abs(z) > 4] for v in (z, gradient)), 1
  )
  rest = np.abs(gradient - through * z - constant)
  outside = (rest < 1e-4).mean()
  np.testing.assert_allclose(outside, 2 * (1 - tau), rtol=0.06)


def test_tau_out_of_range():
  for low, high in ((0.4, 0.9), (0.9, 0.8), (0.9, 1.0)):
    with pytest.raises(ValueError, match=rf"tau_min={low} .*tau_max={high}"):
      quantizers.tau_schedule(low, high)


def orthogonal(seed, side):
  key = jax.random.key(seed)
  return jnp.linalg.qr(jax.random.normal(key, (side, side)))[0]


@pytest.mark.parametrize("shape", ((3, 3, 8, 5), (1, 1, 6, 4), (24, 7)))
def test_rotations_keep_norms_and_fit_better_every_round(shape, x64):
  latent = jax.random.normal(jax.random.key(15), shape)
  a, b = quantizers.rotation_sides(latent.size // shape[-1])
  r1, r2 = orthogonal(16, a), orthogonal(17, b)

  def fit(r1, r2):
    rotated = quantizers.rotate(latent, r1, r2)
    norm = jnp.linalg.norm(rotated.reshape(-1, shape[-1]), axis=0)
    np.testing.assert_allclose(
      norm, jnp.linalg.norm(latent.reshape(-1, shape[-1]), axis=0)
    )
    return jnp.abs(rotated).sum()

  fits = [fit(r1, r2)]
  for _ in range(4):
    r1, r2 = quantizers.fit_rotations(latent, r1, r2, rounds=1)
    for r in (r1, r2):
      np.testing.assert_allclose(r @ r.T, jnp.eye(len(r)), atol=1e-12)
    fits.append(fit(r1, r2))
  assert np.all(np.diff(fits) > -1e-9) and fits[-1] > 1.02 * fits[0]


def test_no_rotation_is_the_identity():
  latent = jax.random.normal(jax.random.key(18), (3, 3, 8, 5))
  a, b = quantizers.rotation_sides(72)
  np.testing.assert_allclose(
    quantizers.rotate(latent, jnp.eye(a), jnp.eye(b)), latent, rtol=1e-6
  )


def test_a_constant_example_stays_finite():
  binarize = quantizers.sign_activations()
  x = jnp.full((2, 3, 3, 1), 0.5)
  gradient = jax.grad(lambda x: binarize(x, True, 0.0).sum())(x)
  assert np.all(np.isfinite(gradient))
