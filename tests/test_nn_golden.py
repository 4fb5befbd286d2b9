"""`BinaryConv` against the authors' layer, forward and backward, in float64.

The golden inputs and kernels hold exact zeros, whose sign is 0 there and +1
here. What such a zero reaches is left out by rule: the masks below mark it,
and the test asserts how many entries stay.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import nn, quantizers, sign

WEIGHTS = {
  "ste": quantizers.sign_weights(),
  "ste_v2": quantizers.scaled_sign_weights,
  "hardtanh": quantizers.sign_weights(sign.clipped_ste),
  "hardtanhv2": quantizers.sign_weights(sign.magnitude_gated()),
}


def nhwc(x):
  return jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float64)


def hwio(w):
  return jnp.asarray(w.transpose(2, 3, 1, 0), jnp.float64)


def reached_by_zeros(x, w, stride):
  """Masks of the entries of y, dL/dx and dL/dw that a zero takes part in."""
  pad = w.shape[0] // 2

  def conv(x, w):
    return jax.lax.conv_general_dilated(
      x,
      w,
      (stride, stride),
      ((pad, pad), (pad, pad)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  zero_x, zero_w = (x == 0).astype(x.dtype), (w == 0).astype(w.dtype)
  y, vjp = jax.vjp(conv, zero_x, zero_w)
  to_x, to_w = vjp(jnp.ones_like(y))
  y = conv(zero_x, jnp.ones_like(w)) + conv(jnp.ones_like(x), zero_w)
  return y > 0, to_x > 0, to_w > 0


def compare(ours, reference, reached, kept):
  assert (~reached).sum() == kept
  np.testing.assert_allclose(
    ours[~reached], reference[~reached], rtol=1e-10, atol=1e-12
  )


KEPT = {  # size, stride: entries of y, dL/dx, dL/dw that no zero reaches
  (1, 1): (568, 288, 5),
  (1, 2): (140, 396, 10),
  (3, 1): (569, 327, 85),
  (3, 2): (147, 414, 120),
}


@pytest.mark.parametrize("size", (1, 3))
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("scale", ("computed", "learned"))
def test_reference(size, stride, weights, scale, golden, x64):
  values = golden("conv")
  x, latent = nhwc(values["x"]), hwio(values[f"k{size}/weight"])
  assert ((x == 0).sum(), (latent == 0).sum()) == (2, 1)
  reached = reached_by_zeros(x, latent, stride)
  learned = scale == "learned"
  params = {"latent": latent}
  if learned:
    params["output_scale"] = jnp.asarray(
      values[f"k{size}/scaling_factor_init_f64"]
    )
  layer = nn.BinaryConv(
    features=5,
    kernel_size=size,
    strides=stride,
    weight_quantizer=WEIGHTS[weights],
    output_scale="learned" if learned else quantizers.standardized_magnitude,
    dtype=jnp.float64,
  )
  cotangent = nhwc(values[f"k{size}/s{stride}/g"])
  for mode in ("train", "eval"):
    prefix = f"k{size}/s{stride}/sf{int(learned)}/{weights}/{mode}/f64"
    reference = {
      "y": nhwc(values[f"{prefix}/y"]),
      "gx": nhwc(values[f"{prefix}/gx"]),
      "gw": hwio(values[f"{prefix}/gw"]),
    }
    y, vjp = jax.vjp(
      lambda p, x, train=mode == "train": layer.apply({"params": p}, x, train),
      params,
      x,
    )
    gradients, gx = vjp(cotangent)
    kept = KEPT[size, stride]
    compare(y, reference["y"], reached[0], kept[0])
    compare(gx, reference["gx"], reached[1], kept[1])
    compare(gradients["latent"], reference["gw"], reached[2], kept[2])
    if learned:
      # dL/ds sums over every output; what the zeros add is known from y.
      added = (cotangent * (y - reference["y"])).sum((0, 1, 2))
      np.testing.assert_allclose(
        gradients["output_scale"] - added / params["output_scale"],
        values[f"{prefix}/gsf"].ravel(),
        rtol=1e-10,
      )


@pytest.mark.parametrize("stride", (1, 2))
def test_reference_with_bias_and_odd_sizes(stride, golden, x64):
  values = golden("conv")
  x = nhwc(values["x"][:, :, :7, :5])
  params = {
    "latent": hwio(values["k3/weight"]),
    "bias": jnp.asarray(values["odd_bias/bias"], jnp.float64),
  }
  layer = nn.BinaryConv(
    features=5, kernel_size=3, strides=stride, use_bias=True, dtype=jnp.float64
  )
  reached = reached_by_zeros(x, params["latent"], stride)
  y, vjp = jax.vjp(lambda p, x: layer.apply({"params": p}, x, True), params, x)
  gradients, gx = vjp(jnp.ones_like(y))
  prefix = f"odd_bias/s{stride}/f64"
  kept = {1: (407, 243, 85), 2: (147, 297, 120)}[stride]
  compare(y, nhwc(values[f"{prefix}/y"]), reached[0], kept[0])
  compare(gx, nhwc(values[f"{prefix}/gx"]), reached[1], kept[1])
  compare(
    gradients["latent"], hwio(values[f"{prefix}/gw"]), reached[2], kept[2]
  )
  np.testing.assert_allclose(
    gradients["bias"], values[f"{prefix}/gb"], rtol=1e-10
  )


def test_reference_on_an_input_without_variance(golden):
  values = golden("conv")
  x = jnp.asarray(values["constx/x"].transpose(0, 2, 3, 1), jnp.float32)
  latent = jnp.asarray(values["k3/weight"].transpose(2, 3, 1, 0))
  assert ((x == 0).sum(), (latent == 0).sum()) == (0, 1)
  layer = nn.BinaryConv(features=5, kernel_size=3)
  y, vjp = jax.vjp(
    lambda w, x: layer.apply({"params": {"latent": w}}, x, True), latent, x
  )
  gw, gx = vjp(jnp.ones_like(y))
  filters = ~np.asarray((latent == 0).any((0, 1, 2)))
  channels = ~np.asarray((latent == 0).any((0, 1, 3)))
  assert filters.sum() == 4 and channels.sum() == 2
  np.testing.assert_allclose(
    y[..., filters],
    values["constx/y"].transpose(0, 2, 3, 1)[..., filters],
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    gx[..., channels],
    values["constx/gx"].transpose(0, 2, 3, 1)[..., channels],
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    gw, values["constx/gw"].transpose(2, 3, 1, 0), rtol=1e-4
  )
