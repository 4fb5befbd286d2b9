"""Pickles of tensors, read and written without running anything in them.

A pickle is a program, and its ordinary reader calls whatever function it names.
Here the standard library splits it into instructions, and a stack of plain
values carries out the few that `torch.save` writes. The functions that it may
name are the ones below; any other name becomes an inert `Unknown`, so that a
file is readable whatever objects lie beside its tensors.
"""

import io
import pickletools
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np


class Global(NamedTuple):
  """A name of something importable, as text."""

  module: str
  name: str


class Unknown(NamedTuple):
  """What a name that is not known here would have made."""

  made_by: str


class Storage(NamedTuple):
  """A file's one-dimensional array, by its key."""

  dtype: str  # "float32", ..., or "bfloat16", which numpy lacks
  key: str
  size: int


class Tensor(NamedTuple):
  """A strided window on a storage."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


STORAGES = {
  "BFloat16Storage": "bfloat16",
  "BoolStorage": "bool",
  "ByteStorage": "uint8",
  "CharStorage": "int8",
  "DoubleStorage": "float64",
  "FloatStorage": "float32",
  "HalfStorage": "float16",
  "IntStorage": "int32",
  "LongStorage": "int64",
  "ShortStorage": "int16",
}
_SCALARS = re.compile(r"[<>=|]?(f[248]|[iu][1248]|b1)")
_OPAQUE = object()


def _counts(value: Any) -> tuple[int, ...]:
  """A tuple of integers from 0 on, or ValueError."""
  if not isinstance(value, tuple) or len(value) > 32:
    raise ValueError("a tensor's shape is no tuple")
  if any(type(item) is not int or not 0 <= item < 2**48 for item in value):
    raise ValueError("a tensor has sizes or strides that are no counts")
  return value


def _tensor(storage, offset, shape, strides, *_) -> Tensor:
  if not isinstance(storage, Storage):
    raise ValueError("a tensor has no storage")
  (offset,) = _counts((offset,))
  shape, strides = _counts(shape), _counts(strides)
  if len(shape) != len(strides):
    raise ValueError(f"a tensor has shape {shape} and strides {strides}")
  return Tensor(storage, offset, shape, strides)


def _dtype(code, *_) -> np.dtype:
  if not isinstance(code, str) or not _SCALARS.fullmatch(code):
    raise ValueError(f"a number has the data type {str(code)[:40]!r}")
  return np.dtype(code)


def _scalar(dtype, content) -> Any:
  if not isinstance(dtype, np.dtype) or not isinstance(content, bytes):
    raise ValueError("a number is not given as bytes")
  if len(content) != dtype.itemsize:
    raise ValueError("a number has too many or too few bytes")
  return np.frombuffer(content, dtype)[0].item()


def _encode(text, encoding) -> bytes:
  # Numbers are short; long text, encoded again and again, would fill memory.
  if encoding != "latin1" or not isinstance(text, str) or len(text) > 64:
    raise ValueError("bytes are not given as short text in latin1")
  return text.encode("latin1")


def _mapping(*items) -> dict:
  if items:
    raise ValueError("an ordered dict is not made empty")
  return {}


_FUNCTIONS: dict[Global, Callable[..., Any]] = {
  Global("_codecs", "encode"): _encode,
  Global("collections", "OrderedDict"): _mapping,
  Global("numpy", "dtype"): _dtype,
  Global("numpy._core.multiarray", "scalar"): _scalar,
  Global("numpy.core.multiarray", "scalar"): _scalar,
  Global("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
  Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
}


def _call(function: Any, arguments: Any) -> Any:
  if isinstance(function, Global) and function in _FUNCTIONS:
    return _FUNCTIONS[function](*arguments)
  if isinstance(function, Global):
    return Unknown(f"{function.module}.{function.name}")
  return Unknown("something unknown")


def _build(made: Any, state: Any) -> Any:
  """Sets what was made to a state; dtypes take their byte order from it."""
  if isinstance(made, np.dtype) and isinstance(state, tuple) and state[1:]:
    return made.newbyteorder(state[1]) if state[1] in ("<", ">") else made
  return made  # an ordered dict's attributes, an unknown's contents


def _storage(identity: Any) -> Storage:
  kind, owner, key, _, size = identity
  if kind != "storage" or not isinstance(owner, Global):
    raise ValueError("a persistent object is no storage")
  if owner.name not in STORAGES or owner.module != "torch":
    raise ValueError(f"storages of the type {owner.name!r} are not read")
  (size,) = _counts((size,))
  return Storage(STORAGES[owner.name], str(key), size)


def _set(target: Any, items: list[Any]) -> None:
  if isinstance(target, Unknown):
    return
  for key, value in zip(items[::2], items[1::2], strict=True):
    # A tuple's hash visits all that it holds, however often it holds it.
    if not isinstance(key, str | int | float | bool | None):
      raise ValueError("a dict has a key that is no text or number")
    target[key] = value


_CONSTANTS = {
  "EMPTY_DICT": dict,
  "EMPTY_LIST": list,
  "EMPTY_TUPLE": tuple,
  "NEWFALSE": lambda: False,
  "NEWTRUE": lambda: True,
  "NONE": lambda: None,
}
_LITERALS = {
  "BINBYTES",
  "BINFLOAT",
  "BININT",
  "BININT1",
  "BININT2",
  "BINUNICODE",
  "LONG1",
  "LONG4",
  "SHORT_BINBYTES",
  "SHORT_BINUNICODE",
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Stack(list):
  """The values of a pickle's program, with marks between them."""

  def to_mark(self) -> list[Any]:
    at = len(self) - 1 - self[::-1].index(_OPAQUE)
    items = self[at + 1 :]
    del self[at:]
    return items

  def last(self, count: int) -> list[Any]:
    if len(self) < count:
      raise ValueError("its program takes more than there is")
    items = self[len(self) - count :]
    del self[len(self) - count :]
    return items


