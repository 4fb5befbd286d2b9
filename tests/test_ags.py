"""Adaptive gradient scaling: bounds, invariances, then golden vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import optax as ovsw_optax


def _norms(x, axes=(0, 1, 2)):
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes))


def _example(scale=1e-3):
  keys = jax.random.split(jax.random.key(0))
  params = jax.random.normal(keys[0], (3, 3, 4, 16))
  # Filters' gradients over four decades, so that some lie on either side.
  sizes = jnp.logspace(-2, 2, 16) * scale
  return params, jax.random.normal(keys[1], params.shape) * sizes * 10


def _scale(grads, params, *args, **kwargs):
  tx = ovsw_optax.ags(*args, **kwargs)
  return tx.update(grads, tx.init(params), params)


@pytest.mark.parametrize("delta", [0.01, 0.04, 0.3])
def test_is_a_lower_bound_that_leaves_the_others_alone(delta):
  params, grads = _example()
  before = _norms(grads) / _norms(params)
  updates, state = _scale(grads, params, delta)
  after = _norms(updates) / _norms(params)
  lifted = before < delta
  assert 0 < lifted.sum() < lifted.size
  np.testing.assert_allclose(after[lifted], delta, rtol=1e-5)
  np.testing.assert_array_equal(updates[..., ~lifted], grads[..., ~lifted])
  np.testing.assert_allclose(
    optax.tree.get(state, "ags_scaled_fraction"), lifted.mean()
  )
  np.testing.assert_allclose(
    optax.tree.get(state, "ags_ratio"), before.mean(), rtol=1e-6
  )
  np.testing.assert_allclose(
    optax.tree.get(state, "ags_filter_ratio"), before, rtol=1e-6
  )


def test_keeps_the_direction_of_each_filter():
  params, grads = _example()
  updates, _ = _scale(grads, params)
  cosine = jnp.sum(updates * grads, axis=(0, 1, 2)) / (
    _norms(updates) * _norms(grads)
  )
  np.testing.assert_allclose(cosine, 1.0, rtol=1e-6)


def test_is_idempotent():
  params, grads = _example()
  once, _ = _scale(grads, params)
  twice, _ = _scale(once, params)
  np.testing.assert_allclose(twice, once, rtol=1e-6)


def test_is_equivariant_to_a_common_scale():
  params, grads = _example()
  updates, _ = _scale(grads, params)
  scaled, _ = _scale(8 * grads, 8 * params)
  np.testing.assert_allclose(scaled, 8 * updates, rtol=1e-6)


def test_zero_gradient_stays_zero():
  params, grads = _example()
  updates, _ = _scale(jnp.zeros_like(grads), params)
  np.testing.assert_array_equal(updates, 0.0)


def test_gain_is_capped_where_the_gradient_is_noise():
  params = jnp.ones((100, 1))
  grads = jnp.full_like(params, 1e-12)
  updates, _ = _scale(grads, params, 0.04)
  # Norm 10 of the weights and the clamp 1e-6: gain 0.04 * 10 / 1e-6.
  np.testing.assert_allclose(updates, grads * 4e5, rtol=1e-5)


def test_small_weights_count_as_eps():
  params, grads = jnp.zeros((4, 1)), jnp.full((4, 1), 1e-6)
  updates, _ = _scale(grads, params, 0.1)
  np.testing.assert_allclose(_norms(updates, 0), 0.1 * 1e-3, rtol=1e-6)


def test_bound_is_strict():
  params, grads = jnp.full((1, 2), 4.0), jnp.array([[1.0, 0.5]])
  updates, state = _scale(grads, params, 0.25)
  np.testing.assert_array_equal(updates, 1.0)
  assert optax.tree.get(state, "ags_scaled_fraction") == 0.5


@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_scalar_or_vector_is_one_filter(shape):
  params, grads = jnp.full(shape, 2.0), jnp.full(shape, 1e-3)
  updates, state = _scale(grads, params, 0.5)
  np.testing.assert_allclose(updates, 1.0, rtol=1e-6)
  assert optax.tree.get(state, "ags_scaled_fraction") == 1.0


def test_output_axis_of_dense_convolution_and_other_layouts():
  params, grads = _example()
  expected, _ = _scale(grads, params)
  dense, _ = _scale(grads.reshape(36, 16), params.reshape(36, 16))
  np.testing.assert_allclose(dense.reshape(expected.shape), expected, rtol=1e-6)
  for axis in (0, 2, -3):
    moved, _ = _scale(
      jnp.moveaxis(grads, -1, axis),
      jnp.moveaxis(params, -1, axis),
      output_axis=axis,
    )
    np.testing.assert_allclose(
      jnp.moveaxis(moved, axis, -1), expected, rtol=1e-6
    )


def test_fraction_weighs_leaves_by_their_filters():
  params = {"a": jnp.ones((4, 1)), "b": jnp.ones((4, 3))}
  grads = {"a": jnp.full((4, 1), 1e-4), "b": jnp.ones((4, 3))}
  _, state = _scale(grads, params)
  assert optax.tree.get(state, "ags_scaled_fraction") == 0.25
  ratio = optax.tree.get(state, "ags_ratio")
  np.testing.assert_allclose(ratio["a"], 1e-4, rtol=1e-5)
  np.testing.assert_allclose(ratio["b"], 1.0)


@pytest.mark.parametrize("axis", [None, 0, -2])
def test_the_state_keeps_the_ratio_of_each_filter(axis):
  rng = np.random.default_rng(0)
  params = {
    "conv": rng.normal(size=(3, 2, 1, 4)),
    "dense": rng.normal(size=(5, 1)),
    "vector": rng.normal(size=6),
    "scalar": rng.normal(size=()),
  }
  params = {k: np.asarray(p, np.float32) for k, p in params.items()}
  grads = {k: 0.1 * p[..., ::-1] if p.ndim else p for k, p in params.items()}
  tx = ovsw_optax.ags(
    0.04, output_axis=axis, mask=jax.tree.map(lambda p: True, params)
  )
  before = tx.init(params)
  _, after = tx.update(grads, before, params)
  found, mean = (
    optax.tree.get(after, name) for name in ("ags_filter_ratio", "ags_ratio")
  )

  def norms(x):
    if x.ndim < 2:
      return np.linalg.norm(x)
    rows = np.moveaxis(x, -1 if axis is None else axis, 0)
    return np.linalg.norm(rows.reshape(len(rows), -1), axis=1)

  for name, p in params.items():
    expected = norms(grads[name]) / norms(p)
    assert found[name].shape == expected.shape
    np.testing.assert_allclose(found[name], expected, rtol=1e-6)
    np.testing.assert_allclose(mean[name], expected.mean(), rtol=1e-6)
  assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_gradients_are_summed_in_float32(dtype):
  params = jnp.ones((4096, 1), dtype)
  # Squares of 1e-4 underflow in float16; 4096 ones stop at 256 in bfloat16.
  grads = jnp.full_like(params, 1e-4)
  updates, state = _scale(grads, params, 0.04)
  assert updates.dtype == dtype
  np.testing.assert_allclose(updates.astype(jnp.float32), 0.04, rtol=1e-2)
  np.testing.assert_allclose(
    optax.tree.get(state, "ags_ratio"), grads[0, 0].astype(float), rtol=1e-5
  )


def test_leaves_of_all_kinds_are_scaled_together_on_a_gpu(x64, request):
  rng = np.random.default_rng(0)
  kinds = [
    ((3, 3, 4, 6), jnp.float32),
    ((5, 2), jnp.float64),
    ((7,), jnp.bfloat16),
    ((), jnp.float32),
  ]
  params, grads = (
    [jnp.asarray(rng.normal(size=shape), dtype) for shape, dtype in kinds]
    for _ in range(2)
  )
  args = grads, params, 0.9
  alone = _scale(*args, mask=[True] * 4)
  request.getfixturevalue("as_a_gpu")
  together = _scale(*args, mask=[True] * 4)
  for a, b in zip(*map(jax.tree.leaves, (alone, together)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_delta_may_be_a_schedule():
  params, grads = jnp.ones((4, 1)), jnp.full((4, 1), 1e-4)
  tx = ovsw_optax.ags(lambda count: 0.1 * (count + 1))
  state = tx.init(params)
  for step in range(3):
    updates, state = jax.jit(tx.update)(grads, state, params)
    np.testing.assert_allclose(updates, 0.1 * (step + 1), rtol=1e-6)
  assert optax.tree.get(state, "ags_count") == 3


@pytest.mark.parametrize("delta", [-0.1, np.nan, np.inf, "0.04", np.ones(2)])
def test_wrong_delta_is_one_clear_error(delta):
  with pytest.raises(ValueError, match=r"ags: `delta`.*pass a number"):
    ovsw_optax.ags(delta)


@pytest.mark.parametrize("name", ["eps", "grad_eps"])
def test_clamps_must_be_positive(name):
  with pytest.raises(ValueError, match=rf"ags: `{name}` is 0\.0; pass"):
    ovsw_optax.ags(0.04, **{name: 0.0})


def test_output_axis_that_a_leaf_lacks_is_named():
  params = {"fc": {"latent": jnp.ones((2, 3))}}
  with pytest.raises(ValueError, match=r"`output_axis` is 2.*`fc/latent`"):
    _scale(params, params, output_axis=2)


def _cases(golden):
  vectors = golden("ags")
  for case in vectors["cases"]:
    for delta in vectors["deltas"]:
      yield vectors, str(case), float(delta)


def test_golden_float64(golden, x64):
  for vectors, case, delta in _cases(golden):
    params = vectors[f"{case}/weight"].astype(np.float64)
    grads = vectors[f"{case}/grad"].astype(np.float64)
    expected = vectors[f"{case}/{delta:g}/f64/scaled"]
    mask = vectors[f"{case}/{delta:g}/scaled_mask"]
    torch, state = _scale(jnp.asarray(grads), params, delta, output_axis=0)
    hwio, _ = _scale(
      jnp.asarray(grads.transpose(2, 3, 1, 0)),
      params.transpose(2, 3, 1, 0),
      delta,
    )
    assert torch.dtype == jnp.float64
    np.testing.assert_allclose(torch, expected, rtol=1e-12, atol=0)
    np.testing.assert_allclose(
      hwio.transpose(3, 2, 0, 1), expected, rtol=1e-12, atol=0
    )
    np.testing.assert_allclose(
      optax.tree.get(state, "ags_ratio"),
      vectors[f"{case}/{delta:g}/f64/ratio"],
      rtol=1e-12,
    )
    np.testing.assert_allclose(
      optax.tree.get(state, "ags_scaled_fraction"), mask.mean(), rtol=1e-15
    )


def test_golden_float32(golden):
  for vectors, case, delta in _cases(golden):
    params = jnp.asarray(vectors[f"{case}/weight"].transpose(2, 3, 1, 0))
    grads = jnp.asarray(vectors[f"{case}/grad"].transpose(2, 3, 1, 0))
    updates, state = _scale(grads, params, delta)
    expected = vectors[f"{case}/{delta:g}/f32/scaled"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(updates, expected, rtol=2e-6, atol=0)
    np.testing.assert_allclose(
      optax.tree.get(state, "ags_ratio"),
      vectors[f"{case}/{delta:g}/f32/ratio"],
      rtol=1e-6,
    )
