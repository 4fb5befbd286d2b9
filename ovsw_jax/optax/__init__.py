"""Gradient transformations for binary neural networks, in Optax's style."""

from ovsw_jax.optax._adaptive_gradient_scaling import AGSState as AGSState
from ovsw_jax.optax._adaptive_gradient_scaling import ags as ags
from ovsw_jax.optax._masks import binary_mask as binary_mask
from ovsw_jax.optax._masks import default_mask as default_mask
from ovsw_jax.optax._ovsw import ovsw as ovsw
from ovsw_jax.optax._project import project as project
from ovsw_jax.optax._readers import flip_ema as flip_ema
from ovsw_jax.optax._readers import flips as flips
from ovsw_jax.optax._readers import positive as positive
from ovsw_jax.optax._sign_flips import (
  CompactSignFlipsState as CompactSignFlipsState,
)
from ovsw_jax.optax._sign_flips import SignFlipsState as SignFlipsState
from ovsw_jax.optax._sign_flips import sign_flips as sign_flips
from ovsw_jax.optax._silence_aware_decay import (
  CompactSADState as CompactSADState,
)
from ovsw_jax.optax._silence_aware_decay import SADState as SADState
from ovsw_jax.optax._silence_aware_decay import sad as sad

__all__ = (
  "AGSState",
  "CompactSADState",
  "CompactSignFlipsState",
  "SADState",
  "SignFlipsState",
  "ags",
  "binary_mask",
  "default_mask",
  "flip_ema",
  "flips",
  "ovsw",
  "positive",
  "project",
  "sad",
  "sign_flips",
)
