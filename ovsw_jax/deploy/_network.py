"""A packed network: what it is, what it computes, what it makes of images."""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors, linen, traverse_util

from ovsw_jax import data
from ovsw_jax.deploy import _layers
from ovsw_jax.deploy._describe import Description

_MOST_PIXELS = 4096  # along a side


class Prediction(NamedTuple):
  """The likeliest classes of each image, the likeliest first.

  Examples:
    >>> import numpy as np
    >>> from ovsw_jax import deploy
    >>> found = deploy.Prediction(
    ...   [["cat", "dog"]], np.array([[3, 5]]), np.array([[0.9, 0.1]])
    ... )
    >>> found.classes[0][0]
    'cat'
  """

  classes: list[list[str]]
  labels: np.ndarray  # int32 (images, top): their numbers
  probabilities: np.ndarray  # float32 (images, top)


# Identity, not equality of arrays, compares two networks.
@dataclasses.dataclass(frozen=True, eq=False)
class PackedNetwork:
  """A network of packed bits, ready to run or to be saved.

  Call it with normalized images, float32 (batch, height, width, channels), for
  logits, float32 (batch, classes). `predict` takes images as they are stored.

  Attributes:
    description: the architecture, as plain values.
    variables: "params" alone: words of bits, affines, thresholds, and the real
      layers at both ends.
    image_shape: (height, width, channels) that it was trained on.
    metadata: plain values. Read here are "classes", the names; "mean" and
      "std", of each channel on the scale from 0 to 1; "resize", to what the
      shorter side of a larger or smaller image is scaled before the centre is
      cut out. The rest ("accuracy", "provenance", ...) is carried along.

  Raises:
    ValueError: if the metadata read here does not fit the network.

  Examples:
    >>> import tempfile, jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> net = ovsw.models.ResNet((1,), (8,), num_classes=2)
    >>> images = jnp.ones((1, 8, 8, 1))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), images)
    >>> variables = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    >>> packed = ovsw.deploy.pack(net, variables, image_shape=(8, 8, 1))
    >>> packed(images).shape, packed.classes
    ((1, 2), ['0', '1'])
  """

  description: Description
  variables: dict[str, Any]
  image_shape: tuple[int, int, int]
  metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    shape = self.image_shape
    if len(shape) != 3 or any(
      type(n) is not int or not 0 < n <= _MOST_PIXELS for n in shape
    ):
      raise ValueError(
        f"image_shape={str(shape)[:80]} is no (height, width, channels) of at "
        f"most {_MOST_PIXELS} each."
      )
    channels = shape[-1]
    for name in ("mean", "std"):
      values = self.metadata.get(name, [1.0] * channels)
      if (
        not isinstance(values, list | tuple)
        or len(values) != channels
        or not all(
          isinstance(v, int | float) and math.isfinite(v) for v in values
        )
        or (name == "std" and min(values) <= 0)
      ):
        raise ValueError(
          f"{name}={str(values)[:80]} must be {channels} numbers, one for each "
          f"channel{' and above 0' if name == 'std' else ''}."
        )
    classes = self.metadata.get("classes")
    if classes is not None and (
      not isinstance(classes, list | tuple)
      or len(classes) != self.num_classes
      or not all(isinstance(name, str) for name in classes)
    ):
      raise ValueError(
        f"classes={str(classes)[:80]} must be the names of the "
        f"{self.num_classes} classes."
      )
    resize = self.metadata.get("resize")
    if resize is not None and (
      type(resize) is not int or not max(shape[:2]) <= resize <= 2**14
    ):
      raise ValueError(
        f"resize={str(resize)[:80]} must be at least the image's side "
        f"{max(shape[:2])}."
      )

  @property
  def num_classes(self) -> int:
    """Number of logits."""
    return self.description.options["num_classes"]

  @property
  def classes(self) -> list[str]:
    """Names of the classes; their numbers where no names are known."""
    known = self.metadata.get("classes")
    return list(known or map(str, range(self.num_classes)))

  @property
  def nbytes(self) -> int:
    """Bytes of all arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.variables))

  @property
  def notes(self) -> list[str]:
    """Which layers compute something real-valued that no bits stand for."""
    notes = []
    paths = [
      "/".join(path[:-1])
      for path in traverse_util.flatten_dict(self.variables["params"])
      if path[-1] == "words"
    ]
    what = _layers.DYNAMIC.get(self.description.binarizer)
    if what:
      notes += [
        f"{path}: its weights are packed; its activation quantizer needs {what}"
        for path in paths
      ]
    if self.description.input_scale:
      notes += [
        f"{path}: its weights are packed; its output is multiplied by the mean "
        "|x| of each window"
        for path in paths
      ]
    return notes

  @functools.cached_property
  def module(self) -> linen.Module:
    """The Flax module that `variables` belong to."""
    return self.description.module()

  @functools.cached_property
  def logits(self) -> Any:
    """The jitted function of normalized images; its arrays are constants."""
    return jax.jit(lambda images: self.module.apply(self.variables, images))

  def __call__(self, images: jax.typing.ArrayLike) -> jax.Array:
    """Logits, float32 (batch, classes), of normalized images."""
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[1:] != tuple(self.image_shape):
      raise ValueError(
        f"the network takes images of shape (batch, "
        f"{', '.join(map(str, self.image_shape))}), got {images.shape}."
      )
    try:
      return self.logits(images)
    except (errors.FlaxError, TypeError, ValueError) as error:
      raise ValueError(
        "the arrays of the packed network do not fit its description: "
        f"{str(error).splitlines()[0][:300]}"
      ) from error

  def predict(
    self,
    images: np.ndarray | Sequence[str | os.PathLike],
    *,
    top: int = 5,
  ) -> Prediction:
    """The likeliest classes of some images, and their probabilities.

    Args:
      images: uint8 (images, height, width, channels) or one such image without
        the first axis; or paths of image files, which are scaled to cover the
        network's size and cut to their centre.
      top: how many classes of each image.

    Returns:
      A `Prediction`.

    Raises:
      FileNotFoundError: there is no file of that name.
      ValueError: a file is no image, or the array is none of images; named.
    """
    if not isinstance(images, np.ndarray | jax.Array):
      from ovsw_jax.deploy import _images

      if isinstance(images, str | os.PathLike):
        images = [images]
      images = _images.read(
        images, self.image_shape, self.metadata.get("resize")
      )
    images = np.asarray(images)
    if images.ndim == 3:
      images = images[None]
    if (
      images.dtype != np.uint8
      or images.shape[1:] != tuple(self.image_shape)
      or not len(images)
    ):
      raise ValueError(
        "predict takes uint8 images of shape (images, "
        f"{', '.join(map(str, self.image_shape))}), or paths of image files; "
        f"got {images.dtype} {images.shape}."
      )
    channels = self.image_shape[-1]
    mean = self.metadata.get("mean", [0.0] * channels)
    std = self.metadata.get("std", [1.0] * channels)
    logits = self(data.normalize(jnp.asarray(images), mean, std))
    probabilities = np.asarray(jax.nn.softmax(logits))
    labels = np.argsort(-probabilities, axis=-1, kind="stable")
    labels = labels[:, : max(top, 1)].astype(np.int32)
    names = self.classes
    return Prediction(
      [[names[label] for label in row] for row in labels],
      labels,
      np.take_along_axis(probabilities, labels, axis=-1),
    )
