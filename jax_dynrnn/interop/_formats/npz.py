"""Reads the shapes in an `.npz`, NumPy's zip of arrays, without decompressing the arrays."""

from __future__ import annotations

import io
import math
import zipfile

import numpy as np

from .._escape import escaped, quoted
from .error import CheckpointError, error_context
from .files import MAX_READ_BYTES, BoundedFile, check_regular, file_size
from .tensors import Spec, check_shape

HEADER_BYTES = 2000  # enough for an array of numbers with 64 axes
MAX_DEFLATE_RATIO = 1032  # of deflate, by its format
SUFFIX = ".npy"


def read_npz_specs(path: str, max_read_bytes: int = MAX_READ_BYTES) -> dict[str, Spec]:
    """The shape and dtype of each array by name; raises `CheckpointError` for a damaged file."""
    check_regular(path)
    with BoundedFile(path, max_read_bytes) as file, error_context(escaped(path)):
        try:
            return _read_specs(file)
        except (CheckpointError, MemoryError):
            raise
        except Exception as error:  # zipfile and NumPy document no types for damaged files
            raise CheckpointError(
                f"expected an .npz, as np.savez writes it, got a damaged one: {escaped(error)}"
            ) from None


def _read_specs(file: BoundedFile) -> dict[str, Spec]:
    """The shape and dtype of each member of an open archive, by name."""
    size = file_size(file)
    if file.read(min(size, 6)) == b"\x93NUMPY":
        raise CheckpointError("expected arrays by name, as np.savez writes them, got one array")
    with zipfile.ZipFile(file) as archive:
        specs = {}
        for info in archive.infolist():
            with error_context(f"member {quoted(info.filename)}"):
                _check_member(info, size)
                with archive.open(info) as member:
                    # Only the beginning of a member is decompressed.
                    spec = _read_spec(member.read(2 * HEADER_BYTES), info.file_size)
            specs[info.filename.removesuffix(SUFFIX)] = spec
    return specs


def _check_member(info: zipfile.ZipInfo, size: int) -> None:
    """Checks that a member is an array, of a size that its compressed bytes can have."""
    if not info.filename.endswith(SUFFIX):
        raise CheckpointError("expected an array, a member that ends in .npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(f"expected compression 0 or 8, got {info.compress_type}")
    if info.compress_size > size or info.file_size > MAX_DEFLATE_RATIO * info.compress_size:
        raise CheckpointError(
            f"expected {info.compress_size} compressed bytes to hold those of the array, got "
            f"{info.file_size} of them: corrupt"
        )


def _read_spec(header: bytes, size: int) -> Spec:
    """The shape and dtype in the header of an array, if the member has as many bytes."""
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file, HEADER_BYTES)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file, HEADER_BYTES)
    if dtype.hasobject:
        raise CheckpointError("expected an array of numbers, got pickled objects, never loaded")
    if dtype.names:
        raise CheckpointError("expected an array of numbers, got a structured one")
    if min(shape, default=0) < 0:
        raise CheckpointError(f"expected a shape, got {list(shape)}")
    check_shape(shape)
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise CheckpointError(f"expected {expected} bytes for {dtype} {list(shape)}, got {size}")
    return Spec(shape, dtype)
