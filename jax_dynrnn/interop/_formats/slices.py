"""The keys of a bundle's index for the slices of a partitioned variable.

They sort by name, then by the bounds of the slice: TensorFlow's `OrderedCode`.

Reference: tensorflow/core/util/saved_tensor_slice_util.cc, core/lib/strings/ordered_code.cc.
"""

from __future__ import annotations

from collections.abc import Sequence

Extents = Sequence[tuple[int, int]]
"""The start and the length of a slice in each dimension; `(0, -1)` is all of a dimension."""


def slice_key(name: str, extents: Extents) -> bytes:
    """The key of a slice of the variable `name`."""
    # NUL is escaped, since NUL and 1 terminate the name.
    escaped_name = name.encode().replace(b"\x00", b"\x00\xff")
    bounds = [_encode_signed(bound) for extent in extents for bound in extent]
    count = _encode_unsigned(len(extents))
    return b"".join([_encode_unsigned(0), escaped_name, b"\x00\x01", count, *bounds])


def _encode_unsigned(value: int) -> bytes:
    """A byte with the number of bytes that follow, then those of the value, big-endian."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _encode_signed(value: int) -> bytes:
    """The value in `n` bytes, big-endian, of which the first `n` bits, its sign, are inverted."""
    size = value.bit_length() // 7 + 1  # right for -1 as well, the only negative value
    inverted = (1 << size) - 1 << 7 * size
    return ((value ^ inverted) & (1 << 8 * size) - 1).to_bytes(size, "big")
