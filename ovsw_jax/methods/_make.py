"""Methods by name: those of the field, and anyone's own file."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ovsw_jax.methods._method import Method, with_transform
from ovsw_jax.models import _own

Constructor = Callable[..., Method]
Methods = Mapping[str, Constructor]
_SIGNATURE = "method(**arguments) -> Method"


def declared(package: str, path: Iterable[str]) -> dict[str, Constructor]:
  """The methods that a package's modules name in `__all__`, in order."""
  found: dict[str, Constructor] = {}
  for module in pkgutil.iter_modules(path):
    content = importlib.import_module(f"{package}.{module.name}")
    for name in getattr(content, "__all__", ()):
      if name in found:
        raise ValueError(
          f"{content.__file__} declares the method {name!r}, which "
          f"{found[name].__module__} has already; rename one of them."
        )
      found[name] = getattr(content, name)
  return dict(sorted(found.items()))


def _constructor(name: str, known: Methods) -> Constructor:
  if name in known:
    return known[name]
  if not name.endswith(".py") and "." not in name:
    raise ValueError(
      f"unknown method {name!r}; the methods are {', '.join(known)}, or a "
      "module ('my_package.my_method') or file ('path/my_method.py') that "
      f"defines `{_SIGNATURE}`."
    )
  return _own.function("method", name, _SIGNATURE)


def _parameters(constructor: Constructor) -> list[inspect.Parameter]:
  return list(inspect.signature(constructor).parameters.values())


def _takes_any(constructor: Constructor) -> bool:
  return any(
    p.kind is inspect.Parameter.VAR_KEYWORD for p in _parameters(constructor)
  )


def _names(constructor: Constructor) -> list[str]:
  return [
    p.name
    for p in _parameters(constructor)
    if p.kind is not inspect.Parameter.VAR_KEYWORD
  ]


def _check(
  name: str, constructor: Constructor, arguments: Mapping[str, Any]
) -> None:
  known = _names(constructor)
  takes = f"takes {', '.join(known)}" if known else "takes no arguments"
  for argument in arguments:
    if argument not in known and not _takes_any(constructor):
      raise ValueError(
        f"method {name!r} has no argument {argument!r}; it {takes}."
      )
  for parameter in _parameters(constructor):
    required = parameter.default is inspect.Parameter.empty
    if parameter.name in known and required and parameter.name not in arguments:
      raise ValueError(
        f"method {name!r} needs the argument {parameter.name!r}; it {takes}."
      )


def _built(
  name: str, constructor: Constructor, arguments: Mapping[str, Any]
) -> Method:
  _check(name, constructor, arguments)
  method = constructor(**arguments)
  if not isinstance(method, Method):
    raise ValueError(
      f"method {name!r}: its constructor returned {method!r}, which is not an "
      "`ovsw_jax.methods.Method`."
    )
  return method


def defaults(name: str, known: Methods) -> dict[str, Any]:
  """See `ovsw_jax.methods.defaults`."""
  found: dict[str, Any] = {}
  for part in name.split("+"):
    for parameter in _parameters(_constructor(part, known)):
      if parameter.default is not inspect.Parameter.empty:
        found[parameter.name] = parameter.default
  return found


def make(name: str, known: Methods, arguments: Mapping[str, Any]) -> Method:
  """See `ovsw_jax.methods.make`."""
  parts = name.split("+")
  constructors = [_constructor(part, known) for part in parts]
  if len(parts) == 1:
    return _built(name, constructors[0], arguments)
  shares: list[dict[str, Any]] = [{} for _ in parts]
  for argument, value in arguments.items():
    takers = [
      share
      for share, constructor in zip(shares, constructors, strict=True)
      if argument in _names(constructor)
    ]
    if len(takers) != 1:
      lists = "; ".join(
        f"{part!r} takes {', '.join(_names(constructor)) or 'none'}"
        for part, constructor in zip(parts, constructors, strict=True)
      )
      count = "more than one" if takers else "none"
      raise ValueError(
        f"method {name!r}: the argument {argument!r} fits {count} of its "
        f"parts: {lists}."
      )
    takers[0][argument] = value
  method, *others = (
    _built(part, constructor, share)
    for part, constructor, share in zip(
      parts, constructors, shares, strict=True
    )
  )
  for other in others:
    method = with_transform(method, other)
  return method
