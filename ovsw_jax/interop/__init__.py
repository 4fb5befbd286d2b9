"""Checkpoints of other frameworks.

`torch` reads and writes those of the OvSW authors' code, without PyTorch.
"""

from ovsw_jax.interop import torch as torch
