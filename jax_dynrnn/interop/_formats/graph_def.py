"""Frozen graphs: TensorFlow's `GraphDef`, in which weights are constants.

Reference: tensorflow/core/framework/graph.proto, node_def.proto, attr_value.proto, tensor.proto.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np

from . import tensors
from .error import CheckpointError, located
from .wire import Message

FLOATS = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
INTEGERS = {"int64": 10, "bool": 11, "uint32": 16, "uint64": 17}
BITS = {"float16": 13, "bfloat16": 13}
FIELD, STRINGS, FLOAT8 = 7, 8, 18
"""The fields of a TensorProto that its numbers may be in; `FIELD` is that of other integers."""
MOST_BYTES = 1 << 31  # of a constant: TensorFlow's own bound


def read_graph_def(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    r"""The constants of a frozen graph (a `.pb`) by the names of their nodes; weights among them.

    Args:
        path: of a file with a `GraphDef`, as `convert_variables_to_constants` makes it.

    Returns:
        `{name: array}` in the graph's order. Strings are an object array of `bytes`. What the
        file has as one value for a whole array is a read-only view of that value.

    Raises:
        CheckpointError: the file is truncated, corrupt or of another kind, or has no constants,
            or one of a dtype that NumPy lacks.

    Reference: `tf.import_graph_def`.

    Example:
        >>> import pathlib, tempfile
        >>> from jax_dynrnn.interop import checkpoint
        >>> value = b"B\r\x08\x01\x12\x04\x12\x02\x08\x03-\0\0\0?"
        >>> node = b"\n\x01w\x12\x05Const*\x18\n\x05value\x12\x0f" + value
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "frozen.pb")
        ...     _ = path.write_bytes(b"\n$" + node)
        ...     checkpoint.read_graph_def(path)["w"].tolist()
        [0.5, 0.5, 0.5]
    """
    with open(path, "rb") as file:
        data = file.read()
    with located(os.fspath(path)):
        constants = dict(_constants(data))
        if not constants:
            raise CheckpointError("expected a graph with constants, got none: is it frozen?")
    return constants


def _constants(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    for blob in _nodes(data):
        node = Message(blob)
        if node.blob(2) == b"Const":
            name = node.text(1)
            with located(f"constant {name!r}"):
                attributes = {entry.text(1): entry for entry in node.messages(5)}
                if "value" not in attributes:
                    raise CheckpointError(f"expected a value, got attributes {[*attributes]}")
                yield name, _array(attributes["value"].message(2).message(8))


def _nodes(data: bytes) -> list[memoryview]:
    try:
        return Message(data).blobs(1)
    except CheckpointError as error:
        raise CheckpointError(
            f"expected a GraphDef ({error}); the weights of a SavedModel are in the files "
            "variables/variables.* beside it, for read_checkpoint"
        ) from None


def _array(tensor: Message) -> np.ndarray:
    """Of a TensorProto: its bytes, or numbers of which the last one may stand for more."""
    dtype, shape = tensors.dtype(tensor.integer(1)), tensors.shape(tensor.message(2))
    count, content = math.prod(shape), tensor.blob(4)
    values = _values(tensor, dtype)
    strings = tensor.integer(1) == tensors.STRING
    if content and not strings and len(content) == count * dtype.itemsize:
        return np.frombuffer(content, dtype).reshape(shape).copy()
    if content or len(values) > count or count * dtype.itemsize > MOST_BYTES:
        raise CheckpointError(
            f"expected {dtype} {list(shape)}, got {len(content)} bytes and {len(values)} values"
        )
    if len(values) == 0:
        values = tensors.object_array([b""]) if strings else np.zeros(1, dtype)
    if len(values) == 1:
        return np.broadcast_to(values.reshape(()), shape)
    return np.concatenate([values, np.repeat(values[-1:], count - len(values))]).reshape(shape)


def _values(tensor: Message, dtype: np.dtype) -> np.ndarray:
    """The numbers that are written one by one."""
    name = dtype.name
    if dtype.hasobject:
        return tensors.object_array([bytes(blob) for blob in tensor.blobs(STRINGS)])
    if name in FLOATS:
        return tensor.floats(FLOATS[name], dtype)
    if name.startswith("float8"):
        return np.frombuffer(tensor.blob(FLOAT8), dtype)
    if name in BITS:
        return np.array(tensor.integers(BITS[name]), np.int64).astype(np.uint16).view(dtype)
    return np.array(tensor.integers(INTEGERS.get(name, FIELD)), np.int64).astype(dtype)
