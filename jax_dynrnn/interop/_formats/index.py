"""The index of a bundle: the location of each variable, and of each slice of a partitioned one.

Reference: tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import array
import itertools
from collections.abc import Iterable, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

from .._escape import quoted
from .error import CheckpointError, error_context
from .slices import Extents
from .table import read_table, write_table
from .tensors import MAX_NDIM, read_shape, shape_message
from .wire import Message, as_text, field, fixed32_field

HEADER = b""  # the key of the entry about the bundle as a whole
VERSION = 1  # of the format: the only one so far


class Entry(NamedTuple):
    """The location of a tensor: of a variable, or of a slice of one."""

    dtype: int
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    """In the data file of the shard, in bytes; `size` is in bytes, too."""
    size: int = 0
    checksum: int = 0
    slices: Iterable[Extents] | None = None
    """Of a partitioned variable, which is stored in slices only. They can be iterated over once."""


class Index(NamedTuple):
    """The index of a bundle."""

    shards: int
    variables: dict[str, bytes]
    """The encoded entry of each variable, for `read_entry`, by name."""
    slices: dict[bytes, bytes]
    """The encoded entry of each slice, by its key."""
    spans: np.ndarray
    """Shard, offset and size of each tensor: int64, `[tensors, 3]`."""


def read_index(file: BinaryIO) -> Index:
    """Reads an `.index` file; raises `CheckpointError` if it is not one."""
    entries = read_table(file)
    key, header = next(entries, (None, b""))
    if key != HEADER:
        raise CheckpointError("expected a header, the entry with the empty key, got none")
    shards, variables, slices, spans = _num_shards(header), {}, {}, array.array("q")
    for key, value in entries:
        with error_context(f"entry {quoted(key)}"):
            # Entries stay encoded in memory, where they take a fraction of the bytes. An `array` of
            # their spans is small enough to check all of them for overlap.
            entry = read_entry(value)
            if key.startswith(b"\0"):
                slices[key] = value
            else:
                variables[as_text(key)] = value
            if entry.slices is None:
                spans.extend((entry.shard, entry.offset, entry.size))
    return Index(shards, variables, slices, np.array(spans, np.int64).reshape(-1, 3))


def _num_shards(header: bytes) -> int:
    """The number of data files, from the header."""
    fields = Message(header)
    if fields.integer(2):
        raise CheckpointError(
            "expected little-endian numbers, got big-endian ones: restore and save it with "
            "TensorFlow on a little-endian machine"
        )
    if fields.message(3).integer(2) > VERSION:
        raise CheckpointError(f"expected format version {VERSION}, got a later one")
    return fields.integer(1)


def read_entry(data: bytes) -> Entry:
    """Decodes an entry; its slices, which may be many, are decoded during iteration."""
    fields = Message(data)
    numbers = (fields.integer(number) for number in (3, 4, 5))
    return Entry(
        fields.integer(1),
        read_shape(fields.message(2)),
        *numbers,
        checksum=fields.fixed32(6),
        slices=map(_extents, fields.messages(7)) if fields.has(7) else None,
    )


def _extents(slice_message: Message) -> Extents:
    """The bounds of a slice; an extent without a length covers its whole dimension."""
    return [
        (extent.integer(1), extent.integer(2) if extent.has(2) else -1)
        # One axis more than NumPy has is enough to be refused.
        for extent in itertools.islice(slice_message.messages(1), MAX_NDIM + 1)
    ]


def write_index(entries: Mapping[str, Entry]) -> bytes:
    """Encodes the `.index` of a bundle with one data file."""
    encoded = {name.encode(): _encode_entry(entry) for name, entry in entries.items()}
    return write_table({HEADER: field(1, 1) + field(3, field(1, VERSION)), **encoded})


def _encode_entry(entry: Entry) -> bytes:
    """Encodes an entry."""
    numbers = [(1, entry.dtype), (2, shape_message(entry.shape)), (4, entry.offset)]
    return b"".join(
        [field(n, x) for n, x in [*numbers, (5, entry.size)]] + [fixed32_field(6, entry.checksum)]
    )
