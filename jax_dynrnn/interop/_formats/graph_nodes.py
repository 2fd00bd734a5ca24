"""Reads the operations of a TensorFlow graph: which receives which, and constants.

Reference: tensorflow/core/framework/node_def.proto, function.proto, protobuf/meta_graph.proto.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
from collections.abc import Container, Iterator, Mapping
from typing import NamedTuple

from .._escape import escaped
from .budget import text_bytes
from .error import CheckpointError, error_context
from .files import file_size, open_file
from .graph_def import MAX_BYTES, uniform_constant
from .wire import Message, as_text

MAX_NODES_BYTES = 6 << 20  # some 6,000 operations; a cell has 40
NODE_BYTES = 800  # of Python's objects for a node with a few inputs
MAX_INPUTS = 64  # of a node; the others are ignored
MAX_CALL_INPUTS = 1024  # of a loop, which receives all weights that are used in it
MAX_ARGUMENTS_BYTES = 1 << 20  # of all functions
UNUSED = re.compile(rb"(^|/)(gradients|save|Initializer)[^/]*/")
"""Scopes of operations that compute nothing of a model."""
BODIES = {b"While": b"body", b"StatelessWhile": b"body", b"PartitionedCall": b"f"}
BODIES |= {b"StatefulPartitionedCall": b"f"}
"""The attribute that names the function of an operation."""
ARGUMENT = "Identity"
"""The operation that stands for an argument of a function, and receives what it is given."""
FLOATS = (b"alpha", b"forget_bias", b"cell_clip", b"epsilon")
"""The attributes that are read."""


class Node(NamedTuple):
    """An operation of a graph."""

    op: str
    inputs: tuple[str, ...]
    """Names of other nodes, `"split:2"` for an output that is not the first."""
    value: float | None = None
    """That of all elements of a constant."""
    attributes: Mapping[str, float] = {}
    """Those in `FLOATS`."""


class Call(NamedTuple):
    """A function in a graph, and what is given to it."""

    name: str
    """Of the operation that calls it."""
    function: bytes
    inputs: tuple[str, ...]


def read_nodes(
    path: str | os.PathLike[str], ops: Container[str], *, form: str = "graph"
) -> dict[str, Node]:
    """Operations of a graph by name, without those of gradients, savers and initializers.

    The operations in the body of a loop follow, as `LOOP//NAME`. Its arguments are operations too.

    Args:
        path: the file.
        ops: the kinds of operations.
        form: `"graph"`, a `GraphDef`; `"meta"`, a `MetaGraphDef`; `"saved_model"`, a `SavedModel`.

    Raises:
        CheckpointError: the file is damaged, or of another format.
    """
    with open_file(path) as file, error_context(escaped(os.fspath(path))):
        size = file_size(file)
        if size > MAX_BYTES:
            raise CheckpointError(f"expected a graph of at most {MAX_BYTES} bytes, got {size}")
        message = Message(file.read(size))
        if form == "saved_model":
            # Each of its graphs has the same weights; the first is as good as others.
            message = next(message.messages(2), Message(b""))
        return _Reader(ops).read(message if form == "graph" else message.message(2))


class _Reader:
    """Collects the operations of a graph and of the functions that it calls."""

    def __init__(self, ops: Container[str]):
        self._ops = ops
        self._nodes: dict[str, Node] = {}
        self._calls: list[Call] = []
        self._used_bytes = 0

    def read(self, graph: Message) -> dict[str, Node]:
        """The operations of a graph, and of its functions."""
        self._add_nodes(graph.blobs(1), "")
        functions = dict(_functions(graph.message(2))) if self._calls else {}
        for call in self._calls:  # which grows: a function may call others
            # A function is read once. TensorFlow makes one for each loop, and a file in which all
            # call each other would take exponential time.
            body = functions.pop(call.function, None)
            if body is not None:
                function = Message(body)
                self._add_arguments(call, function.message(1))
                self._add_nodes(function.blobs(3), f"{call.name}//")
        return self._nodes

    def _take(self, size: int) -> None:
        self._used_bytes += size
        if self._used_bytes > MAX_NODES_BYTES:
            raise CheckpointError("expected fewer operations than this graph has")

    def _add_nodes(self, blobs: Iterator[memoryview], scope: str) -> None:
        """Adds the operations of the graph, or of a function, whose names get a scope."""
        for blob in blobs:
            node = Message(blob)
            name, op = bytes(node.blob(1)), bytes(node.blob(2))
            kind = op.decode(errors="replace")
            if (kind not in self._ops and op not in BODIES) or UNUSED.search(name):
                continue
            limit = MAX_CALL_INPUTS if op in BODIES else MAX_INPUTS
            inputs = list(map(bytes, itertools.islice(node.blobs(3), limit)))
            size = NODE_BYTES + 2 * sum(map(text_bytes, (name, *inputs)))
            self._take(size + len(scope) * (1 + len(inputs)))
            full_name = scope + as_text(name)
            names = tuple(scope + _output(as_text(x)) for x in inputs if not x.startswith(b"^"))
            if op in BODIES:
                self._calls.append(Call(full_name, _function_name(node, BODIES[op]), names))
            else:
                value = uniform_constant(node) if op == b"Const" else None
                self._nodes[full_name] = Node(kind, names, value, dict(_floats(node)))

    def _add_arguments(self, call: Call, signature: Message) -> None:
        """Adds an operation for each argument of a function, with what is given for it."""
        for given, blob in zip(call.inputs, signature.blobs(2), strict=False):
            name = bytes(Message(blob).blob(1))
            self._take(NODE_BYTES + text_bytes(name) + len(call.name))
            self._nodes[f"{call.name}//{as_text(name)}"] = Node(ARGUMENT, (given,))


def _functions(library: Message) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the name and the bytes of each function."""
    used = 0
    for blob in library.blobs(1):
        name = bytes(Message(blob).message(1).blob(1))
        used += NODE_BYTES + len(name)
        if used > MAX_ARGUMENTS_BYTES:
            raise CheckpointError("expected fewer functions than this graph has")
        yield name, blob


def _output(name: str) -> str:
    """An output as `"split:2"`, and as `"split"` if it is the first.

    In a function the name of the output stands between: `"split:output:2"`.
    """
    node, *rest = name.split(":")
    return f"{node}:{rest[-1]}" if rest and rest[-1] != "0" else node


def _attributes(node: Message) -> Iterator[tuple[bytes, Message]]:
    """Yields the attributes of an operation."""
    for blob in node.blobs(5):
        attribute = Message(blob)
        yield bytes(attribute.blob(1)), attribute.message(2)


def _function_name(node: Message, key: bytes) -> bytes:
    """The name of the function in an attribute."""
    found = [value for name, value in _attributes(node) if name == key]
    return bytes(found[-1].message(10).blob(1)) if found else b""


def _floats(node: Message) -> Iterator[tuple[str, float]]:
    """Yields the attributes that are read and are floating numbers."""
    for name, value in _attributes(node):
        if name in FLOATS and value.has(4):
            (number,) = struct.unpack("<f", value.fixed32(4).to_bytes(4, "little"))
            yield name.decode(), number
