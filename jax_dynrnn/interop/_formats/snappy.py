"""Snappy's block format: literals, and copies of what came before.

TensorFlow's bundles are written without compression, but it reads compressed ones.

Reference: github.com/google/snappy, format_description.txt.
"""

from __future__ import annotations

from .budget import Budget
from .error import CheckpointError
from .wire import varint

LITERAL, NEAR_COPY = 0, 1
OFFSET_BYTES = {1: 1, 2: 2, 3: 4}


def decompress(data: bytes | memoryview, budget: Budget) -> bytearray:
    """What was compressed; raises `CheckpointError` where it does not come out whole."""
    size, at = varint(data, 0)
    budget.take(2 * max(size, 0))  # the buffer grows, and may be copied as it does
    out = bytearray()
    while at < len(data) and len(out) <= size:
        kind, upper = data[at] & 3, data[at] >> 2
        extra = max(upper - 59, 0) if kind == LITERAL else OFFSET_BYTES[kind]
        number = int.from_bytes(data[at + 1 : at + 1 + extra], "little")
        at += 1 + extra
        if kind == LITERAL:
            length = 1 + (number if extra else upper)
            out += data[at : at + length]
            at += length
        elif kind == NEAR_COPY:
            _repeat(out, upper >> 3 << 8 | number, 4 + (upper & 7))
        else:
            _repeat(out, number, 1 + upper)
    if len(out) != size or at != len(data):
        raise CheckpointError(f"expected {size} bytes compressed by snappy, got {len(out)}")
    return out


def _repeat(out: bytearray, offset: int, length: int) -> None:
    """Appends `length` bytes from `offset` before the end, which may be some of those appended."""
    if not 0 < offset <= len(out):
        raise CheckpointError(
            f"snappy: expected a copy of the {len(out)} bytes so far, got one from {offset} before"
        )
    start = len(out) - offset
    found = out[start : start + length]
    out += (found * (length // len(found) + 1))[:length]
