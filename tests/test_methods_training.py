"""Every method trains: a few steps of two layers, with all that it asks for.

The step in `two_layers.py` is the whole of what a trainer must do for a method.
"""

import math

import jax
import numpy as np
import pytest

from ovsw_jax import methods
from tests.test_methods_invariants import IMAGES, LABELS, LAYERS, make
from tests.two_layers import train

TRAINED = [
  *((name, {}) for name in LAYERS),
  ("rbnn", {"beta_init": math.pi / 4}),
  ("rbonn", {"variant": "paper"}),
  ("irnet+ovsw", {}),
]


@pytest.mark.parametrize(("name", "arguments"), TRAINED)
def test_training_lowers_the_loss(name, arguments):
  losses, variables = train(
    make(name, **arguments), IMAGES, LABELS, steps=24, epoch=8
  )
  assert np.isfinite(losses).all()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
  assert min(losses[-4:]) < 0.9 * losses[0]


def test_the_first_stage_trains():
  method = methods.real_weights(make("reactnet"))
  losses, _ = train(method, IMAGES, LABELS, steps=24)
  assert min(losses[-4:]) < 0.9 * losses[0]
