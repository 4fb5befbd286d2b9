"""A state comes out of its few arrays as it went in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax.training import carried

TREE = {
  "step": jnp.int32(7),
  "params": {"latent": jnp.ones((3, 4)), "scale": jnp.arange(4.0)},
  "fractions": [jnp.float32(0.5), jnp.float32(0.25), jnp.array(True)],
  "memory": (),
}


def same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert jax.tree.map(jax.typeof, a) == jax.tree.map(jax.typeof, b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("tree", [TREE, {"latent": jnp.ones((2, 3))}, (), 1.5])
def test_what_is_packed_is_unpacked(tree):
  tree = jax.tree.map(jnp.asarray, tree)
  same(carried.unpack(carried.pack(tree)), tree)
  same(jax.jit(carried.unpack)(jax.jit(carried.pack)(tree)), tree)


def test_scalars_of_a_dtype_are_one_array():
  packed = carried.pack(TREE)
  assert [x.shape for x in packed.arrays] == [(3, 4), (4,)]
  shapes = {name: x.shape for name, x in packed.scalars.items()}
  assert shapes == {"bool": (1,), "float32": (2,), "int32": (1,)}


def test_float64_stays(x64):
  tree = {"a": jnp.float64(1 / 3), "b": jnp.float32(1 / 3)}
  same(carried.unpack(carried.pack(tree)), tree)


def test_replicas_keep_their_axis():
  many = jax.tree.map(lambda x: jnp.stack([x, x + x]), TREE)
  packed = carried.pack(many, axes=1)
  assert packed.scalars["float32"].shape == (2, 2)
  same(carried.unpack(packed), many)
  same(jax.vmap(carried.unpack)(packed), many)
  same(jax.vmap(carried.pack)(many), packed)


def test_arrays_are_not_copied():
  packed = carried.pack(TREE)
  assert packed.arrays[0] is TREE["params"]["latent"]
  assert carried.unpack(packed)["params"]["latent"] is packed.arrays[0]
