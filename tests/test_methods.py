"""Methods: what each adds to the gradient, and wrong names."""

import dataclasses
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import methods, nn
from ovsw_jax import optax as transforms
from ovsw_jax.methods import _make

PARAMS = {
  "conv": {"latent": jax.random.normal(jax.random.key(0), (3, 3, 4, 5))},
  "norm": {"scale": jnp.ones(5)},
}
GRADIENT = jax.tree.map(lambda w: 1e-3 * jnp.ones_like(w), PARAMS)


def transformed(transform):
  updates, _ = transform.update(GRADIENT, transform.init(PARAMS), PARAMS)
  return updates


@pytest.mark.parametrize(
  ("name", "arguments", "transform"),
  [
    ("ags", {"delta": 0.1}, transforms.ags(0.1)),
    ("sad", {"weight": 0.2}, transforms.sad(0.2)),
    (
      "ovsw",
      {"delta": 0.1, "weight": 0.2, "momentum": 0.9, "threshold": 1e-3},
      transforms.ovsw(0.1, 0.2, 0.9, 1e-3),
    ),
  ],
)
def test_methods_hand_their_arguments_to_the_transform(
  name, arguments, transform
):
  method = methods.make(name, **arguments)
  ours, expected = transformed(method.transform), transformed(transform)
  jax.tree.map(np.testing.assert_array_equal, ours, expected)
  assert np.any(ours["conv"]["latent"] != GRADIENT["conv"]["latent"])
  np.testing.assert_array_equal(
    ours["norm"]["scale"], GRADIENT["norm"]["scale"]
  )


def test_baselines_transform_nothing():
  assert methods.make("vanilla").transform is None
  assert methods.make("vanilla").conv is nn.BinaryConv
  twin = methods.make("full_precision")
  assert twin.transform is None and not twin.binary


def test_a_method_wants_latent_weights():
  with pytest.raises(ValueError, match="kernel"):
    methods.make("ovsw").transform.init({"kernel": jnp.ones((3, 2))})


def test_wrong_names_and_values():
  with pytest.raises(ValueError, match=r"'ovws'.*ovsw.*my_method\.py"):
    methods.make("ovws")
  with pytest.raises(ValueError, match=r"'ags'.*'lambda'.*delta"):
    methods.make("ags", **{"lambda": 1.0})
  with pytest.raises(ValueError, match="no arguments"):
    methods.make("vanilla", delta=0.1)
  with pytest.raises(ValueError, match=r"delta.*-0\.1"):
    methods.make("ovsw", delta=-0.1)


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("irnet", {"t_min": 0.0}, r"t_min=0\.0"),
    ("sdbnn", {"t_max": 1e-4}, r"t_max=0\.0001"),
    ("sdbnn", {"shift_init": "ones"}, "'ones'.*he_normal, normal"),
    ("rbnn", {"t_min": 20.0}, r"t_min=20\.0"),
    ("recu", {"tau_max": 1.0}, r"tau_max=1\.0"),
    ("rbonn", {"variant": "book"}, "'book'.*code, paper"),
    ("rbonn", {"density": 60}, "density=60"),
    ("xnor_net", {"rule": "lamb"}, "'lamb'.*sgd, adam"),
  ],
)
def test_values_out_of_range_are_named(name, arguments, message):
  with pytest.raises(ValueError, match=message):
    methods.make(name, **arguments)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_has_its_name_and_defaults(name):
  arguments = methods.defaults(name)
  assert methods.make(name, **arguments).name == name
  assert methods.METHODS[name] is getattr(methods, name)
  assert methods.METHODS[name].__doc__


def test_a_file_of_a_package_declares_its_methods(tmp_path, monkeypatch):
  package = tmp_path / "declaring"
  package.mkdir()
  for file, text in {
    "_b.py": "__all__ = ['one', 'two']\ndef one(): ...\ndef two(): ...",
    "_a.py": "__all__ = ['three']\ndef three(): ...\ndef four(): ...",
    "_c.py": "def five(): ...",
  }.items():
    (package / file).write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  found = _make.declared("declaring", [str(package)])
  assert list(found) == ["one", "three", "two"]
  assert found["two"].__module__ == "declaring._b"
  (package / "_d.py").write_text("__all__ = ['one']\ndef one(): ...")
  importlib.invalidate_caches()
  with pytest.raises(ValueError, match=r"_d\.py declares .* 'one', .*ng\._b"):
    _make.declared("declaring", [str(package)])


