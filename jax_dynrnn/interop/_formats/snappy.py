"""Decompresses Snappy's block format: literals, and copies of earlier output.

TensorFlow writes its bundles without compression, but reads compressed ones.

Reference: github.com/google/snappy, format_description.txt.
"""

from __future__ import annotations

from .budget import Budget
from .error import CheckpointError
from .wire import varint

LITERAL, NEAR_COPY = 0, 1  # tags; 2 and 3 are copies with longer offsets
OFFSET_BYTES = {1: 1, 2: 2, 3: 4}  # by tag


def decompress(data: bytes | memoryview, budget: Budget) -> bytearray:
    """Decompresses a block; raises `CheckpointError` unless it has the size that it declares."""
    size, at = varint(data, 0)
    budget.take(2 * max(size, 0))  # the buffer grows, and may be copied as it does
    out = bytearray()
    while at < len(data) and len(out) <= size:
        tag, upper = data[at] & 3, data[at] >> 2
        # The length of a long literal, or the offset of a copy, follows the tag.
        num_extra = max(upper - 59, 0) if tag == LITERAL else OFFSET_BYTES[tag]
        number = int.from_bytes(data[at + 1 : at + 1 + num_extra], "little")
        at += 1 + num_extra
        if tag == LITERAL:
            length = 1 + (number if num_extra else upper)
            out += data[at : at + length]
            at += length
        elif tag == NEAR_COPY:
            _repeat(out, upper >> 3 << 8 | number, 4 + (upper & 7))
        else:
            _repeat(out, number, 1 + upper)
    if len(out) != size or at != len(data):
        raise CheckpointError(f"expected {size} bytes compressed by snappy, got {len(out)}")
    return out


def _repeat(out: bytearray, offset: int, length: int) -> None:
    """Appends `length` bytes that start `offset` before the end; they may overlap the appended."""
    if not 0 < offset <= len(out):
        raise CheckpointError(
            f"snappy: expected a copy of the {len(out)} bytes so far, got one from {offset} before"
        )
    start = len(out) - offset
    found = out[start : start + length]
    out += (found * (length // len(found) + 1))[:length]
