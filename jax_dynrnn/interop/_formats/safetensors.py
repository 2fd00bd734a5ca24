"""Reads safetensors: a header in JSON, with the dtype, shape and place of each array, then data.

Reference: github.com/huggingface/safetensors, README.md, "Format".
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, BinaryIO

import numpy as np

from .._escape import escaped, quoted
from .budget import Budget
from .error import CheckpointError, error_context
from .files import file_size, open_file
from .tensors import Spec, check_shape, numpy_dtype

MAX_HEADER_BYTES = 3 << 20  # some 20,000 arrays; JSON makes objects of twenty times its size
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32",
    "F64": "float64", "C64": "complex64",
}  # fmt: skip
EXTENDED_DTYPES = {"BF16": 14, "F8_E5M2": 24, "F8_E4M3": 25}
"""Dtypes that NumPy alone lacks, by TensorFlow's numbers."""


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the arrays of a safetensors file by name, with NumPy alone.

    Args:
        path: the file.

    Returns:
        `{name: array}` in the order of the file, bfloat16 and float8 included.

    Raises:
        CheckpointError: the file is truncated, corrupt or of another format, or has a dtype that
            NumPy cannot represent.

    Reference: `safetensors.numpy.load_file`.

    Example:
        >>> import pathlib, tempfile
        >>> from jax_dynrnn.interop import checkpoint
        >>> header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.safetensors")
        ...     _ = path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        ...     checkpoint.read_safetensors(path)["w"].tolist()
        [0.0, 0.0]
    """
    with open_file(path) as file, error_context(escaped(os.fspath(path))):
        places, start = _read_header(file)
        # Arrays may share bytes, so that many of them are larger than the file together.
        budget, arrays = Budget(file_size(file)), {}
        for name, (spec, offset, size) in places.items():
            budget.take(size)
            file.seek(start + offset)
            arrays[name] = np.frombuffer(file.read(size), spec.dtype).reshape(spec.shape).copy()
    return arrays


def read_safetensors_specs(path: str | os.PathLike[str]) -> dict[str, Spec]:
    """The shape and dtype of each array by name; raises as `read_safetensors`."""
    with open_file(path) as file, error_context(escaped(os.fspath(path))):
        return {name: spec for name, (spec, _, _) in _read_header(file)[0].items()}


def _read_header(file: BinaryIO) -> tuple[dict[str, tuple[Spec, int, int]], int]:
    """The spec, the offset and the number of bytes of each array, and where the data begins."""
    size = file_size(file)
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > min(size - 8, MAX_HEADER_BYTES):
        raise CheckpointError(
            f"expected a header within the file and of at most {MAX_HEADER_BYTES} bytes, got "
            f"{header_bytes} of them, in a file of {size}"
        )
    try:
        header = json.loads(file.read(header_bytes))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"expected a header in JSON: {escaped(error)}") from None
    if not isinstance(header, dict):
        raise CheckpointError("expected arrays by name in the header, got other JSON")
    data_bytes = size - 8 - header_bytes
    places = {}
    for name, entry in header.items():
        if name != "__metadata__":
            with error_context(f"array {quoted(name)}"):
                places[name] = _place(entry, data_bytes)
    return places, 8 + header_bytes


def _place(entry: Any, data_bytes: int) -> tuple[Spec, int, int]:
    """The spec, the offset and the number of bytes of one array."""
    try:
        name, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (LookupError, TypeError, ValueError):
        raise CheckpointError("expected a dtype, a shape and two offsets, got others") from None
    if not all(type(x) is int and x >= 0 for x in (*shape, begin, end)):
        raise CheckpointError("expected a shape and two offsets, got others")
    if not isinstance(name, str) or not (name in DTYPES or name in EXTENDED_DTYPES):
        raise CheckpointError(f"expected a dtype that NumPy can represent, got {name!r:.80}")
    check_shape(shape)
    number = EXTENDED_DTYPES.get(name)
    dtype = np.dtype(DTYPES[name]) if number is None else numpy_dtype(number)
    if end > data_bytes or end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"expected {dtype} {list(shape)} within {data_bytes} bytes of data, got bytes {begin} "
            f"to {end}"
        )
    return Spec(shape, dtype), begin, end - begin
