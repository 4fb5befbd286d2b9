"""What Optax asks of every transformation, asked of ours."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import optax as ovsw_optax
from tests.transforms import (
  STATIC,
  TRANSFORMS,
  assert_close,
  every_transform,
  inject,
  make_grads,
  make_params,
  train,
  types_of,
)


@every_transform
def test_is_a_transformation_that_ignores_unknown_arguments(name):
  tx = TRANSFORMS[name]()
  assert isinstance(tx, optax.GradientTransformationExtraArgs)
  params = make_params()
  state = tx.init(params)
  a = tx.update(make_grads(params), state, params)
  b = tx.update(make_grads(params), state, params, loss=1.0, unexpected=None)
  assert_close(a, b)


@every_transform
def test_does_not_retrace_on_the_second_call(name):
  tx, traces = TRANSFORMS[name](), []

  @jax.jit
  def step(grads, state, params):
    traces.append(None)
    return tx.update(grads, state, params)

  params = make_params()
  state = tx.init(params)
  for _ in range(3):
    _, state = step(params, state, params)
  _, state = step(params, jax.jit(tx.init)(params), params)
  assert len(traces) == 1


@every_transform
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes_are_stable_in_scan_and_cond(name, dtype):
  with jax.enable_x64(dtype == "float64"):
    tx, params = TRANSFORMS[name](), make_params(dtype)
    state = tx.init(params)
    updates, after = tx.update(make_grads(params), state, params)
    assert types_of(updates) == types_of(params)
    assert types_of(after) == types_of(state)

    def step(carry, skip):
      params, state = carry
      updates, state = jax.lax.cond(
        skip,
        lambda: (jax.tree.map(jnp.zeros_like, params), state),
        lambda: tx.update(make_grads(params), state, params),
      )
      return (optax.apply_updates(params, updates), state), None

    skips = jnp.array([False, True, False])
    carry, _ = jax.lax.scan(step, (params, state), skips)
    assert types_of(carry) == types_of((params, state))
    # The average of flips keeps its own precision, whatever the weights'.
    ema = optax.tree.get(state, "flip_ema")
    assert {x.dtype.name for x in jax.tree.leaves(ema)} <= {"float32"}


@every_transform
def test_equals_itself_under_inject_hyperparams(name):
  factory, params = TRANSFORMS[name], make_params()
  tx = factory()
  injected = inject(name)()
  state, injected_state = tx.init(params), jax.jit(injected.init)(params)
  for step in range(3):
    grads = make_grads(params, step)
    updates, state = jax.jit(tx.update)(grads, state, params)
    again, injected_state = jax.jit(injected.update)(
      grads, injected_state, params
    )
    assert_close(again, updates, rtol=1e-5)
    assert_close(injected_state.inner_state, state, rtol=1e-5)
    params = optax.apply_updates(params, jax.tree.map(lambda u: -u, updates))


@every_transform
def test_schedules_are_accepted_exactly_where_annotated(name):
  factory, params = TRANSFORMS[name], make_params()
  arguments = inspect.signature(factory).parameters.items()
  scheduled = {
    key: a.default
    for key, a in arguments
    if a.annotation == optax.ScalarOrSchedule
  }
  expected = {"ags": 1, "sad": 3, "ovsw": 4, "sign_flips": 0}
  assert len(scheduled) == expected[name.removesuffix(" compact")]
  constants = {
    k: optax.constant_schedule(v)
    for k, v in scheduled.items()
    if k not in STATIC.get(name, ())
  }
  grads = [make_grads(params, step) for step in range(3)]
  for variant in (
    factory(**constants),
    inject(name)(**constants),
    factory(**{k: jnp.float32(v) for k, v in scheduled.items()}),
  ):
    assert_close(
      train(variant, params, grads)[0], train(factory(), params, grads)[0]
    )


def test_a_schedule_under_inject_hyperparams_equals_our_own():
  schedule = optax.linear_schedule(0.0, 0.5, 4)
  params = make_params()
  grads = [make_grads(params, step) for step in range(4)]
  a, _ = train(ovsw_optax.ovsw(schedule, schedule), params, grads)
  injected = optax.inject_hyperparams(ovsw_optax.ovsw)(schedule, schedule)
  b, _ = train(injected, params, grads)
  assert_close(a, b)


@every_transform
def test_injected_arguments_that_are_no_numbers_are_static(name):
  static = ["mask"] + ["output_axis"] * name.startswith(("ags", "ovsw"))
  arguments = {"mask": ovsw_optax.default_mask, "output_axis": -1}
  tx = inject(name, static)(**{key: arguments[key] for key in static})
  params = make_params()
  _, state = jax.jit(tx.update)(params, tx.init(params), params)
  assert not set(static) & set(state.hyperparams)


@every_transform
def test_map_params_finds_the_copies_and_no_scalars(name):
  tx, params = TRANSFORMS[name](), make_params()
  state = tx.init(params)
  assert_close(optax.tree.map_params(tx, lambda x: x, state), state)
  # With partition specs for `p`, a scalar among the copies would be an error.
  marked = optax.tree.map_params(
    tx,
    lambda x, p: x if isinstance(x, optax.MaskedNode) else x.shape == p.shape,
    state,
    params,
    transform_non_params=lambda _: "statistic",
    is_leaf=lambda x: isinstance(x, optax.MaskedNode),
  )
  # Of two leaves, and of one number or two each.
  copies = 0 if name == "ags" else 2 if name.endswith("compact") else 4
  leaves = jax.tree.leaves(marked)
  assert leaves.count(True) == copies
  assert False not in leaves


@every_transform
def test_in_chain_masked_and_partition_does_what_it_does_alone(name):
  make, params = TRANSFORMS[name], make_params()
  grads = [make_grads(params, step) for step in range(3)]
  alone, _ = train(make(), params, grads)
  mask = ovsw_optax.binary_mask()
  label = lambda p: jax.tree.map(lambda m: "binary" if m else "rest", mask(p))
  variants = [
    optax.chain(optax.identity(), make()),
    optax.masked(make(), mask),
    optax.partition({"binary": make(), "rest": optax.identity()}, label),
    optax.named_chain(("ours", make())),
  ]
  for tx in variants:
    assert_close(train(tx, params, grads)[0], alone)


@every_transform
def test_statistics_are_read_through_every_wrapper(name):
  make, params = TRANSFORMS[name], make_params()
  key = {
    "ags": "ags_ratio",
    "sign_flips": "flips",
    "sign_flips compact": "flips_code",
  }.get(name, "silent_fraction")
  for tx in (
    optax.chain(make(), optax.adam(0.1)),
    optax.masked(make(), lambda p: True),
    inject(name)(),
    optax.MultiSteps(make(), 2).gradient_transformation(),
    optax.apply_if_finite(make(), 3),
  ):
    state = tx.init(params)
    assert optax.tree.get(state, key) is not None


@every_transform
def test_a_step_that_is_not_finite_changes_no_state(name):
  params = make_params()
  tx = optax.apply_if_finite(TRANSFORMS[name](), max_consecutive_errors=5)
  update = jax.jit(tx.update)
  _, before = update(make_grads(params), tx.init(params), params)
  flipped = jax.tree.map(jnp.negative, params)
  bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
  _, after = update(bad, before, flipped)
  assert_close(after.inner_state, before.inner_state, rtol=0, atol=0)
  _, good = update(make_grads(params), after, flipped)
  if name != "ags":
    counts = "sign_flips" in name
    moved = (ovsw_optax.flips if counts else ovsw_optax.flip_ema)(good)
    moved = jax.tree.leaves(moved)
    assert moved
    assert all((np.asarray(x) > 0).all() for x in moved)


@every_transform
def test_multi_steps_advances_on_the_mean_gradient_only(name):
  params = make_params()
  grads = [make_grads(params, step) for step in range(6)]
  means = [
    jax.tree.map(lambda *g: sum(g) / 3, *grads[i : i + 3]) for i in (0, 3)
  ]
  expected, expected_state = train(TRANSFORMS[name](), params, means)
  inner = optax.chain(TRANSFORMS[name](), optax.sgd(0.5, momentum=0.9))
  tx = optax.MultiSteps(inner, every_k_schedule=3)
  state, update = tx.init(params), jax.jit(tx.update)
  for i, g in enumerate(grads):
    before = state.inner_opt_state
    updates, state = update(g, state, params)
    params = optax.apply_updates(params, updates)
    if i % 3 < 2:
      assert_close(state.inner_opt_state, before, rtol=0, atol=0)
  assert_close(params, expected, rtol=1e-5)
  # ags amplifies the rounding of a mean that nearly cancels.
  assert_close(state.inner_opt_state, expected_state, rtol=1e-5, atol=1e-6)


@every_transform
def test_a_gpu_counts_and_sums_the_same(name, request):
  params = make_params()
  grads = [make_grads(params, step) for step in range(4)]
  here = train(TRANSFORMS[name](), params, grads)
  request.getfixturevalue("as_a_gpu")
  there = train(TRANSFORMS[name](), params, grads)
  assert types_of(there) == types_of(here)
  assert_close(there, here)


@every_transform
def test_init_accepts_shapes(name):
  tx = TRANSFORMS[name]()
  abstract = jax.eval_shape(lambda: make_params())
  state = tx.init(abstract)
  assert types_of(state) == types_of(tx.init(make_params()))
  shapes = jax.eval_shape(tx.init, abstract)
  assert jax.tree.structure(shapes) == jax.tree.structure(state)


@every_transform
@pytest.mark.parametrize("target", ["parabola", "matrix", "mixed"])
def test_converges_with_sgd_on_a_small_quadratic(name, target):
  final = {
    "parabola": jnp.array([1.0, -1.0, 1.0]),
    "matrix": jnp.array([[3.0, -2.0], [1.0, 4.0]]),
    "mixed": (
      jnp.array([1.0, -1.0, 2.0]),
      jnp.array([[1.0, 0.0], [-1.0, 1.0]]),
    ),
  }[target]
  arguments = {
    "ags": {"delta": 0.01},
    "sad": {"weight": 2e-5},
    "ovsw": {"delta": 0.01, "weight": 2e-5},
    "sign_flips": {},
  }[name.removesuffix(" compact")]
  tx = optax.chain(TRANSFORMS[name](**arguments), optax.sgd(1e-2, momentum=0.9))

  def loss(params):
    return sum(
      jnp.sum(jnp.square(p - f))
      for p, f in zip(
        jax.tree.leaves(params), jax.tree.leaves(final), strict=True
      )
    )

  def step(carry, _):
    params, state = carry
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  params = jax.tree.map(lambda f: jnp.full_like(f, 0.5), final)
  (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=3000)
  assert_close(params, final, rtol=3e-2, atol=3e-2)
