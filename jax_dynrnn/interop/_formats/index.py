"""The index of a bundle: where each variable, and each slice of a partitioned one, is.

Reference: tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .error import CheckpointError, located
from .slices import Extents
from .table import read_table, write_table
from .tensors import shape, shape_message
from .wire import Message, as_text, field, fixed32_field

HEADER = b""  # the key of what is said of the whole bundle
VERSION = 1  # of the format: all that there are


class Entry(NamedTuple):
    """A tensor: a variable, or a slice of one."""

    dtype: int
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    """In the file of that shard, in bytes; so is `size`."""
    size: int = 0
    checksum: int = 0
    slices: tuple[Extents, ...] = ()
    """Of a partitioned variable, which is nowhere in one piece."""


class Index(NamedTuple):
    shards: int
    variables: dict[str, Entry]
    slices: dict[bytes, Entry]
    """By their keys."""


def read_index(data: bytes) -> Index:
    """The entries of an `.index` file; raises `CheckpointError` where it is not one."""
    table = read_table(data)
    if HEADER not in table:
        raise CheckpointError("expected a header, the entry with the empty key, got none")
    index = Index(_shards(table.pop(HEADER)), {}, {})
    for key, value in table.items():
        with located(f"entry {key!r:.200}"):
            if key.startswith(b"\0"):
                index.slices[key] = _entry(value)
            else:
                index.variables[as_text(key)] = _entry(value)
    return index


def _shards(header: bytes) -> int:
    """How many files hold the tensors."""
    fields = Message(header)
    if fields.integer(2):
        raise CheckpointError(
            "expected numbers with the lowest byte first, got them with the highest first: restore "
            "and save it with TensorFlow on a machine of today"
        )
    if fields.message(3).integer(2) > VERSION:
        raise CheckpointError(f"expected format version {VERSION}, got a later one")
    return fields.integer(1)


def _entry(data: bytes) -> Entry:
    fields = Message(data)
    numbers = (fields.integer(number) for number in (3, 4, 5))
    return Entry(
        fields.integer(1),
        shape(fields.message(2)),
        *numbers,
        checksum=fields.fixed32(6),
        slices=tuple(_extents(each) for each in fields.messages(7)),
    )


def _extents(slice_: Message) -> Extents:
    """The bounds of a slice; an extent without a length is all of its dimension."""
    return [
        (extent.integer(1), extent.integer(2) if extent.has(2) else -1)
        for extent in slice_.messages(1)
    ]


def write_index(entries: Mapping[str, Entry]) -> bytes:
    """The `.index` of a bundle with one file of tensors."""
    table = {name.encode(): _written(entry) for name, entry in entries.items()}
    return write_table({HEADER: field(1, 1) + field(3, field(1, VERSION)), **table})


def _written(entry: Entry) -> bytes:
    numbers = [(1, entry.dtype), (2, shape_message(entry.shape)), (4, entry.offset)]
    return b"".join(
        [field(n, x) for n, x in [*numbers, (5, entry.size)]] + [fixed32_field(6, entry.checksum)]
    )
