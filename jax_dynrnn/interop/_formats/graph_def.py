"""Reads frozen graphs: TensorFlow's `GraphDef`, in which weights are constants.

Reference: tensorflow/core/framework/graph.proto, node_def.proto, attr_value.proto, tensor.proto.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator

import numpy as np

from .._escape import escaped, quoted
from . import tensors
from .budget import Budget, text_bytes
from .error import CheckpointError, error_context
from .files import file_size, open_file
from .wire import Message, as_text

FLOAT_FIELDS = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
INTEGER_FIELDS = {"int64": 10, "bool": 11, "uint32": 16, "uint64": 17}
HALF_FIELDS = {"float16": 13, "bfloat16": 13}
INT_VAL, STRING_VAL, FLOAT8_VAL = 7, 8, 18
"""Fields of a TensorProto that hold the values one by one; `INT_VAL` has all other integers."""
FLOATING = [tensors.NUMBERS[name] for name in ("float16", "bfloat16", "float32", "float64")]
MAX_BYTES = 1 << 31  # of a constant, and of a graph: TensorFlow has the same bound
UNIFORM_BYTES = 128  # of a constant with one value for all elements, in a file
CONSTANT_BYTES = 448  # of Python's and NumPy's objects for an array and its name


def read_graph_def(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    r"""Reads the constants of a frozen graph (a `.pb`), including the weights, by node name.

    Args:
        path: a file with a `GraphDef`, as `convert_variables_to_constants` makes it.

    Returns:
        `{name: array}` in the graph's order. Strings are returned as an object array of `bytes`.
        Where the file has one value for all elements, the array is a read-only view of that value.

    Raises:
        CheckpointError: the file is truncated, corrupt or of another format, has no constants, or
            one of a dtype that NumPy lacks, or needs far more memory than its size suggests.

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
    with open_file(path) as file, error_context(escaped(os.fspath(path))):
        size = file_size(file)
        if size > MAX_BYTES:
            raise CheckpointError(f"expected a GraphDef of at most {MAX_BYTES} bytes, got {size}")
        constants = dict(_constants(file.read(size), Budget(size)))
        if not constants:
            raise CheckpointError("expected a graph with constants, got none: is it frozen?")
    return constants


def _constants(data: bytes, budget: Budget) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and the value of each constant."""
    for blob in _nodes(data):
        node = Message(blob)
        if node.blob(2) == b"Const":
            raw_name = bytes(node.blob(1))
            budget.take(CONSTANT_BYTES + text_bytes(raw_name))
            name = as_text(raw_name)
            with error_context(f"constant {quoted(name)}"):
                yield name, _read_array(_value_attribute(node).message(8), budget)


def uniform_constant(node: Message) -> float | None:
    """The floating number that all elements of a constant are; `None` for others."""
    try:
        data = _value_attribute(node).blob(8)
        tensor = Message(data)
        if tensor.integer(1) not in FLOATING or len(data) > UNIFORM_BYTES:
            return None
        array = _read_array(tensor, Budget(0))
    except CheckpointError:
        return None
    # One value for all elements is stored once, and its array is a view of it.
    return float(array.flat[0]) if array.size and not any(array.strides) else None


def _nodes(data: bytes) -> Iterator[memoryview]:
    """Yields the bytes of each node."""
    try:
        yield from Message(data).blobs(1)
    except CheckpointError as error:
        raise CheckpointError(
            f"expected a GraphDef ({error}); the weights of a SavedModel are in the files "
            "variables/variables.* beside it, for read_checkpoint"
        ) from None


def _value_attribute(node: Message) -> Message:
    """The attribute `value` of a constant."""
    found = None
    # Of repeated keys of a map, protocol buffers take the last.
    for attribute in node.messages(5):
        if attribute.blob(1) == b"value":
            found = attribute
    if found is None:
        names = [attribute.text(1) for attribute in itertools.islice(node.messages(5), 8)]
        raise CheckpointError(f"expected a value, got attributes {[*map(quoted, names)]}")
    return found.message(2)


def _read_array(tensor: Message, budget: Budget) -> np.ndarray:
    """The array of a TensorProto.

    Its values are raw bytes, or listed one by one; then the last one stands for all that follow.
    """
    dtype, shape = tensors.numpy_dtype(tensor.integer(1)), tensors.read_shape(tensor.message(2))
    count, content = math.prod(shape), tensor.blob(4)
    strings = tensor.integer(1) == tensors.STRING
    if content and not strings and len(content) == count * dtype.itemsize:
        budget.take(len(content))
        return np.frombuffer(content, dtype).reshape(shape).copy()
    values = _listed_values(tensor, dtype, budget)
    if content or len(values) > count or count * dtype.itemsize > MAX_BYTES:
        raise CheckpointError(
            f"expected {dtype} {list(shape)}, got {len(content)} bytes and {len(values)} values"
        )
    # TensorFlow leaves out values that are 0.
    if len(values) == 0:
        values = tensors.object_array([b""]) if strings else np.zeros(1, dtype)
    # A view: a few bytes of a file may declare an array of any size.
    if len(values) == 1:
        return np.broadcast_to(values.reshape(()), shape)
    if len(values) < count:
        budget.take(count * dtype.itemsize)
        values = np.concatenate([values, np.broadcast_to(values[-1:], count - len(values))])
    return values.reshape(shape)


def _listed_values(tensor: Message, dtype: np.dtype, budget: Budget) -> np.ndarray:
    """The elements that are listed one by one, in the field of their dtype."""
    name = dtype.name
    if dtype.hasobject:
        return tensors.object_array([bytes(blob) for blob in tensor.blobs(STRING_VAL)])
    if name in FLOAT_FIELDS:
        return tensor.floats(FLOAT_FIELDS[name], dtype, budget)
    if name.startswith("float8"):
        return np.frombuffer(tensor.blob(FLOAT8_VAL), dtype).copy()
    if name in HALF_FIELDS:
        return tensor.integers(HALF_FIELDS[name], np.uint16, budget).view(dtype)
    return tensor.integers(INTEGER_FIELDS.get(name, INT_VAL), dtype, budget)
