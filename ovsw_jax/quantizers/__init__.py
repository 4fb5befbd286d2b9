"""Quantizers: latent weight -> bits * scale, activation -> +1 or -1.

A *weight quantizer* is a function ``(latent, progress) -> Quantized``; an
*activation quantizer* a function ``(x, train, progress) -> bits``; an *output
scale* a function ``latent -> (out,)``. `progress` in [0, 1] is the share of
training that is done, a traced scalar; quantizers without a schedule ignore it,
and `scheduled` makes one that follows a schedule. Latent weights carry their
output channel on the last axis: (height, width, in, out) for convolutions, (in,
out) for dense layers.

Quantizers with parameters of their own are Flax modules: see `ovsw_jax.nn`.
"""

from ovsw_jax.quantizers._activations import (
  sign_activations as sign_activations,
)
from ovsw_jax.quantizers._activations import (
  standardized_sign_activations as standardized_sign_activations,
)
from ovsw_jax.quantizers._clamp import clamped_weights as clamped_weights
from ovsw_jax.quantizers._clamp import tau_schedule as tau_schedule
from ovsw_jax.quantizers._libra import libra_weights as libra_weights
from ovsw_jax.quantizers._quantized import (
  ActivationQuantizer as ActivationQuantizer,
)
from ovsw_jax.quantizers._quantized import OutputScale as OutputScale
from ovsw_jax.quantizers._quantized import Quantized as Quantized
from ovsw_jax.quantizers._quantized import WeightQuantizer as WeightQuantizer
from ovsw_jax.quantizers._quantized import scheduled as scheduled
from ovsw_jax.quantizers._rotation import fit_rotations as fit_rotations
from ovsw_jax.quantizers._rotation import rotate as rotate
from ovsw_jax.quantizers._rotation import rotation_sides as rotation_sides
from ovsw_jax.quantizers._scales import mean_magnitude as mean_magnitude
from ovsw_jax.quantizers._scales import standardized as standardized
from ovsw_jax.quantizers._scales import (
  standardized_magnitude as standardized_magnitude,
)
from ovsw_jax.quantizers._weights import real_weights as real_weights
from ovsw_jax.quantizers._weights import scaled_sign as scaled_sign
from ovsw_jax.quantizers._weights import (
  scaled_sign_weights as scaled_sign_weights,
)
from ovsw_jax.quantizers._weights import sign_weights as sign_weights
