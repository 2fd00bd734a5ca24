"""How much memory reading a file may take."""

from __future__ import annotations

from .error import CheckpointError

FIXED_BYTES = 40 << 20
FACTOR = 2
"""Together with the file itself and temporary copies of its parts, this keeps the peak below
64 MiB + 4 times the size of the file."""


def text_bytes(data: bytes) -> int:
    """The most that the characters of this UTF-8 take: one rare one makes all of them 4 bytes."""
    return len(data) if data.isascii() else 4 * len(data)


class Budget:
    """The bytes that a reader may still allocate beyond the file's own.

    Formats have many ways to say much in few bytes: compression, prefixes shared with the key
    before, one value repeated. Each reader takes what it is about to allocate from one budget, so
    that no combination of them allocates more. It also bounds the time.
    """

    def __init__(self, file_size: int):
        self._total = self._left = FIXED_BYTES + FACTOR * file_size

    def take(self, size: int) -> None:
        """Raises `CheckpointError` where fewer than `size` bytes are left."""
        self._left -= size
        if self._left < 0:
            raise CheckpointError(
                f"expected contents that take at most {self._total} bytes of memory, given the "
                "size of the file, got more: it is corrupt, or made to exhaust memory"
            )
