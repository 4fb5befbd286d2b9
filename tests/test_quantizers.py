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


def test_a_constant_example_stays_finite():
  binarize = quantizers.sign_activations()
  x = jnp.full((2, 3, 3, 1), 0.5)
  gradient = jax.grad(lambda x: binarize(x, True, 0.0).sum())(x)
  assert np.all(np.isfinite(gradient))
