"""A bundle, TensorFlow's checkpoint of format V2, as a mapping."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator, Mapping

import numpy as np

from . import tensors
from .crc32c import crc32c, masked
from .error import CheckpointError, located
from .files import data_file, index_file
from .index import Entry, read_index
from .slices import Extents, slice_key


class Checkpoint(Mapping[str, np.ndarray]):
    """The variables of a checkpoint, `{name: array}`, sorted by name; `read_checkpoint` makes it.

    An array is read when it is asked for, each time anew, and checked against its CRC-32C.
    Strings are an object array of `bytes`.

    Raises:
        KeyError: no variable has this name; the nearest ones are listed.
        CheckpointError: the variable is truncated or corrupt, or of a dtype that NumPy lacks.

    Example:
        >>> import tempfile, numpy as np
        >>> from jax_dynrnn.interop import checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint.write_checkpoint(f"{folder}/model", {"bias": np.zeros(2, np.float16)})
        ...     variables = checkpoint.read_checkpoint(f"{folder}/model")
        ...     {name: (x.shape, x.dtype.name) for name, x in variables.items()}
        {'bias': ((2,), 'float16')}
    """

    def __init__(self, prefix: str):
        self._prefix = prefix
        with open(index_file(prefix), "rb") as file, located(index_file(prefix)):
            self._index = read_index(file.read())
        with located(prefix):
            self._check_files()

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.variables)

    def __len__(self) -> int:
        return len(self._index.variables)

    def __contains__(self, name: object) -> bool:
        return name in self._index.variables

    def __repr__(self) -> str:
        return f"Checkpoint({self._prefix!r}, {len(self)} variables)"

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            nearest = difflib.get_close_matches(str(name), self, 5, 0.3)
            raise KeyError(f"{self._prefix}: no variable {name!r}; the nearest are {nearest}")
        entry = self._index.variables[name]
        with located(f"{self._prefix}: variable {name!r}"):
            return self._assembled(name, entry) if entry.slices else self._tensor(entry)

    def _check_files(self) -> None:
        """All that hold a tensor are there."""
        total, variables, slices = self._index
        shards = sorted({entry.shard for entry in [*variables.values(), *slices.values()]})
        if shards and not 0 <= shards[0] <= shards[-1] < total:
            raise CheckpointError(f"expected tensors in {total} data files, got {shards[:8]}")
        files = [data_file(self._prefix, shard, total) for shard in shards]
        missing = [file for file in files if not os.path.isfile(file)]
        if missing:
            raise CheckpointError(
                f"expected {len(files)} data files beside the .index, {len(missing)} of them are "
                f"missing: {missing[:8]}"
            )

    def _tensor(self, entry: Entry) -> np.ndarray:
        """What is in one piece."""
        dtype, count = tensors.dtype(entry.dtype), math.prod(entry.shape)
        data = self._data(entry)
        if entry.dtype == tensors.STRING:
            strings, checked = tensors.read_strings(data.tobytes(), count)
            array = tensors.object_array(strings).reshape(entry.shape)
        elif len(data) == count * dtype.itemsize:
            array, checked = data.view(dtype).reshape(entry.shape), data
        else:
            raise CheckpointError(f"expected {dtype} {list(entry.shape)}, got {len(data)} bytes")
        if masked(crc32c(checked)) != entry.checksum:
            raise CheckpointError("its bytes do not have the checksum in the .index: corrupt")
        return array

    def _data(self, entry: Entry) -> np.ndarray:
        """The bytes of a tensor."""
        file = data_file(self._prefix, entry.shard, self._index.shards)
        size, end = os.path.getsize(file), entry.offset + entry.size
        if not 0 <= entry.offset <= end <= size:
            raise CheckpointError(
                f"expected bytes {entry.offset} to {end} of {file}, got a file of {size}: truncated"
            )
        return np.fromfile(file, np.uint8, entry.size, offset=entry.offset)

    def _assembled(self, name: str, entry: Entry) -> np.ndarray:
        """A partitioned variable, of its slices."""
        parts = [(extents, self._slice(name, extents)) for extents in entry.slices]
        if sum(part.size for _, part in parts) < math.prod(entry.shape):
            raise CheckpointError(f"its {len(parts)} slices do not fill {list(entry.shape)}")
        whole = np.empty(entry.shape, tensors.dtype(entry.dtype))
        filled = np.zeros(entry.shape, bool)
        for extents, part in parts:
            place = _place(extents)
            if len(place) != whole.ndim or whole[place].shape != part.shape:
                raise CheckpointError(
                    f"expected a slice of {list(entry.shape)}, got {list(part.shape)} at {extents}"
                )
            whole[place], filled[place] = part, True
        if not filled.all():
            raise CheckpointError(f"its {len(parts)} slices do not fill {list(entry.shape)}")
        return whole

    def _slice(self, name: str, extents: Extents) -> np.ndarray:
        key = slice_key(name, extents)
        if key not in self._index.slices:
            raise CheckpointError(f"expected a slice at {extents}, got none in the .index")
        return self._tensor(self._index.slices[key])


def _place(extents: Extents) -> tuple[slice, ...]:
    """Where a slice is in the whole, as an index."""
    return tuple(slice(start, None if length < 0 else start + length) for start, length in extents)
