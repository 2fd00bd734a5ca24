"""How bundles and graphs encode tensors: numbers of dtypes, shapes, and strings.

Reference: tensorflow/core/framework/types.proto and tensor_shape.proto.
"""

from __future__ import annotations

import array
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..._types import Buffer
from .crc32c import crc32c, masked
from .error import CheckpointError
from .wire import Message, field, to_varint, varint

STRING = 7
READABLE = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", STRING: "object",
    8: "complex64", 9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128",
    19: "float16", 22: "uint32", 23: "uint64", 24: "float8_e5m2", 25: "float8_e4m3fn",
    26: "float8_e4m3fnuz", 27: "float8_e4m3b11fnuz", 28: "float8_e5m2fnuz", 29: "int4",
    30: "uint4", 31: "int2", 32: "uint2",
}  # fmt: skip
"""NumPy's names of TensorFlow's dtypes, by number; strings are an array of `bytes` objects."""
NUMBERS = {name: number for number, name in READABLE.items()}
UNREADABLE = {
    11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16", 20: "resource",
    21: "variant",
}  # fmt: skip
MAX_NDIM, MAX_ELEMENTS = 64, 1 << 56  # of a NumPy array


class Spec(NamedTuple):
    """The shape and dtype of a tensor, without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype


def numpy_dtype(number: int) -> np.dtype:
    """NumPy's dtype of this number (or ml_dtypes' one, for bfloat16 and others)."""
    if number not in READABLE:
        name = UNREADABLE.get(number, f"number {number}")
        raise CheckpointError(f"expected a dtype that NumPy has, got TensorFlow's {name}")
    return np.dtype(READABLE[number])


def read_shape(message: Message) -> tuple[int, ...]:
    """Decodes a TensorShapeProto."""
    # One axis more than NumPy has is enough to be refused.
    axes = itertools.islice(message.messages(2), MAX_NDIM + 1)
    sizes = tuple(axis.integer(1) for axis in axes)
    if message.integer(3) or min(sizes, default=0) < 0:
        raise CheckpointError(f"expected a shape that is known, got {list(sizes)}")
    check_shape(sizes)
    return sizes


def check_shape(sizes: Sequence[int]) -> None:
    """Raises `CheckpointError` for a shape that NumPy cannot hold."""
    # NumPy skips axes of size 0 when it decides whether an array is too big.
    if len(sizes) > MAX_NDIM or math.prod(max(size, 1) for size in sizes) > MAX_ELEMENTS:
        raise CheckpointError(f"expected a shape that NumPy can hold, got {list(sizes)}")


def shape_message(sizes: Iterable[int]) -> bytes:
    """Encodes a TensorShapeProto."""
    return b"".join(field(2, field(1, size)) for size in sizes)


def object_array(strings: Sequence[bytes]) -> np.ndarray:
    """A one-dimensional array of `bytes` objects."""
    # `np.array` would make strings of a fixed width, which drop trailing NULs.
    found = np.empty(len(strings), object)
    found[:] = strings
    return found


def read_strings(data: Buffer, count: int) -> tuple[np.ndarray, bytearray]:
    """The strings of a bundle, as an array of objects, and the bytes that their checksum covers.

    The encoding is: their lengths, a checksum of the lengths, and the concatenated strings. The
    checksums cover the lengths as integers of fixed width.
    """
    lengths, at = array.array("q"), 0
    for _ in range(count):
        length, at = varint(data, at)
        lengths.append(length)
    if min(lengths, default=0) < 0 or at + 4 + sum(lengths) != len(data):
        raise CheckpointError(f"expected {count} strings in {len(data)} bytes, got others")
    checked = _fixed_width(lengths)
    checked += data[at:]
    strings, at = np.empty(count, object), at + 4
    for i, length in enumerate(lengths):
        strings[i] = bytes(data[at : at + length])
        at += length
    return strings, checked


def write_strings(strings: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Encodes strings; returns the data, and the bytes that its checksum covers."""
    lengths = [len(string) for string in strings]
    fixed = _fixed_width(lengths)
    rest = masked(crc32c(fixed)).to_bytes(4, "little") + b"".join(strings)
    return b"".join(map(to_varint, lengths)) + rest, bytes(fixed + rest)


def _fixed_width(lengths: Iterable[int]) -> bytearray:
    """The lengths as checksums cover them: in 32 bits, or 64 if they need them."""
    found = bytearray()
    for length in lengths:
        found += length.to_bytes(4 if length < 1 << 32 else 8, "little")
    return found
