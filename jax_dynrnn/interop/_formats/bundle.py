"""Reads a bundle, TensorFlow's checkpoint of format V2, as a mapping."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping

import numpy as np

from .._escape import closest, escaped, quoted
from . import tensors
from .crc32c import crc32c, masked
from .error import CheckpointError, error_context
from .files import data_file, index_file, open_file
from .index import Entry, read_entry, read_index
from .slices import Extents, slice_key


class Checkpoint(Mapping[str, np.ndarray]):
    """The variables of a checkpoint, `{name: array}`, sorted by name; see `read_checkpoint`.

    An array is read on each access, and checked against its CRC-32C. Strings are returned as an
    object array of `bytes`.

    Args:
        prefix: the prefix of the files, as `"model.ckpt-100"`.

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
        self._prefix, index = prefix, index_file(prefix)
        with open_file(index) as file, error_context(escaped(index)):
            self._index = read_index(file)
        with error_context(escaped(prefix)):
            self._check_files_exist()
            _check_disjoint(self._index.spans)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.variables)

    def __len__(self) -> int:
        return len(self._index.variables)

    def __contains__(self, name: object) -> bool:
        return name in self._index.variables

    def __repr__(self) -> str:
        return f"Checkpoint({self._prefix!r}, {len(self)} variables)"

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entry(name)
        with self._error_context(name):
            if entry.slices is not None:
                return self._assemble(name, entry)
            self._check_span(entry)
            return self._read_tensor(entry)

    def spec(self, name: str) -> tensors.Spec:
        """The shape and the dtype of a variable, from the index: no values are read.

        Args:
            name: the name of a variable.

        Returns:
            A named tuple `(shape, dtype)`.

        Raises:
            KeyError: no variable has this name.
            CheckpointError: NumPy lacks its dtype.

        Reference: `tf.train.CheckpointReader.get_variable_to_shape_map`.

        Example:
            >>> import tempfile, numpy as np
            >>> from jax_dynrnn.interop import checkpoint
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     checkpoint.write_checkpoint(f"{folder}/model", {"w": np.zeros((2, 3))})
            ...     checkpoint.read_checkpoint(f"{folder}/model").spec("w")
            Spec(shape=(2, 3), dtype=dtype('float64'))
        """
        entry = self._entry(name)
        with self._error_context(name):
            return tensors.Spec(entry.shape, tensors.numpy_dtype(entry.dtype))

    def _entry(self, name: str) -> Entry:
        """The entry of a variable in the index."""
        if name not in self:
            nearest = closest(str(name), self, 5, 0.3)
            raise KeyError(
                f"{escaped(self._prefix)}: no variable {name!r}; the nearest are {nearest}"
            )
        return read_entry(self._index.variables[name])

    def _error_context(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Adds the name of a variable to errors."""
        return error_context(f"{escaped(self._prefix)}: variable {quoted(name)}")

    def _check_files_exist(self) -> None:
        """Checks that all data files with a tensor exist."""
        total, shards = self._index.shards, np.unique(self._index.spans[:, 0]).tolist()
        if shards and not 0 <= shards[0] <= shards[-1] < total:
            raise CheckpointError(f"expected tensors in {total} data files, got {shards[:8]}")
        # A generator, since an index may name any number of files.
        files = (data_file(self._prefix, shard, total) for shard in shards)
        missing = (file for file in files if not os.path.isfile(file))
        first = list(itertools.islice(missing, 8))
        if first:
            count = len(first) + sum(1 for _ in missing)
            raise CheckpointError(
                f"expected {len(shards)} data files beside the .index, {count} of them are "
                f"missing: {first}"
            )

    def _check_span(self, entry: Entry) -> None:
        """Checks, before a tensor is read, that its file has as many bytes as its shape needs."""
        dtype, count = tensors.numpy_dtype(entry.dtype), math.prod(entry.shape)
        expected = count * dtype.itemsize
        # The size of strings is not known from their number, but each length takes a byte or more.
        if entry.size < count if dtype.hasobject else entry.size != expected:
            raise CheckpointError(f"expected {dtype} {list(entry.shape)}, got {entry.size} bytes")
        file = data_file(self._prefix, entry.shard, self._index.shards)
        size, end = os.path.getsize(file), entry.offset + entry.size
        if not 0 <= entry.offset <= end <= size:
            raise CheckpointError(
                f"expected bytes {entry.offset} to {end} of {escaped(file)}, got a file of {size}: "
                "truncated"
            )

    def _read_tensor(self, entry: Entry) -> np.ndarray:
        """Reads a variable that is not partitioned, or one slice, and checks its checksum."""
        with open_file(data_file(self._prefix, entry.shard, self._index.shards)) as file:
            file.seek(entry.offset)
            data = checked = np.fromfile(file, np.uint8, entry.size)
        if len(data) != entry.size:
            raise CheckpointError(f"expected {entry.size} bytes, got {len(data)}: truncated")
        if entry.dtype == tensors.STRING:
            array, checked = tensors.read_strings(data.data, math.prod(entry.shape))
        else:
            array = data.view(tensors.numpy_dtype(entry.dtype))
        if masked(crc32c(checked)) != entry.checksum:
            raise CheckpointError("its bytes do not have the checksum in the .index: corrupt")
        return array.reshape(entry.shape)

    def _assemble(self, name: str, entry: Entry) -> np.ndarray:
        """Reads a partitioned variable, slice by slice."""
        count = elements = 0
        for _, part in self._slices(name, entry):  # before any memory is allocated for them
            self._check_span(part)
            count, elements = count + 1, elements + math.prod(part.shape)
        # A file may declare any shape: nothing is allocated for elements that it lacks.
        if elements == math.prod(entry.shape):
            array = np.empty(entry.shape, tensors.numpy_dtype(entry.dtype))
            filled = np.zeros(entry.shape, bool)
            # The slices of an entry can be iterated over only once, so the entry is read again.
            for region, part in self._slices(name, self._entry(name)):
                array[region], filled[region] = self._read_tensor(part), True
            # The number of elements can be right even where slices overlap and leave a gap.
            if filled.all():
                return array
        raise CheckpointError(f"its {count} slices do not fill {list(entry.shape)}")

    def _slices(self, name: str, entry: Entry) -> Iterator[tuple[tuple[slice, ...], Entry]]:
        """Yields the region of the whole variable that each slice fills, and the slice's entry."""
        found, name_bytes = set(), len(slice_key(name, ()))
        for extents in entry.slices or ():
            key = slice_key(name, extents)
            if key not in self._index.slices:
                raise CheckpointError(f"expected a slice at {extents}, got none in the .index")
            # Without the name: one copy of a long name for each slice would take too much memory.
            bounds = key[name_bytes - 1 :]
            if bounds in found:
                raise CheckpointError(f"expected one slice at {extents}, got it twice")
            found.add(bounds)
            part = read_entry(self._index.slices[key])
            region = _region(extents, entry.shape)
            if part.shape != tuple(p.stop - p.start for p in region):
                raise CheckpointError(
                    f"expected a slice of {list(entry.shape)}, got {list(part.shape)} at {extents}"
                )
            if part.dtype != entry.dtype or part.slices is not None:
                dtype = tensors.numpy_dtype(entry.dtype)
                raise CheckpointError(f"expected a slice of {dtype}, got another at {extents}")
            yield region, part


def _region(extents: Extents, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The region that a slice fills, as an index into the whole variable."""
    if len(extents) != len(shape):
        raise CheckpointError(f"expected a slice of {list(shape)}, got one at {extents}")
    region = tuple(
        slice(start, size if length < 0 else start + length)
        for (start, length), size in zip(extents, shape, strict=True)
    )
    if not all(0 <= p.start <= p.stop <= size for p, size in zip(region, shape, strict=True)):
        raise CheckpointError(f"expected a slice within {list(shape)}, got one at {extents}")
    return region


def _check_disjoint(spans: np.ndarray) -> None:
    """Checks that no byte belongs to two tensors: reading all of them reads each byte once."""
    # Larger numbers would overflow the sum below. No file is that large, so they are an error when
    # their tensor is read.
    spans = spans[(spans[:, 2] > 0) & (spans[:, 1:] < 1 << 62).all(1)]
    spans = spans[np.lexsort((spans[:, 1], spans[:, 0]))]
    shard, offset, size = spans.T
    overlap = (shard[1:] == shard[:-1]) & (offset[1:] < offset[:-1] + size[:-1])
    if overlap.any():
        raise CheckpointError(
            "expected tensors that do not overlap in the data, got two that share bytes: corrupt"
        )
