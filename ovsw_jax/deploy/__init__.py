"""Trained networks leave as bits.

`pack` turns a network into bits that multiply by exclusive or and popcount,
`save` and `load` keep it in one file. `docs/deploy.md` describes that file.
"""

from ovsw_jax.deploy._network import PackedNetwork as PackedNetwork
from ovsw_jax.deploy._network import Prediction as Prediction
from ovsw_jax.deploy._pack import pack as pack
