"""The wire format of protocol buffers: numbered fields, read without their schema.

Reference: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..._types import Buffer, DTypeLike
from .._escape import quoted
from .budget import Budget
from .error import CheckpointError

VARINT, FIXED64, BLOB, FIXED32 = 0, 1, 2, 5
FIXED_SIZE = {FIXED64: 8, FIXED32: 4}
MAX_FIELD = 31  # of the messages that are read here
CHUNK = 4096  # integers converted at a time, since each is a Python object until then


class Message:
    """The fields of a message by number; an absent field is 0, or empty.

    Only the last value of each field is stored. Repeated fields are decoded during iteration: a
    list of their values would take a hundred times the bytes of the message.
    """

    def __init__(self, data: Any):
        self._data = memoryview(data)
        self._last = {
            number: (wire_type, value)
            for number, wire_type, value in _fields(self._data)
            if number <= MAX_FIELD
        }

    def has(self, number: int) -> bool:
        """Whether the message has the field."""
        return number in self._last

    def integer(self, number: int) -> int:
        """A signed integer; the last one if there are several, as protocol buffers specify."""
        return self._last_value(number, VARINT, 0)

    def fixed32(self, number: int) -> int:
        """An unsigned integer of 32 bits."""
        return int.from_bytes(self._last_value(number, FIXED32, b""), "little")

    def blob(self, number: int) -> memoryview:
        """The bytes of a string, bytes or a message."""
        return self._last_value(number, BLOB, memoryview(b""))

    def blobs(self, number: int) -> Iterator[memoryview]:
        """The bytes of each value of a repeated field."""
        return self._repeated(number, BLOB)

    def text(self, number: int) -> str:
        """A string."""
        return as_text(bytes(self.blob(number)))

    def message(self, number: int) -> Message:
        """A message inside."""
        return Message(self.blob(number))

    def messages(self, number: int) -> Iterator[Message]:
        """The messages of a repeated field."""
        return map(Message, self.blobs(number))

    def integers(self, number: int, dtype: DTypeLike, budget: Budget) -> np.ndarray:
        """The values of a repeated field, packed or not, modulo the range of the dtype."""
        integers, found = self._integers(number), bytearray()
        while chunk := list(itertools.islice(integers, CHUNK)):
            part = np.array(chunk, np.int64).astype(dtype)
            budget.take(part.nbytes)
            found += part.tobytes()
        return np.frombuffer(found, dtype)

    def floats(self, number: int, dtype: np.dtype, budget: Budget) -> np.ndarray:
        """The values of a repeated field, packed or not; a complex number is two floats."""
        fixed = FIXED32 if dtype.name in ("float32", "complex64") else FIXED64
        found = bytearray()
        for value in self._repeated(number, fixed, BLOB):
            budget.take(len(value))
            found += value
        if len(found) % dtype.itemsize:
            raise CheckpointError(f"field {number}: expected {dtype}, got {len(found)} bytes")
        return np.frombuffer(found, dtype)

    def _integers(self, number: int) -> Iterator[int]:
        """Yields the values of a repeated field of integers, packed or not."""
        for value in self._repeated(number, VARINT, BLOB):
            if isinstance(value, int):
                yield value
                continue
            at = 0
            while at < len(value):
                integer, at = varint(value, at)
                yield integer

    def _last_value(self, number: int, wire_type: int, default: Any) -> Any:
        """The last value of a field."""
        if number not in self._last:
            return default
        found, value = self._last[number]
        _check_type(number, found, wire_type)
        return value

    def _repeated(self, number: int, *wire_types: int) -> Iterator[Any]:
        """Yields each value of a field, which may be of several wire types."""
        if number not in self._last:
            return
        for found, wire_type, value in _fields(self._data):
            if found == number:
                _check_type(number, wire_type, *wire_types)
                yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yields the number, the wire type and the value of each field."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag >> 3 < 1:
            raise CheckpointError(f"expected a field before byte {at}, got number {tag >> 3}")
        value, at = _read_value(data, at, tag & 7)
        yield tag >> 3, tag & 7, value


def _check_type(number: int, found: int, *wire_types: int) -> None:
    """Raises unless a field has one of the wire types."""
    if found not in wire_types:
        raise CheckpointError(f"field {number}: expected wire type {wire_types[0]}, got {found}")


def varint(data: Buffer, at: int) -> tuple[int, int]:
    """The signed integer at byte `at` (7 bits per byte, lowest first), and the byte after it."""
    if at < len(data) and data[at] < 128:  # the common case
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise CheckpointError(f"expected an integer at byte {at}, got the end")
        octet = data[at]
        value |= (octet & 127) << shift
        at += 1
        if octet < 128:
            # Two's complement of 64 bits; the tenth byte may have excess bits.
            value &= (1 << 64) - 1
            return value - (value >> 63 << 64), at
    raise CheckpointError(f"expected an integer of at most 10 bytes, got more before byte {at}")


def _read_value(data: memoryview, at: int, wire_type: int) -> tuple[Any, int]:
    """The value at byte `at`, an int or a memoryview, and the byte after it."""
    if wire_type == VARINT:
        return varint(data, at)
    if wire_type == BLOB:
        size, at = varint(data, at)
    elif wire_type in FIXED_SIZE:
        size = FIXED_SIZE[wire_type]
    else:
        raise CheckpointError(f"expected a field before byte {at}, got one of type {wire_type}")
    if not 0 <= size <= len(data) - at:
        raise CheckpointError(f"expected {size} bytes at byte {at}, got {len(data) - at}")
    return data[at : at + size], at + size


def as_text(data: bytes) -> str:
    """Decodes a name; raises `CheckpointError` unless it is UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CheckpointError(f"expected a name in UTF-8, got {quoted(data)}") from None


def to_varint(value: int) -> bytes:
    """Encodes an integer; a negative one as 64 bits."""
    value &= (1 << 64) - 1
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])


def field(number: int, value: int | bytes) -> bytes:
    """Encodes a field of a message: an integer, or bytes."""
    if isinstance(value, int):
        return to_varint(number << 3 | VARINT) + to_varint(value)
    return to_varint(number << 3 | BLOB) + to_varint(len(value)) + value


def fixed32_field(number: int, value: int) -> bytes:
    """Encodes a field with an unsigned integer of 32 bits."""
    return to_varint(number << 3 | FIXED32) + value.to_bytes(4, "little")
