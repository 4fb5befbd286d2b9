"""Every architecture against the authors' code, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import models
from tests import torch_layout
from tests.golden import recipe

# Our name: the reference's, binary kernels.
REFERENCE = {
  "cifar_resnet18": ("cResNet18", 19),
  "cifar_resnet20": ("cResNet20", 18),
  "cifar_resnet34": ("cResNet34", 35),
  "resnet18": ("ResNet18", 16),
  "resnet34": ("ResNet34", 32),
  "vgg_small": ("VGGSmall", 5),
}


def golden_variables(reference, architecture):
  keys = reference["sd_keys"].tolist()
  shapes = [
    tuple(int(d) for d in text.strip("()").split(",") if d.strip())
    for text in reference["sd_shapes"].tolist()
  ]
  scales = dict(
    zip(reference["bn_keys"].tolist(), reference["bn_scale"], strict=True)
  )
  state = recipe.gen_state(keys, shapes, int(reference["seed"]), scales)
  _, total, magnitude, first = recipe.state_check(state)
  np.testing.assert_array_equal(total, reference["sd_sum"])
  np.testing.assert_array_equal(magnitude, reference["sd_abssum"])
  np.testing.assert_array_equal(first, reference["sd_first"])
  return torch_layout.convert(state, architecture)


def nhwc(x):
  return jnp.asarray(np.asarray(x, np.float64).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", REFERENCE)
def test_logits_loss_gradients_and_statistics(name, golden, x64):
  reference_name, binary_count = REFERENCE[name]
  reference = golden(f"models_{reference_name}")
  model = models.make(
    name, num_classes=int(reference["num_classes"]), dtype=jnp.float64
  )
  variables = golden_variables(reference, name)
  latents = [
    path
    for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    if path[-1].key == "latent"
  ]
  assert len(latents) == binary_count
  images, labels = nhwc(reference["x"]), jnp.asarray(reference["labels"])

  logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(
    variables, images
  )
  assert logits.dtype == jnp.float64
  np.testing.assert_allclose(logits, reference["eval/f64/logits"], atol=1e-10)

  def loss_fn(params):
    logits, updates = model.apply(
      {**variables, "params": params},
      images,
      train=True,
      mutable=["batch_stats"],
    )
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, labels
    ).mean()
    return loss, (logits, updates)

  (loss, (logits, updates)), gradients = jax.jit(
    jax.value_and_grad(loss_fn, has_aux=True)
  )(variables["params"])
  np.testing.assert_allclose(logits, reference["train/f64/logits"], atol=1e-10)
  np.testing.assert_allclose(loss, reference["train/f64/loss"], rtol=1e-10)
  for i, key in enumerate(reference["grad_keys"].tolist()):
    gradient = torch_layout.find({"params": gradients}, key, name)
    norm = reference["train/f64/grad_l2"][i]
    np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-9)
    np.testing.assert_allclose(
      recipe.sample(gradient),
      reference["train/f64/grad_sample"][i],
      atol=1e-9 * norm,
      err_msg=key,
    )
  for i, key in enumerate(reference["bnstat_keys"].tolist()):
    np.testing.assert_allclose(
      recipe.sample(torch_layout.find(updates, key, name)),
      reference["train/f64/bnstat_sample"][i],
      rtol=1e-9,
      atol=1e-10,
      err_msg=key,
    )


def test_float32_logits_where_no_sign_is_near_zero(golden):
  reference = golden("models_cResNet20")
  model = models.cifar_resnet20()
  variables = jax.tree.map(
    lambda v: v.astype(np.float32),
    golden_variables(reference, "cifar_resnet20"),
  )
  images = nhwc(reference["safe_eval/x"]).astype(jnp.float32)
  logits = jax.jit(model.apply)(variables, images)
  np.testing.assert_allclose(
    logits, reference["safe_eval/f64/logits"], atol=5e-5
  )
