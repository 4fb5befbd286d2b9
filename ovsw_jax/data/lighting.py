"""AlexNet's lighting: one random shift of colour for each image."""

import jax
import jax.numpy as jnp

# Of ImageNet's colours on the [0, 1] scale: eigenvalues, and eigenvectors as
# columns, rows red, green, blue.
_VALUES = (0.2175, 0.0188, 0.0045)
_VECTORS = (
  (-0.5675, 0.7192, 0.4009),
  (-0.5808, -0.0045, -0.8140),
  (-0.5836, -0.6948, 0.4203),
)
# By variant, the direction of each eigenvalue: those of the OvSW authors are
# rows of a matrix whose columns are in reverse, so that the strongest is a tint
# (0.40, 0.72, -0.57) instead of grey.
_DIRECTIONS = {
  "alexnet": tuple(zip(*_VECTORS, strict=True)),
  "ovsw": tuple(row[::-1] for row in _VECTORS),
}
_DIRECTIONS["uint8"] = _DIRECTIONS["alexnet"]
LIGHTINGS = tuple(_DIRECTIONS)
"""The variants that `lighting` knows."""

_STRENGTH = 0.1  # standard deviation of the factors of the eigenvalues


def lighting(images: jax.Array, key: jax.Array, variant: str) -> jax.Array:
  """Shifts the colour of each image by random multiples of fixed directions.

  An image draws three factors, normal with deviation 0.1, one for each
  eigenvalue of ImageNet's colours; the shift is the same for all of its pixels
  and nothing is clipped. It runs on the device, where it costs a sum, and
  images travel there as bytes.

  Args:
    images: uint8 `(n, h, w, 3)`.
    key: a typed key for this batch.
    variant: one of

      - `"alexnet"`: as Krizhevsky et al. describe it;
      - `"ovsw"`: as in the OvSW authors' code, a tint rather than brightness;
      - `"uint8"`: as in the code of ReActNet and its descendants, which adds
        the shift for the [0, 1] scale to bytes and cuts off the fraction: a
        channel keeps its values or loses one level.

  Returns:
    float32 `(n, h, w, 3)`, on the scale of bytes.

  Raises:
    ValueError: another variant, or images without three channels.

  References:
    Krizhevsky et al., `ImageNet Classification with Deep Convolutional Neural
    Networks <https://dl.acm.org/doi/10.1145/3065386>`_, NeurIPS 2012, 4.1.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import data
    >>> images = jnp.zeros((2, 4, 4, 3), jnp.uint8)
    >>> data.lighting(images, jax.random.key(0), "alexnet").shape
    (2, 4, 4, 3)
  """
  if variant not in LIGHTINGS:
    raise ValueError(
      f"unknown lighting {variant!r}: choose one of {', '.join(LIGHTINGS)}"
    )
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(f"images must be (n, h, w, 3), got shape {images.shape}")
  factors = jax.random.normal(key, (len(images), 3), jnp.float32)
  scaled = _STRENGTH * factors * jnp.asarray(_VALUES, jnp.float32)
  # Written out: a matrix product may be of lower precision on an accelerator.
  directions = jnp.asarray(_DIRECTIONS[variant], jnp.float32)
  shift = jnp.sum(scaled[:, :, None] * directions, axis=1)[:, None, None, :]
  if variant == "uint8":
    return jnp.trunc(images + shift)
  return images + 255 * shift
