"""LevelDB's sorted table: a file of keys and values, in blocks with a checksum each.

    [data block] ... [metaindex block] [index block] [footer of 48 bytes]

A block is a list of entries, followed by restart points: the offsets of entries whose keys share no
prefix with the previous one. After it come its compression and its checksum. The values of the
index block are the handles (offset and size) of the data blocks; the footer has those of the other
two blocks.

Reference: github.com/google/leveldb, doc/table_format.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from .._escape import quoted
from .budget import Budget, text_bytes
from .crc32c import crc32c, masked
from .error import CheckpointError, error_context
from .snappy import decompress
from .wire import to_varint, varint

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER, TRAILER = 48, 5  # bytes; a trailer is the compression and the checksum of a block
PLAIN, SNAPPY = 0, 1
ENTRY_BYTES = 256  # of Python's objects for a key and a value in a dict


def read_table(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yields all keys and values; raises `CheckpointError` unless every block is intact."""
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
    with error_context("footer"):
        _, at = _handle(footer, 0)  # skips the metaindex, which is empty
        index, _ = _handle(footer, at)
    yield from _in_ascending_order(_data_entries(file, size, index))


def _data_entries(
    file: BinaryIO, size: int, index: tuple[int, int]
) -> Iterator[tuple[bytes, bytes]]:
    """Yields the entries of the data blocks, each of which is read once."""
    end, budget = 0, Budget(size)
    for _, value in _entries_of_block(file, size, index, budget):
        (offset, length), _ = _handle(value, 0)
        # An index could name one block many times: reading it would take unbounded time.
        if offset < end:
            raise CheckpointError(
                f"expected the next block at byte {end} or behind it, got one at byte {offset}"
            )
        yield from _entries_of_block(file, size, (offset, length), budget)
        end = offset + length + TRAILER


def _in_ascending_order(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yields the same entries; raises where a key is not above the previous one."""
    last = None
    for key, value in entries:
        if last is not None and key <= last:
            raise CheckpointError(f"expected a key above {quoted(last)}, got {quoted(key)}")
        last = key
        yield key, value


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """The handle at byte `at`, offset and size of a block, and the byte after it."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _entries_of_block(
    file: BinaryIO, file_size: int, handle: tuple[int, int], budget: Budget
) -> Iterator[tuple[bytes, bytes]]:
    """Yields the entries of the block that a handle locates."""
    offset, size = handle
    with error_context(f"block at byte {offset}"):
        if not 0 <= offset <= offset + size <= file_size - FOOTER - TRAILER:
            raise CheckpointError(f"expected a block within {file_size} bytes, got one of {size}")
        yield from block_entries(
            _verified_content(_read(file, offset, size + TRAILER), budget), budget
        )


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    """Reads `size` bytes; raises if there are fewer."""
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise CheckpointError(f"expected {size} bytes at byte {offset}, got {len(data)}")
    return data


def _verified_content(block: bytes, budget: Budget) -> memoryview | bytearray:
    """The content of a block with trailer, decompressed, after its checksum was verified."""
    protected, stored = memoryview(block)[:-4], int.from_bytes(block[-4:], "little")
    found = masked(crc32c(protected))
    if stored != found:
        raise CheckpointError(f"expected checksum {stored:#010x}, got {found:#010x}: corrupt")
    content, compression = protected[:-1], protected[-1]
    if compression not in (PLAIN, SNAPPY):
        raise CheckpointError(f"expected a plain or snappy block, got compression {compression}")
    return decompress(content, budget) if compression == SNAPPY else content


def block_entries(content: Any, budget: Budget) -> Iterator[tuple[bytes, bytes]]:
    """Yields the entries of a block; each key begins with a prefix of the previous one."""
    restarts = int.from_bytes(content[-4:], "little")
    end, at, key = len(content) - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = varint(content, at)
        own, at = varint(content, at)
        size, at = varint(content, at)
        if not (0 <= shared <= len(key) and own >= 0 and 0 <= size <= end - at - own):
            raise CheckpointError(f"expected an entry before byte {at} of it, got other bytes")
        key = key[:shared] + content[at : at + own]
        # Prefixes can make keys far longer than the bytes that the block has for them.
        budget.take(ENTRY_BYTES + text_bytes(key) + size)
        yield key, bytes(content[at + own : at + own + size])
        at += own + size
    if at != end:
        raise CheckpointError(f"expected its entries to end at byte {end} of it, got {at}")


def write_table(entries: Mapping[bytes, bytes]) -> bytes:
    """Encodes a table as one block, in which every entry has its whole key."""
    keys = sorted(entries)
    data = sealed(block((key, entries[key]) for key in keys))
    handles = [to_varint(0) + to_varint(len(data) - TRAILER)]
    for handle_entries in ([], [(keys[-1], handles[0])]):  # metaindex, index
        written = sealed(block(handle_entries))
        handles.append(to_varint(len(data)) + to_varint(len(written) - TRAILER))
        data += written
    footer = handles[1] + handles[2]
    return data + footer.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC


def block(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encodes entries as the content of a block; every entry is a restart point."""
    content, restarts = bytearray(), []
    for key, value in entries:
        restarts.append(len(content).to_bytes(4, "little"))
        content += to_varint(0) + to_varint(len(key)) + to_varint(len(value)) + key + value
    return bytes(content) + b"".join(restarts) + len(restarts).to_bytes(4, "little")


def sealed(content: bytes, compression: int = PLAIN) -> bytes:
    """Adds the trailer of a block: its compression and its checksum."""
    content += bytes([compression])
    return content + masked(crc32c(content)).to_bytes(4, "little")
