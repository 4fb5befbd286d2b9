"""A network that `main.py` trained leaves as the bits that it computes with."""

import json

import jax
import numpy as np
import pytest

from configs import digits
from ovsw_jax import commands, data, deploy, products
from ovsw_jax.training import experiment, networks
from tests import packed_networks


def command(mode, config, workdir):
  """What `main.py` does of such a command line."""
  commands.run(mode, config, str(workdir), "", (), "packed", (), False, ())


def centred(latent):
  return latent - latent.mean(axis=(0, 1, 2))


@pytest.mark.parametrize(
  ("method", "before_sign"), [("ovsw", lambda w: w), ("irnet", centred)]
)
def test_trained_here(method, before_sign, tmp_path):
  config = digits.get_config(f"smoke,{method}")
  config.mesh.data = 1
  command("train", config, tmp_path)
  command("export", None, tmp_path)
  packed = deploy.load(tmp_path / "network.safetensors")
  config = networks.saved_config(tmp_path, "workdir")
  _, variables = networks.saved_variables(tmp_path)
  model = networks.network(config, networks.method(config), num_classes=10)
  run = experiment.build(config)
  untrained = jax.tree.leaves(run.initial_state().params)
  assert any(
    np.any(np.sign(a) != np.sign(b))
    for a, b in zip(
      untrained, jax.tree.leaves(variables["params"]), strict=True
    )
  )

  layers = 0
  for block, parts in variables["params"].items():
    for layer, arrays in parts.items() if "block" in block else ():
      if "latent" not in arrays:
        continue
      latent = np.asarray(arrays["latent"])
      words = packed.variables["params"][block][layer]["words"]
      np.testing.assert_array_equal(
        products.unpack_bits(words, latent.shape[2], np.int8, axis=2),
        np.where(before_sign(latent) >= 0, 1, -1),
        err_msg=f"{block}/{layer}",
      )
      layers += 1

  test = run.dataset.test
  images = data.normalize(
    test.images, packed.metadata["mean"], packed.metadata["std"]
  )
  expected, of_network = packed_networks.with_bits(model, variables, images)
  logits, bits = packed_networks.packed_with_bits(packed, images)
  assert layers == len(bits) and bits.keys() == of_network.keys()
  for path, value in of_network.items():
    np.testing.assert_array_equal(bits[path], value, err_msg=path)
  np.testing.assert_allclose(logits, expected, atol=1e-4)

  result = json.loads((tmp_path / "result.json").read_text())
  found = packed.predict(test.images).labels[:, 0] == test.labels
  assert found.mean() == pytest.approx(result["accuracy"], abs=1e-6)
  assert packed.metadata["accuracy"] == result["accuracy"]
