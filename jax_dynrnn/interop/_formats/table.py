"""LevelDB's sorted table: keys to values, in blocks that each have a checksum.

    [data block] ... [metaindex block] [index block] [footer of 48 bytes]

A block is a list of entries and the places where one begins that shares no prefix with the one
before; behind it are its compression and its checksum. The index block has, as values, the
handles (offset and size) of the data blocks; the footer has those of the other two.

Reference: github.com/google/leveldb, doc/table_format.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .crc32c import crc32c, masked
from .error import CheckpointError, located
from .snappy import decompress
from .wire import to_varint, varint

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER, TRAILER = 48, 5
PLAIN, SNAPPY = 0, 1


def read_table(data: bytes) -> dict[bytes, bytes]:
    """All keys and values; raises `CheckpointError` unless every block is as it was written."""
    if len(data) < FOOTER:
        raise CheckpointError(
            f"expected a table of at least {FOOTER} bytes, got {len(data)}: the file is truncated, "
            "or no checkpoint"
        )
    if data[-len(MAGIC) :] != MAGIC:
        raise CheckpointError(
            f"expected a table, which ends in {MAGIC.hex()}, got {data[-len(MAGIC) :].hex()}: the "
            "file is truncated, or no checkpoint"
        )
    footer = data[-FOOTER : -len(MAGIC)]
    with located("footer"):
        _, at = _handle(footer, 0)  # of the metaindex, in which there is nothing
        index, _ = _handle(footer, at)
    table = {}
    for _, handle in _entries(data, index):
        table.update(_entries(data, _handle(handle, 0)[0]))
    return table


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """The offset and the size of a block, written at byte `at`; and where they end."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _entries(data: bytes, handle: tuple[int, int]) -> list[tuple[bytes, bytes]]:
    with located(f"block at byte {handle[0]}"):
        return list(block_entries(_unsealed(data, *handle)))


def _unsealed(data: bytes, offset: int, size: int) -> bytes:
    """A block's content, its checksum verified."""
    end = offset + size
    if not 0 <= offset <= end <= len(data) - FOOTER - TRAILER:
        raise CheckpointError(f"expected a block within {len(data)} bytes, got one of {size}")
    stored = int.from_bytes(data[end + 1 : end + TRAILER], "little")
    found = masked(crc32c(data[offset : end + 1]))
    if stored != found:
        raise CheckpointError(f"expected checksum {stored:#010x}, got {found:#010x}: corrupt")
    if data[end] not in (PLAIN, SNAPPY):
        raise CheckpointError(f"expected a plain or snappy block, got compression {data[end]}")
    content = data[offset:end]
    return decompress(content) if data[end] == SNAPPY else content


def block_entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
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
        yield key, content[at + own : at + own + size]
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
