"""Bounds the memory that reading a file may take."""

from __future__ import annotations

from .error import CheckpointError

FIXED_BYTES = 40 << 20
FACTOR = 2
"""Together with the file itself and temporary copies of its parts, this keeps the peak below
64 MiB + 4 times the size of the file."""


def text_bytes(data: bytes) -> int:
    """An upper bound of the memory for the characters of this UTF-8.

    Python stores all characters of a string in the width of its widest one, up to 4 bytes.
    """
    return len(data) if data.isascii() else 4 * len(data)


class Budget:
    """The number of bytes that a reader may still allocate, beyond the file itself.

    The formats can declare much in few bytes: by compression, by prefixes shared with the previous
    key, by one value that is repeated. Each reader takes what it is about to allocate from one
    budget, so that no combination of these exceeds it. This also bounds the time.
    """

    def __init__(self, file_size: int):
        self._total = self._left = FIXED_BYTES + FACTOR * file_size

    def take(self, size: int) -> None:
        """Subtracts `size` bytes; raises `CheckpointError` if fewer are left."""
        self._left -= size
        if self._left < 0:
            raise CheckpointError(
                f"expected contents that take at most {self._total} bytes of memory, given the "
                "size of the file, got more: it is corrupt, or made to exhaust memory"
            )