def test_methods_combine():
  method = methods.make("irnet+ovsw", t_min=0.1, delta=0.1, weight=0.2)
  assert method.name == "irnet+ovsw"
  ours = transformed(method.transform)
  expected = transformed(transforms.ovsw(0.1, 0.2))
  jax.tree.map(np.testing.assert_array_equal, ours, expected)
  assert methods.defaults("irnet+ags") == {
    **methods.defaults("irnet"),
    **methods.defaults("ags"),
  }
  # Both transformations, in this order: the second one's comes after.
  both = methods.make("sad+ags", weight=0.5, delta=0.1)
  assert both.name == "sad+ags"
  ours = transformed(both.transform)
  expected = transformed(optax.chain(transforms.sad(0.5), transforms.ags(0.1)))
  jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_a_combination_keeps_all_else():
  plain, more = methods.make("rbonn"), methods.make("rbonn+ovsw")
  for field in dataclasses.fields(methods.Method):
    if field.name in ("activation", "binary"):
      assert getattr(plain, field.name) == getattr(more, field.name)
    elif field.name != "transform":
      kind = type(getattr(plain, field.name))
      assert isinstance(getattr(more, field.name), kind)
  method = methods.make("rbonn")
  added = methods.with_transform(method, methods.make("ovsw"))
  assert (added.conv, added.view) == (method.conv, method.view)


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("irnet+vanilla", {}, "'vanilla' has no gradient transformation"),
    ("full_precision+ovsw", {}, "'full_precision' has no binary weights"),
    ("irnet+ovws", {}, "unknown method 'ovws'"),
    ("irnet+ags", {"beta": 1}, "'beta' fits none.*'ags' takes delta"),
    ("ags+ovsw", {"delta": 1}, "'delta' fits more than one"),
  ],
)
def test_combinations_that_make_no_sense(name, arguments, message):
  with pytest.raises(ValueError, match=message):
    methods.make(name, **arguments)


def test_full_precision_has_no_first_stage():
  with pytest.raises(ValueError, match="'full_precision' has no binary"):
    methods.real_weights(methods.make("full_precision"))


@pytest.mark.parametrize("field", ("conv", "activation"))
def test_a_method_refuses_module_instances(field):
  fields = {"conv": nn.BinaryConv} | {field: nn.PReLU()}
  with pytest.raises(TypeError, match=f"'mine': {field} is an inst.*PReLU"):
    methods.Method("mine", **fields)


OWN = """
import dataclasses
from ovsw_jax import methods

@dataclasses.dataclass(frozen=True)
class Note:
  text: "str" = "a dataclass asks for its module by name"

def method(delta: float = 0.1, *, note: str) -> methods.Method:
  ags = methods.ags(delta)
  return dataclasses.replace(ags, name=f"mine {note}{Note().text[:0]}")
"""


def test_anyones_file_or_module_is_a_method(tmp_path, monkeypatch):
  package = tmp_path / "own_package"
  package.mkdir()
  path = package / "own_method.py"
  path.write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  for name in (str(path), "own_package.own_method"):
    assert methods.make(name, note="a").name == "mine a"
    assert methods.defaults(name) == {"delta": 0.1}
    combined = methods.make(f"recu+{name}", delta=0.2, note="b", tau_max=0.9)
    assert combined.name == "recu+mine b"
    with pytest.raises(ValueError, match=r"no argument 'x'.*delta, note"):
      methods.make(name, x=1, note="a")
    with pytest.raises(ValueError, match="needs the argument 'note'"):
      methods.make(name)
  monkeypatch.chdir(tmp_path)
  assert methods.make("own_package/own_method.py", note="c").name == "mine c"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("x = 1", "defines no function `method`"),
    ("method = 1", "defines no function `method`"),
    ("def method(): return 7", "returned 7, which is not"),
  ],
)
def test_files_that_are_no_methods(tmp_path, text, message):
  path = tmp_path / "wrong.py"
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    methods.make(str(path))


def test_files_and_modules_that_are_not_there(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"there is no file .*nowhere\.py"):
    methods.make("nowhere.py")
  with pytest.raises(ValueError, match="no module 'no_such_package'"):
    methods.make("no_such_package.method")
  with pytest.raises(ValueError, match=r"no module 'ovsw_jax\.my_method'"):
    methods.make("ovsw_jax.my_method")
  # What a method's own imports lack is told as it is, and nothing stays behind.
  path = tmp_path / "needs_more.py"
  path.write_text("import no_such_package")
  before = set(sys.modules)
  with pytest.raises(ModuleNotFoundError, match="no_such_package"):
    methods.make(str(path))
  assert set(sys.modules) == before
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "outer").mkdir()
  (tmp_path / "outer" / "inner.py").write_text("import no_such_package")
  with pytest.raises(ModuleNotFoundError, match="no_such_package"):
    methods.make("outer.inner")
