"""Trained networks leave as bits.

`pack` turns a network into bits that multiply by exclusive or and popcount,
`save` and `load` keep it in one file, which `docs/deploy.md` describes.
`to_stablehlo` and `to_onnx` make programs of it that run elsewhere. `export`
goes from a trained network to a file, `predict` from a file to classes.
"""

from ovsw_jax.deploy._artifact import load as load
from ovsw_jax.deploy._artifact import save as save
from ovsw_jax.deploy._export import FORMATS as FORMATS
from ovsw_jax.deploy._export import export as export
from ovsw_jax.deploy._export import predict as predict
from ovsw_jax.deploy._export import to_onnx as to_onnx
from ovsw_jax.deploy._export import to_stablehlo as to_stablehlo
from ovsw_jax.deploy._network import PackedNetwork as PackedNetwork
from ovsw_jax.deploy._network import Prediction as Prediction
from ovsw_jax.deploy._pack import pack as pack
