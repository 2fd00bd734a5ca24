"""LevelDB's sorted table: keys to values, in blocks that each have a checksum.

    [data block] ... [metaindex block] [index block] [footer of 48 bytes]

A block is a list of entries and the places where one begins that shares no prefix with the one
before; behind it are its compression and its checksum. The index block has, as values, the
handles (offset and size) of the data blocks; the footer has those of the other two.

Reference: github.com/google/leveldb, doc/table_format.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from .._escape import quoted
from .budget import Budget, text_bytes
from .crc32c import crc32c, masked
from .error import CheckpointError, located
from .snappy import decompress
from .wire import to_varint, varint

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER, TRAILER = 48, 5
PLAIN, SNAPPY = 0, 1
ENTRY_BYTES = 256  # what Python needs for a key and a value in a dict, beside their bytes


def read_table(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values; raises `CheckpointError` unless every block is as it was written."""
    size = file.seek(0, os.SEEK_END)
    if size < FOOTER:
        raise CheckpointError(
            f"expected a table of at least {FOOTER} bytes, got {size}: the file is truncated, or "
            "no checkpoint"
        )
    footer = _read(file, size - FOOTER, FOOTER)
    if footer[-len(MAGIC) :] != MAGIC:
        raise CheckpointError(
            f"expected a table, which ends in {MAGIC.hex()}, got {footer[-len(MAGIC) :].hex()}: "
            "the file is truncated, or no checkpoint"
        )
    with located("footer"):
        _, at = _handle(footer, 0)  # of the metaindex, in which there is nothing
        index, _ = _handle(footer, at)
    yield from _ascending(_all_entries(file, size, index))


def _all_entries(
    file: BinaryIO, size: int, index: tuple[int, int]
) -> Iterator[tuple[bytes, bytes]]:
    """The entries of the data blocks, each of which is read once."""
    end, budget = 0, Budget(size)
    for _, value in _entries(file, size, index, budget):
        (offset, length), _ = _handle(value, 0)
        if offset < end:
            raise CheckpointError(
                f"expected the next block at byte {end} or behind it, got one at byte {offset}"
            )
        yield from _entries(file, size, (offset, length), budget)
        end = offset + length + TRAILER


def _ascending(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The same entries; an error where a key is not above the one before."""
    last = None
    for key, value in entries:
        if last is not None and key <= last:
            raise CheckpointError(f"expected a key above {quoted(last)}, got {quoted(key)}")
        last = key
        yield key, value


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """The offset and the size of a block, written at byte `at`; and where they end."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _entries(
    file: BinaryIO, file_size: int, handle: tuple[int, int], budget: Budget
) -> Iterator[tuple[bytes, bytes]]:
    offset, size = handle
    with located(f"block at byte {offset}"):
        if not 0 <= offset <= offset + size <= file_size - FOOTER - TRAILER:
            raise CheckpointError(f"expected a block within {file_size} bytes, got one of {size}")
        yield from block_entries(_unsealed(_read(file, offset, size + TRAILER), budget), budget)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise CheckpointError(f"expected {size} bytes at byte {offset}, got {len(data)}")
    return data


def _unsealed(block: bytes, budget: Budget) -> memoryview | bytearray:
    """A block's content, its checksum verified."""
    sealed, stored = memoryview(block)[:-4], int.from_bytes(block[-4:], "little")
    found = masked(crc32c(sealed))
    if stored != found:
        raise CheckpointError(f"expected checksum {stored:#010x}, got {found:#010x}: corrupt")
    content, compression = sealed[:-1], sealed[-1]
    if compression not in (PLAIN, SNAPPY):
        raise CheckpointError(f"expected a plain or snappy block, got compression {compression}")
    return decompress(content, budget) if compression == SNAPPY else content


def block_entries(content: Any, budget: Budget) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a block: each key begins with as much of the last one as is said."""
    restarts = int.from_bytes(content[-4:], "little")
    end, at, key = len(content) - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = varint(content, at)
        own, at = varint(content, at)
        size, at = varint(content, at)
        if not (0 <= shared <= len(key) and own >= 0 and 0 <= size <= end - at - own):
            raise CheckpointError(f"expected an entry before byte {at} of it, got other bytes")
        key = key[:shared] + content[at : at + own]
        budget.take(ENTRY_BYTES + text_bytes(key) + size)
        yield key, bytes(content[at + own : at + own + size])
        at += own + size
    if at != end:
        raise CheckpointError(f"expected its entries to end at byte {end} of it, got {at}")


def write_table(table: Mapping[bytes, bytes]) -> bytes:
    """A table in one block, in which every entry has its whole key."""
    keys = sorted(table)
    data = sealed(block((key, table[key]) for key in keys))
    handles = [to_varint(0) + to_varint(len(data) - TRAILER)]
    for entries in ([], [(keys[-1], handles[0])]):  # metaindex, index
        written = sealed(block(entries))
        handles.append(to_varint(len(data)) + to_varint(len(written) - TRAILER))
        data += written
    footer = handles[1] + handles[2]
    return data + footer.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC


def block(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The content of a block."""
    content, restarts = bytearray(), []
    for key, value in entries:
        restarts.append(len(content).to_bytes(4, "little"))
        content += to_varint(0) + to_varint(len(key)) + to_varint(len(value)) + key + value
    return bytes(content) + b"".join(restarts) + len(restarts).to_bytes(4, "little")


def sealed(content: bytes, compression: int = PLAIN) -> bytes:
    """A block with its trailer."""
    content += bytes([compression])
    return content + masked(crc32c(content)).to_bytes(4, "little")
