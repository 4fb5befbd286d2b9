"""The OvSW authors' PyTorch checkpoints, without PyTorch.

`load` reads one into our variables, `restore_optimizer` puts what SAD and SGD
had kept into an optimizer state of ours. `with_optimizer` and `save` go the
other way. Nothing in a file is run.
"""

from ovsw_jax.interop._checkpoint import Checkpoint as Checkpoint
from ovsw_jax.interop._torch_optimizer import (
  restore_optimizer as restore_optimizer,
)
from ovsw_jax.interop._torch_optimizer import with_optimizer as with_optimizer
from ovsw_jax.interop._torch_reader import load as load
from ovsw_jax.interop._torch_writer import save as save