def read(content: bytes) -> Any:
  """The value of a pickle, with a `Tensor` in the place of every tensor.

  Args:
    content: the whole pickle; what follows its end is left aside.

  Returns:
    Dicts, lists, tuples, numbers, text, `Tensor`, `Global` and `Unknown`.

  Raises:
    ValueError: it is no pickle, or one with instructions that `torch.save`
      does not write for tensors.
  """
  try:
    with warnings.catch_warnings():
      # Of escapes in instructions that are refused right after.
      warnings.simplefilter("ignore", DeprecationWarning)
      return _run(pickletools.genops(io.BytesIO(content)))
  except (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    struct.error,
  ) as error:
    raise ValueError(f"its pickle is damaged: {error}") from error


def _run(instructions: Iterator[Any]) -> Any:
  stack, memo = _Stack(), {}
  for instruction, argument, _ in instructions:
    name = instruction.name
    if name in _LITERALS:
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name]())
    elif name in ("PROTO", "FRAME"):
      continue
    elif name == "MARK":
      stack.append(_OPAQUE)
    elif name in ("BINPUT", "LONG_BINPUT"):
      memo[argument] = stack[-1]
    elif name == "MEMOIZE":
      memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
      stack.append(memo[argument])
    elif name == "GLOBAL":
      stack.append(Global(*argument.split(" ", 1)))
    elif name == "STACK_GLOBAL":
      stack.append(Global(*map(str, stack.last(2))))
    elif name == "TUPLE":
      stack.append(tuple(stack.to_mark()))
    elif name in _TUPLES:
      stack.append(tuple(stack.last(_TUPLES[name])))
    elif name in ("APPEND", "APPENDS"):
      items = stack.last(1) if name == "APPEND" else stack.to_mark()
      if not isinstance(stack[-1], Unknown):
        stack[-1].extend(items)
    elif name in ("SETITEM", "SETITEMS"):
      items = stack.last(2) if name == "SETITEM" else stack.to_mark()
      _set(stack[-1], items)
    elif name == "BINPERSID":
      stack.append(_storage(stack.pop()))
    elif name in ("REDUCE", "NEWOBJ"):
      stack.append(_call(*stack.last(2)))
    elif name == "BUILD":
      stack.append(_build(*stack.last(2)))
    elif name == "STOP":
      return stack.pop()
    else:
      raise ValueError(f"its pickle has the instruction {name}")
  raise ValueError("its pickle has no end")


def write(value: Any) -> bytes:
  """A pickle of what `read` returns, of protocol 2, as `torch.save` writes.

  Dicts are written as ordered dicts where `torch.load` expects them: those that
  hold tensors alone.
  """
  return b"\x80\x02" + b"".join(_emit(value)) + b"."


def _text(text: str) -> bytes:
  content = text.encode()
  return b"X" + struct.pack("<I", len(content)) + content


def _global(module: str, name: str) -> bytes:
  return f"c{module}\n{name}\n".encode()


def _emit(value: Any) -> Iterator[bytes]:
  if value is None or isinstance(value, bool):
    yield {None: b"N", True: b"\x88", False: b"\x89"}[value]
  elif isinstance(value, int):
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    yield b"\x8a" + bytes([len(content)]) + content
  elif isinstance(value, float):
    yield b"G" + struct.pack(">d", value)
  elif isinstance(value, str):
    yield _text(value)
  elif isinstance(value, Tensor):
    yield from _emit_tensor(value)
  elif isinstance(value, Mapping):
    tensors = value and all(isinstance(v, Tensor) for v in value.values())
    yield _global("collections", "OrderedDict") + b")R" if tensors else b"}"
    yield b"("
    for key, item in value.items():
      yield from _emit(key)
      yield from _emit(item)
    yield b"u"
  elif isinstance(value, tuple | list):
    yield b"(" if isinstance(value, tuple) else b"]("
    for item in value:
      yield from _emit(item)
    yield b"t" if isinstance(value, tuple) else b"e"
  else:
    raise ValueError(f"{type(value).__name__} is not written")


def _emit_tensor(tensor: Tensor) -> Iterator[bytes]:
  storage = tensor.storage
  kind = next(k for k, dtype in STORAGES.items() if dtype == storage.dtype)
  yield _global("torch._utils", "_rebuild_tensor_v2")
  yield b"((" + _text("storage") + _global("torch", kind)
  yield from _emit(storage.key)
  yield _text("cpu")
  yield from _emit(storage.size)
  yield b"tQ"
  for item in (tensor.offset, tensor.shape, tensor.strides, False):
    yield from _emit(item)
  yield _global("collections", "OrderedDict") + b")RtR"
