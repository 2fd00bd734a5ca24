"""The index of a bundle: where each variable, and each slice of a partitioned one, is.

Reference: tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import array
import itertools
from collections.abc import Iterable, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

from .._escape import quoted
from .error import CheckpointError, located
from .slices import Extents
from .table import read_table, write_table
from .tensors import MOST_AXES, shape, shape_message
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
    slices: Iterable[Extents] | None = None
    """Of a partitioned variable, which is nowhere in one piece; to be iterated over once."""


class Index(NamedTuple):
    shards: int
    variables: dict[str, bytes]
    """What `read_entry` reads, by name."""
    slices: dict[bytes, bytes]
    """By their keys."""
    spans: np.ndarray
    """Shard, offset and size of each tensor: int64, `[tensors, 3]`."""


def read_index(file: BinaryIO) -> Index:
    """The entries of an `.index` file; raises `CheckpointError` where it is not one."""
    table = read_table(file)
    key, header = next(table, (None, b""))
    if key != HEADER:
        raise CheckpointError("expected a header, the entry with the empty key, got none")
    shards, variables, slices, spans = _shards(header), {}, {}, array.array("q")
    for key, value in table:
        with located(f"entry {quoted(key)}"):
            entry = read_entry(value)
            if key.startswith(b"\0"):
                slices[key] = value
            else:
                variables[as_text(key)] = value
            if entry.slices is None:
                spans.extend((entry.shard, entry.offset, entry.size))
    return Index(shards, variables, slices, np.array(spans, np.int64).reshape(-1, 3))


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


def read_entry(data: bytes) -> Entry:
    """An entry; its slices are read as they are iterated over, since they may be many."""
    fields = Message(data)
    numbers = (fields.integer(number) for number in (3, 4, 5))
    return Entry(
        fields.integer(1),
        shape(fields.message(2)),
        *numbers,
        checksum=fields.fixed32(6),
        slices=map(_extents, fields.messages(7)) if fields.has(7) else None,
    )


def _extents(slice_: Message) -> Extents:
    """The bounds of a slice; an extent without a length is all of its dimension."""
    return [
        (extent.integer(1), extent.integer(2) if extent.has(2) else -1)
        for extent in itertools.islice(slice_.messages(1), MOST_AXES + 1)
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
