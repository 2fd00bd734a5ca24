"""The wire format of protocol buffers: numbered fields, read without their schema.

Reference: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .error import CheckpointError

VARINT, FIXED64, BLOB, FIXED32 = 0, 1, 2, 5
FIXED_SIZE = {FIXED64: 8, FIXED32: 4}


class Message:
    """The fields of a message, by number; an absent one is 0, or empty."""

    def __init__(self, data: Any):
        self._fields: dict[int, list[tuple[int, Any]]] = {}
        data, at = memoryview(data), 0
        while at < len(data):
            tag, at = varint(data, at)
            value, at = _value(data, at, tag & 7)
            self._fields.setdefault(tag >> 3, []).append((tag & 7, value))

    def has(self, number: int) -> bool:
        return number in self._fields

    def integer(self, number: int) -> int:
        """A signed integer; of several the last, as protocol buffers have it."""
        return ([0] + self._values(number, VARINT))[-1]

    def fixed32(self, number: int) -> int:
        return int.from_bytes((self._values(number, FIXED32) or [b""])[-1], "little")

    def blobs(self, number: int) -> list[memoryview]:
        """Strings, bytes or messages."""
        return self._values(number, BLOB)

    def blob(self, number: int) -> memoryview:
        return (self.blobs(number) or [memoryview(b"")])[-1]

    def text(self, number: int) -> str:
        return as_text(bytes(self.blob(number)))

    def messages(self, number: int) -> list[Message]:
        return [Message(blob) for blob in self.blobs(number)]

    def message(self, number: int) -> Message:
        return Message(self.blob(number))

    def integers(self, number: int) -> list[int]:
        """Of a repeated field, packed into one value or not."""
        found = []
        for value in self._values(number, VARINT, BLOB):
            if isinstance(value, int):
                found.append(value)
                continue
            at = 0
            while at < len(value):
                integer, at = varint(value, at)
                found.append(integer)
        return found

    def floats(self, number: int, dtype: np.dtype) -> np.ndarray:
        """Of a repeated field, packed into one value or not; complex ones have two floats."""
        fixed = FIXED32 if dtype.name in ("float32", "complex64") else FIXED64
        data = b"".join(self._values(number, fixed, BLOB))
        if len(data) % dtype.itemsize:
            raise CheckpointError(f"field {number}: expected {dtype}, got {len(data)} bytes")
        return np.frombuffer(data, dtype)

    def _values(self, number: int, *wire_types: int) -> list:
        found = self._fields.get(number, [])
        for wire_type, _ in found:
            if wire_type not in wire_types:
                raise CheckpointError(
                    f"field {number}: expected wire type {wire_types[0]}, got {wire_type}"
                )
        return [value for _, value in found]


def varint(data: Any, at: int) -> tuple[int, int]:
    """The signed integer at byte `at`, seven bits a byte, lowest first; and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise CheckpointError(f"expected an integer at byte {at}, got the end")
        octet = data[at]
        value |= (octet & 127) << shift
        at += 1
        if octet < 128:
            value &= (1 << 64) - 1
            return value - (value >> 63 << 64), at
    raise CheckpointError(f"expected an integer of at most 10 bytes, got more before byte {at}")


def _value(data: memoryview, at: int, wire_type: int) -> tuple[Any, int]:
    """The value at byte `at`, an int or a memoryview; and where it ends."""
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
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CheckpointError(f"expected a name in UTF-8, got {data!r:.80}") from None


def to_varint(value: int) -> bytes:
    """The bytes of an integer; a negative one is written as 64 bits."""
    value &= (1 << 64) - 1
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a message: an integer, or bytes."""
    if isinstance(value, int):
        return to_varint(number << 3 | VARINT) + to_varint(value)
    return to_varint(number << 3 | BLOB) + to_varint(len(value)) + value


def fixed32_field(number: int, value: int) -> bytes:
    return to_varint(number << 3 | FIXED32) + value.to_bytes(4, "little")
