"""Reads the operations of a TensorFlow graph: which receives which, and scalar constants.

Reference: tensorflow/core/framework/node_def.proto, protobuf/meta_graph.proto.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Container
from typing import NamedTuple

from .._escape import escaped
from .budget import text_bytes
from .error import CheckpointError, error_context
from .files import file_size, open_file
from .graph_def import MAX_BYTES, scalar_constant
from .wire import Message, as_text

MAX_NODES_BYTES = 6 << 20  # some 6,000 operations; a cell has 40
NODE_BYTES = 800  # of Python's objects for a node with a few inputs
MAX_INPUTS = 64  # of a node; the others are ignored


class Node(NamedTuple):
    """An operation of a graph."""

    op: str
    inputs: tuple[str, ...]
    """Names of other nodes, `"split:2"` for an output that is not the first."""
    value: float | None = None
    """That of a scalar constant."""


def read_nodes(path: str | os.PathLike[str], ops: Container[str], *, meta: bool) -> dict[str, Node]:
    """Operations of a graph by name; those inside of functions and of gradients are left out.

    Args:
        path: of a `GraphDef`, or with `meta` of a `MetaGraphDef`.
        ops: the kinds of operations.

    Raises:
        CheckpointError: the file is damaged, or of another format.
    """
    with open_file(path) as file, error_context(escaped(os.fspath(path))):
        size = file_size(file)
        if size > MAX_BYTES:
            raise CheckpointError(f"expected a graph of at most {MAX_BYTES} bytes, got {size}")
        graph, nodes, used = Message(file.read(size)), {}, 0
        for blob in (graph.message(2) if meta else graph).blobs(1):
            node = Message(blob)
            op = bytes(node.blob(2)).decode(errors="replace")
            if op not in ops or bytes(node.blob(1)).startswith(b"gradients"):
                continue
            inputs = itertools.islice(node.blobs(3), MAX_INPUTS)
            texts = [bytes(node.blob(1)), *map(bytes, inputs)]
            used += NODE_BYTES + 2 * sum(map(text_bytes, texts))
            if used > MAX_NODES_BYTES:
                raise CheckpointError("expected fewer operations than this graph has")
            name, *names = map(as_text, texts)
            value = scalar_constant(node) if op == "Const" else None
            nodes[name] = Node(op, tuple(names), value)
    return nodes
