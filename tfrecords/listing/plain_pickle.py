"""Reads pickles of NumPy arrays and plain containers, and nothing else.

A pickle is a program that may call anything. This unpickler knows five names, and none of them is NumPy's own: they
are stand-ins that take an array's shape, type and bytes as data and check them. Nothing that the file names is called.
"""

import io
import math
import pickle
import pickletools
from typing import Any, Literal

import numpy as np

from pipeline.errors import reason

MAX_BYTES = 1 << 31
CODES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1")


class _Dtype:
    """Stands for numpy.dtype: kind and width as text, `u1`, and the byte order from its state."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or code not in CODES:
            raise pickle.UnpicklingError(f"an array of {str(code)[:40]!r}, expected plain numbers")
        self.code = code
        self.order: Literal["|", "<", ">", "="] = "|"

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("|", "<", ">", "="):
            raise pickle.UnpicklingError("an unknown byte order")
        self.order = order


class _Array:
    """Stands for an array while the pickle is read: `__setstate__` fills it, `_arrays` unwraps it."""

    def __init__(self) -> None:
        self.value: np.ndarray = np.zeros(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, str):
            data = data.encode("latin-1")
        if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array without a shape")
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array that is not stored as bytes")
        kind = np.dtype(dtype.code).newbyteorder(dtype.order)
        if len(shape) > 8 or math.prod(shape) * kind.itemsize != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(data)} bytes")
        self.value = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


class _NdarrayName:
    """Stands for the name numpy.ndarray, an argument of `_reconstruct`; it can be neither called nor filled."""

    __slots__ = ()

    def __call__(self, *_: Any) -> None:
        raise pickle.UnpicklingError("a call of numpy.ndarray")


def _reconstruct(*_: Any) -> _Array:
    return _Array()  # shape and bytes come with its state


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands for _codecs.encode, by which Python 3 writes bytes in old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("text that is no latin-1")
    return text.encode("latin-1")


NAMES: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _NdarrayName(),
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed") from None


def loads(data: bytes) -> Any:
    """The value of a pickle: dict, list, tuple, str, bytes, numbers, None, and uint8 … float64 arrays.

    Raises ValueError: it holds or calls anything else, or is damaged; nothing of it has been executed.
    """
    if len(data) > MAX_BYTES:
        raise ValueError("the pickle is larger than 2 GB")
    try:
        _check_memo(data)
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        return _arrays(value, 0)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"not a pickle of arrays and plain containers: {reason(error)}") from None


def _check_memo(data: bytes) -> None:
    """Refuses large memo indexes: CPython allocates the memo up to the largest, 64 GB for a pickle of five bytes."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(data):
            raise pickle.UnpicklingError(f"a memo of {argument} entries in {len(data)} bytes")


def _arrays(value: Any, depth: int) -> Any:
    if depth > 16:
        raise pickle.UnpicklingError("containers in containers, too deep")
    if isinstance(value, _Array):
        return value.value
    if type(value) is dict:
        return {key: _arrays(inner, depth + 1) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_arrays(inner, depth + 1) for inner in value)
    if value is None or type(value) in (str, bytes, int, float, bool):
        return value
    raise pickle.UnpicklingError(f"a {type(value).__name__.strip('_')} where data was expected")
