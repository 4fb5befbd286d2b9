"""Flax (linen) layers of binary networks.

Binary layers hold their real-valued weights in a parameter named `latent`, by
which the optimizer transforms find them. Quantizers with parameters of their
own (`RSign`, `RotatedWeights`, ...) go as classes into the slots of the binary
layers. The other layers differ from Flax's own only where the published
networks need it.
"""

from ovsw_jax.nn._activations import Hardtanh as Hardtanh
from ovsw_jax.nn._activations import Identity as Identity
from ovsw_jax.nn._activations import PReLU as PReLU
from ovsw_jax.nn._activations import ReLU as ReLU
from ovsw_jax.nn._activations import RPReLU as RPReLU
from ovsw_jax.nn._activations import hardtanh as hardtanh
from ovsw_jax.nn._bilinear import BilinearWeights as BilinearWeights
from ovsw_jax.nn._binary import BinaryConv as BinaryConv
from ovsw_jax.nn._binary import BinaryDense as BinaryDense
from ovsw_jax.nn._geometry import conv_geometry as conv_geometry
from ovsw_jax.nn._initializers import he_normal as he_normal
from ovsw_jax.nn._initializers import torch_uniform as torch_uniform
from ovsw_jax.nn._pooling import max_pool as max_pool
from ovsw_jax.nn._real import BatchNorm as BatchNorm
from ovsw_jax.nn._real import Dense as Dense
from ovsw_jax.nn._real import RealConv as RealConv
from ovsw_jax.nn._rotated import ROTATIONS as ROTATIONS
from ovsw_jax.nn._rotated import RotatedWeights as RotatedWeights
from ovsw_jax.nn._self_distribution import (
  SelfDistributionActivations as SelfDistributionActivations,
)
from ovsw_jax.nn._self_distribution import (
  SelfDistributionWeights as SelfDistributionWeights,
)
from ovsw_jax.nn._shifted import RSign as RSign
