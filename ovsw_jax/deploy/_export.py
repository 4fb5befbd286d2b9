"""A packed network as a program that runs without this package."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import export as jax_export

from ovsw_jax import data
from ovsw_jax.deploy import _artifact
from ovsw_jax.deploy._network import PackedNetwork, Prediction
from ovsw_jax.deploy._pack import pack
from ovsw_jax.nn import _pooling

FORMATS = ("packed", "stablehlo", "onnx")
"""The formats that `export` writes."""

Format = Literal["packed", "stablehlo", "onnx"]
PLATFORMS = ("cpu", "cuda", "tpu")


_AVG_POOL = linen.avg_pool  # as it is before a converter comes


def _max_pool(
  x: jax.Array, window_shape: Any, strides: Any, padding: Any = ((0, 0), (0, 0))
) -> jax.Array:
  """`linen.max_pool` as the maximum of shifted images."""
  parts = _pooling.taps(x, window_shape, strides, padding)
  return functools.reduce(jnp.maximum, parts)


def _program(network: PackedNetwork, *, real: bool = False) -> Any:
  """The function from uint8 images to logits, its arrays constants."""
  channels = network.image_shape[-1]
  mean = network.metadata.get("mean", [0.0] * channels)
  std = network.metadata.get("std", [1.0] * channels)
  module = network.description.module(real=real)

  def program(images: jax.Array) -> jax.Array:
    return module.apply(network.variables, data.normalize(images, mean, std))

  return program


def to_stablehlo(
  network: PackedNetwork, *, platforms: Sequence[str] = PLATFORMS
) -> bytes:
  """The network as serialized StableHLO.

  ``jax.export.deserialize(content).call(images)`` runs it: uint8 images (batch,
  height, width, channels) of any batch to float32 logits. That needs jax alone.

  Args:
    network: from `pack` or `load`.
    platforms: that it can run on.

  Examples:
    >>> import tempfile, jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> net = ovsw.models.ResNet((1,), (8,), num_classes=2)
    >>> images = jnp.ones((1, 8, 8, 1))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), images)
    >>> variables = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    >>> packed = ovsw.deploy.pack(net, variables, image_shape=(8, 8, 1))
    >>> content = ovsw.deploy.to_stablehlo(packed, platforms=["cpu"])
    >>> jax.export.deserialize(content).in_avals[0].dtype
    dtype('uint8')
  """
  shape = jax_export.symbolic_shape(
    ", ".join(["batch", *map(str, network.image_shape)])
  )
  program = jax.jit(_program(network))
  exported = jax_export.export(program, platforms=tuple(platforms))(
    jax.ShapeDtypeStruct(shape, jnp.uint8)
  )
  return bytes(exported.serialize())


def to_onnx(network: PackedNetwork) -> bytes:
  """The network as ONNX, whose convolutions are of +1 and -1 as float32.

  Input "images", uint8 (batch, height, width, channels); output "logits",
  float32. ONNX has no operation that counts bits, so that nothing is gained in
  speed; kernels are stored as int8.

  Args:
    network: from `pack` or `load`.

  Raises:
    ImportError: jax2onnx is not installed, or not made for the jax that is;
      jax 0.11 is too new for jax2onnx 0.13.0, and 0.12 for its 0.17.1.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> packed = ovsw.deploy.load("net.safetensors")  # doctest: +SKIP
    >>> content = ovsw.deploy.to_onnx(packed)  # doctest: +SKIP
  """
  try:
    import jax2onnx  # pyrefly: ignore[missing-import]
  except ImportError as error:
    raise ImportError(
      f'ONNX needs jax2onnx ({error}): pip install "ovsw_jax[onnx]"'
    ) from error
  program = _program(network, real=True)

  def traced(images: jax.Array) -> jax.Array:
    # The converter puts its own pooling in the place of Flax's, which takes
    # other arguments. Of Flax's average it converts what that is made of, but
    # its maximum over padded windows comes out wrong (jax2onnx 0.17.1).
    with mock.patch.multiple(linen, avg_pool=_AVG_POOL, max_pool=_max_pool):
      return program(images)

  try:
    model = jax2onnx.to_onnx(
      traced,
      inputs=[jax.ShapeDtypeStruct(("B", *network.image_shape), jnp.uint8)],
      model_name="ovsw_jax",
      input_names=["images"],
      output_names=["logits"],
    )
  except (AttributeError, TypeError) as error:  # It uses jax's inner parts.
    raise ImportError(
      f"jax2onnx does not fit jax {jax.__version__} ({error}); export in an"
      ' environment with pip install "ovsw_jax[onnx]" "jax<0.11", which reads'
      " the packed file or the run's checkpoint, or use StableHLO."
    ) from error
  return model.SerializeToString()


def export(
  model: linen.Module,
  variables: Mapping[str, Any],
  path: str | os.PathLike,
  *,
  format: Format = "packed",
  image_shape: tuple[int, int, int] | None = None,
  metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Packs a trained network and writes it to a file.

  Args:
    model: as for `pack`.
    variables: as for `pack`.
    path: the file, replaced whole or not at all.
    format: "packed", see `save`; "stablehlo", see `to_stablehlo`; or "onnx",
      see `to_onnx`. The latter two are programs, without the metadata.
    image_shape: as for `pack`.
    metadata: as for `pack`.

  Returns:
    "format", "path", "bytes" of the file, and "notes", see `PackedNetwork`.

  Raises:
    ImportError: what the format needs is not installed.
    ValueError: an unknown format, or a network that cannot be packed.

  Examples:
    >>> import tempfile, jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> net = ovsw.models.ResNet((1,), (8,), num_classes=2)
    >>> images = jnp.ones((1, 8, 8, 1))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), images)
    >>> variables = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    >>> path = f"{tempfile.mkdtemp()}/net.safetensors"
    >>> told = ovsw.deploy.export(net, variables, path, image_shape=(8, 8, 1))
    >>> told["format"], told["notes"]
    ('packed', [])
  """
  if format not in FORMATS:
    raise ValueError(f"format={format!r} is not one of {', '.join(FORMATS)}.")
  path = pathlib.Path(path)
  network = pack(model, variables, image_shape=image_shape, metadata=metadata)
  if format == "packed":
    _artifact.save(path, network)
  else:
    make = to_stablehlo if format == "stablehlo" else to_onnx
    content = make(network)
    temporary = path.with_name(path.name + ".writing")
    temporary.write_bytes(content)
    os.replace(temporary, path)
  return {
    "format": format,
    "path": str(path),
    "bytes": path.stat().st_size,
    "notes": network.notes,
  }


def predict(
  path: str | os.PathLike,
  images: np.ndarray | Sequence[str | os.PathLike],
  *,
  top: int = 5,
) -> Prediction:
  """`load(path).predict(images)`: the likeliest classes of some images.

  Args:
    path: a file that `save`, or `export` as "packed", wrote.
    images: paths of image files, or uint8 images.
    top: how many classes of each image.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a file is not what it should be; named.

  Examples:
    >>> import tempfile, jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> net = ovsw.models.ResNet((1,), (8,), num_classes=2)
    >>> images = jnp.ones((1, 8, 8, 1))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), images)
    >>> variables = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    >>> path = f"{tempfile.mkdtemp()}/net.safetensors"
    >>> _ = ovsw.deploy.export(net, variables, path, image_shape=(8, 8, 1))
    >>> grey = jnp.full((1, 8, 8, 1), 127, jnp.uint8)
    >>> ovsw.deploy.predict(path, grey, top=2).probabilities.tolist()
    [[0.5, 0.5]]
  """
  return _artifact.load(path).predict(images, top=top)
