"""What a step is measured on: a network, its images, a batch, a precision."""

from typing import Any, NamedTuple

# Side of the images and number of classes that each network is published for.
NETWORKS = {
  "cifar_resnet18": (32, 10),
  "cifar_resnet20": (32, 10),
  "cifar_resnet34": (32, 10),
  "resnet18": (224, 1000),
  "resnet34": (224, 1000),
  "vgg_small": (32, 10),
}
DTYPES = ("float32", "bfloat16")

# The reference's, on CIFAR; both sides of a comparison take them.
LEARNING_RATE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


class Workload(NamedTuple):
  """One training step's worth of work; the same for every contestant."""

  network: str  # a key of NETWORKS
  batch: int
  dtype: str = "float32"  # of the convolutions' operands; one of DTYPES
  image_size: int | None = None  # None: the published one
  # Blocks in each stage of a ResNet, of fewer stages too; None: as published.
  blocks: tuple[int, ...] | None = None

  @property
  def side(self) -> int:
    """Height and width of the images."""
    return self.image_size or NETWORKS[self.network][0]

  @property
  def classes(self) -> int:
    """Number of logits."""
    return NETWORKS[self.network][1]


def workloads(
  networks: list[str],
  batches: list[int],
  dtypes: list[str],
  **more: Any,
) -> list[Workload]:
  """Every network at every precision.

  Args:
    networks: names.
    batches: a batch size for each network, or one for all.
    dtypes: names.
    **more: the other fields of `Workload`.

  Raises:
    ValueError: unless there are as many batch sizes as networks, or one.
  """
  if len(batches) == 1:
    batches = batches * len(networks)
  if len(batches) != len(networks):
    raise ValueError(
      f"{len(batches)} batch sizes for {len(networks)} networks; give one for "
      "all of them, or one for each"
    )
  return [
    Workload(network, batch, dtype, **more)
    for network, batch in zip(networks, batches, strict=True)
    for dtype in dtypes
  ]
