"""The model table: bits, memory and multiplications by precision."""

from ovsw_jax._summary._table import LayerSummary as LayerSummary
from ovsw_jax._summary._table import Summary as Summary
from ovsw_jax._summary._trace import summary as summary
