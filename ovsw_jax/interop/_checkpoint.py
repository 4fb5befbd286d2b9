"""A network of the OvSW authors' code, as our variables."""

import dataclasses
import functools
from typing import Any

from flax import linen, traverse_util

from ovsw_jax import models, nn

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
  """A network of the authors' code, and where its training was.

  Attributes:
    architecture: a key of `models.ARCHITECTURES`.
    variables: "params" and "batch_stats" of that network, numpy arrays.
    flip_ema: SAD's average of every latent weight's flips, a tree like the
      parameters that holds nothing else; None without SAD.
    weight_prev: the latent weights at SAD's last update, likewise.
    momentum: SGD's momentum of every parameter, a tree like the parameters;
      None if the file has none.
    metadata: numbers and text that lay beside: "epoch", "best_acc1", ...

  Examples:
    >>> import tempfile, jax, jax.numpy as jnp, optax
    >>> import ovsw_jax as ovsw
    >>> net, images = ovsw.models.cifar_resnet20(), jnp.ones((1, 8, 8, 3))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), images)
    >>> variables = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    >>> checkpoint = ovsw.interop.torch.Checkpoint("cifar_resnet20", variables)
    >>> checkpoint.num_classes, checkpoint.learned_scale
    (10, False)
  """

  architecture: str
  variables: Tree
  flip_ema: Tree | None = None
  weight_prev: Tree | None = None
  momentum: Tree | None = None
  metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def num_classes(self) -> int:
    """Number of logits."""
    return self.variables["params"]["head"]["bias"].shape[0]

  @property
  def learned_scale(self) -> bool:
    """Whether the binary convolutions have learned output scales."""
    flat = traverse_util.flatten_dict(self.variables["params"])
    return any(path[-1] == "output_scale" for path in flat)

  @property
  def activation(self) -> str | None:
    """The network's activation where it is not the published one, or None."""
    params = self.variables["params"]
    first = params.get("layer1_block0", params)
    return "prelu" if "activation1" in first else None

  def model(self, **options: Any) -> linen.Module:
    """The network that the variables are of; see `models.make`."""
    conv = nn.BinaryConv
    if self.learned_scale:
      conv = functools.partial(conv, output_scale="learned")
    published = {"conv": conv, "activation": self.activation}
    return models.make(
      self.architecture,
      num_classes=self.num_classes,
      **(published | options),
    )
