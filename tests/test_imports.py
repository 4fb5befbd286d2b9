"""The floors of the design: imports go down, and stay light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "ovsw_jax"

# What each part may import of this package. A part not listed here fails.
FLOORS = {
  "_version": set(),
  "sign": set(),
  "_bits": set(),
  "_sums": set(),
  "optax": {"_bits", "_sums"},
  "data": set(),
  "quantizers": {"_sums", "sign"},
  "products": {"_bits", "sign"},
  "nn": {"products", "quantizers", "sign"},
  "models": {"nn", "products", "quantizers", "sign"},
  "methods": {"models", "nn", "optax", "products", "quantizers", "sign"},
  "_summary": {"nn", "quantizers"},
  "analysis": {"nn", "optax", "quantizers", "sign"},
  "commands": {"analysis", "deploy", "training"},
  "deploy": {"data", "models", "nn", "products", "quantizers"},
  "interop": {"models", "nn", "optax"},
  "training": {
    "_sums",
    "analysis",
    "data",
    "methods",
    "models",
    "nn",
    "optax",
  },
}
# Third parties of the floors that must stay light.
THIRD_PARTIES = {
  "_version": set(),
  "_bits": {"jax"},
  "_sums": {"jax"},
  "sign": {"jax"},
  "products": {"jax", "numpy"},
  "quantizers": {"jax"},
  "optax": {"jax", "numpy", "optax"},
  "nn": {"jax", "flax"},
  "models": {"jax", "flax"},
  "methods": {"jax", "flax", "optax"},
  "_summary": {"jax", "flax"},
  # The last three only where they are used: each is an extra.
  "deploy": {"jax", "flax", "numpy", "safetensors", "jax2onnx", "PIL"},
  "interop": {"jax", "flax", "numpy", "optax"},
}
HEAVY = (
  "jax2onnx",
  "onnx",
  "safetensors",
  "tensorflow",
  "tensorflow_datasets",
  "orbax",
  "ml_collections",
  "matplotlib",
  "sklearn",
  "PIL",
  "tqdm",
  "grain",
)


def modules():
  for path in sorted(PACKAGE.rglob("*.py")):
    if path != PACKAGE / "__init__.py":
      yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def imports(path):
  """Absolute dotted names that a file imports, wherever in it."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_part_has_a_floor():
  assert {part for part, _ in modules()} == set(FLOORS)


def test_imports_go_down():
  wrong = [
    f"{path.relative_to(ROOT)} imports {name}"
    for part, path in modules()
    for name in imports(path)
    if name.startswith("ovsw_jax.")
    and name.split(".")[1] not in FLOORS[part] | {part}
  ]
  assert not wrong


def test_lower_floors_import_light_packages_only():
  standard = sys.stdlib_module_names
  wrong = [
    f"{path.relative_to(ROOT)} imports {name}"
    for part, path in modules()
    if part in THIRD_PARTIES
    for name in imports(path)
    if (top := name.split(".")[0]) not in standard
    and top not in THIRD_PARTIES[part] | {"ovsw_jax"}
  ]
  assert not wrong


def test_orbax_is_imported_in_one_file():
  users = [path for _, path in modules() if "orbax" in path.read_text()]
  importers = [
    path
    for path in users
    if any(name.startswith("orbax") for name in imports(path))
  ]
  assert [p.name for p in importers] == ["checkpoint.py"]


def run(code):
  result = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=True,
  )
  return result.stdout.strip()


@pytest.mark.parametrize(
  "module",
  (
    "ovsw_jax",
    "ovsw_jax.methods",
    "ovsw_jax.data",
    "ovsw_jax.deploy",
    "ovsw_jax.interop",
  ),
)
def test_no_extra_is_loaded(module):
  loaded = run(
    f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
  )
  assert loaded == "[]"


def test_the_transforms_do_not_load_flax():
  assert run("import sys, ovsw_jax; print('flax' in sys.modules)") == "False"


def test_the_summary_loads_no_extra_and_is_a_function_however_it_is_found():
  loaded = run(
    "import sys, ovsw_jax as ovsw; from ovsw_jax import summary; "
    "assert ovsw.summary is summary and callable(summary); "
    f"print([m for m in {HEAVY!r} if m in sys.modules])"
  )
  assert loaded == "[]"


def test_analysis_reads_checkpoints_without_the_training_stack():
  loaded = run(
    "import sys, ovsw_jax.analysis; print([m for m in sys.modules"
    " if m.startswith(('ovsw_jax.training', 'orbax'))])"
  )
  assert loaded == "[]"


def test_import_adds_under_a_third_of_a_second():
  """Beside jax, flax.linen and optax; the best of five, in fresh processes."""
  code = (
    "import jax, flax.linen, optax, time; t = time.perf_counter(); "
    "import ovsw_jax, ovsw_jax.methods; print(time.perf_counter() - t)"
  )
  assert min(float(run(code)) for _ in range(5)) < 0.3


def test_public_names_are_documented():
  import ovsw_jax as ovsw

  for part in (ovsw.sign, ovsw.quantizers, ovsw.products, ovsw.optax, ovsw.nn):
    for name, value in vars(part).items():
      ours = getattr(value, "__module__", "").startswith("ovsw_jax")
      if ours and callable(value) and not name.startswith("_"):
        assert value.__doc__, (part, name)
