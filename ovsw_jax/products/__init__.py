"""Convolution and dot product whose left operand is bits.

A binary layer's activation is +1 or -1, so what the backward pass must keep of
it is one bit a value: both products store it packed, and the kernel as it is.
Accumulation and output are float32 (float64 for float64 operands), whatever the
dtype of the operands: sums of bits are integers, which bfloat16 holds exactly
only up to 256.
"""

from ovsw_jax._bits import pack_bits as pack_bits
from ovsw_jax._bits import pack_kernel as pack_kernel
from ovsw_jax._bits import unpack_bits as unpack_bits
from ovsw_jax.products._convolution import binary_conv as binary_conv
from ovsw_jax.products._convolution import packed_conv as packed_conv
from ovsw_jax.products._dot import binary_dot as binary_dot
from ovsw_jax.products._dot import packed_dot as packed_dot
from ovsw_jax.products._geometry import ConvGeometry as ConvGeometry
from ovsw_jax.products._geometry import Pair as Pair
from ovsw_jax.products._real import real_conv as real_conv
