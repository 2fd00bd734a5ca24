"""The keys under which a bundle has the slices of a partitioned variable.

They sort as the name, then the bounds of the slice: `OrderedCode` of TensorFlow.

Reference: tensorflow/core/util/saved_tensor_slice_util.cc, core/lib/strings/ordered_code.cc.
"""

from __future__ import annotations

from collections.abc import Sequence

Extents = Sequence[tuple[int, int]]
"""Where a slice begins and how long it is, in each dimension; all of one is `(0, -1)`."""


def slice_key(name: str, extents: Extents) -> bytes:
    """The key of a slice of the variable `name`."""
    escaped = name.encode().replace(b"\x00", b"\x00\xff")
    bounds = [_signed(bound) for extent in extents for bound in extent]
    return b"".join([_unsigned(0), escaped, b"\x00\x01", _unsigned(len(extents)), *bounds])


def _unsigned(value: int) -> bytes:
    """A byte that says how many follow, then those of the number, the highest first."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed(value: int) -> bytes:
    """In `n` bytes, the highest first, whose first `n` bits are inverted: they were its sign."""
    size = value.bit_length() // 7 + 1  # of -1, the only negative one, too
    inverted = (1 << size) - 1 << 7 * size
    return ((value ^ inverted) & (1 << 8 * size) - 1).to_bytes(size, "big")
