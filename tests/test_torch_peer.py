"""The PyTorch peer of the benchmarks against the authors' code, in float64."""

import numpy as np
import pytest

from tests.golden import recipe
from tests.test_models_golden import REFERENCE

torch = pytest.importorskip(
  "torch", reason="the PyTorch peer is measured only where torch is installed"
)

from benchmarks import torch_peer, torch_step  # noqa: E402
from benchmarks.workload import NETWORKS, Workload  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
  """Tests beside this one have work for the other cores."""
  threads = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(threads)


def state_dict(reference):
  """The golden weights, under the authors' names."""
  keys = reference["sd_keys"].tolist()
  shapes = [
    tuple(int(d) for d in text.strip("()").split(",") if d.strip())
    for text in reference["sd_shapes"].tolist()
  ]
  scales = dict(
    zip(reference["bn_keys"].tolist(), reference["bn_scale"], strict=True)
  )
  state = recipe.gen_state(keys, shapes, int(reference["seed"]), scales)
  return {key: torch.from_numpy(np.array(v)) for key, v in state.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_loss_and_gradients_are_the_authors(name, golden):
  reference = golden(f"models_{REFERENCE[name][0]}")
  images = torch.from_numpy(reference["x"].astype(np.float64))
  model = torch_peer.make(
    name, int(reference["num_classes"]), images.shape[-1]
  ).double()
  model.load_state_dict(state_dict(reference))

  with torch.no_grad():
    logits = model.eval()(images)
  np.testing.assert_allclose(logits, reference["eval/f64/logits"], atol=1e-11)

  logits = model.train()(images)
  loss = torch.nn.functional.cross_entropy(
    logits, torch.from_numpy(reference["labels"]).long()
  )
  loss.backward()
  np.testing.assert_allclose(
    logits.detach(), reference["train/f64/logits"], atol=1e-11
  )
  np.testing.assert_allclose(
    loss.item(), reference["train/f64/loss"], rtol=1e-12
  )
  for i, key in enumerate(reference["bnstat_keys"].tolist()):
    np.testing.assert_allclose(
      recipe.sample(model.state_dict()[key].numpy()),
      reference["train/f64/bnstat_sample"][i],
      rtol=1e-10,
      atol=1e-11,
      err_msg=key,
    )
  gradients = {key: p.grad.numpy() for key, p in model.named_parameters()}
  assert sorted(gradients) == reference["grad_keys"].tolist()
  for i, key in enumerate(reference["grad_keys"].tolist()):
    norm = reference["train/f64/grad_l2"][i]
    np.testing.assert_allclose(np.linalg.norm(gradients[key]), norm, rtol=1e-10)
    np.testing.assert_allclose(
      recipe.sample(gradients[key]),
      reference["train/f64/grad_sample"][i],
      atol=1e-10 * norm,
      err_msg=key,
    )


def test_a_network_without_a_peer_is_named():
  with pytest.raises(ValueError, match=r"'vgg19'.*vgg_small"):
    torch_peer.make("vgg19", 10, 32)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("channels_last", (False, True))
def test_the_step_learns(dtype, channels_last):
  step = torch_step.TorchStep(
    Workload("cifar_resnet20", 16, dtype, 8, (1, 1)),
    channels_last=channels_last,
  )
  before = step.loss()
  assert step.run(30) == 30
  assert step.loss() < 0.5 * before
  described = step.describe()
  assert described["torch"] == torch.__version__
  assert described["channels_last"] is channels_last
