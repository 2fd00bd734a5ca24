"""Walks through the operations of a graph."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping

from .._formats.graph_nodes import Node

PASS_ON = ("Enter", "Identity", "ReadVariableOp", "Switch", "Merge", "RefEnter", "RefIdentity")
"""Operations that return their first input."""
ADD = ("Add", "AddV2")
OPS = (*PASS_ON, *ADD, "ConcatV2", "Const", "Fill", "MatMul", "ZerosLike")
"""All operations that are looked at here, besides `BLOCKS`."""
BLOCKS = ("BlockLSTM", "BlockLSTMV2", "LSTMBlockCell", "GRUBlockCell")
"""Operations that are a whole cell, or the run of one."""
OUTPUTS = dict.fromkeys(BLOCKS, 7) | {"Split": 6}
"""How many outputs an operation has at most; others have one. No cell has more than 6 gates."""
MAX_STEPS = 100
"""Operations that are looked at in one walk."""


class Graph:
    """The operations of a graph, and which ones receive the output of each."""

    def __init__(self, nodes: Mapping[str, Node]):
        self._nodes = nodes
        self._users: dict[str, list[str]] = {}
        for name, node in nodes.items():
            for source in node.inputs:
                self._users.setdefault(source, []).append(name)

    def node(self, output: str) -> Node | None:
        """The operation that has this output, if it is one that was read."""
        return self._nodes.get(output.partition(":")[0])

    def using(self, sources: Iterable[str], ops: Container[str]) -> Iterator[str]:
        """Yields the operations, of certain kinds, that receive one of these outputs."""
        for source in sources:
            for user in self._users.get(source, ())[:MAX_STEPS]:
                if self._nodes[user].op in ops:
                    yield user

    def after(self, sources: Iterable[str], ops: Container[str]) -> Iterator[str]:
        """Yields all operations that are reached from outputs through operations of some kinds."""
        found = dict.fromkeys(sources)
        for source in (waiting := list(found)):
            for user in self.using([source], ops):
                if user not in found and len(found) < MAX_STEPS:
                    found[user] = None
                    waiting += self.outputs(user)
                    yield user

    def outputs(self, name: str) -> list[str]:
        """All outputs of an operation; the first has its name."""
        return [name, *(f"{name}:{i}" for i in range(1, OUTPUTS.get(self.op(name), 1)))]

    def before(self, source: str, ops: Container[str]) -> Iterator[str]:
        """Yields an output, and all that it is computed from by operations of some kinds."""
        found = {source: None}
        for output in (waiting := [source]):
            yield output
            node = self.node(output)
            for given in node.inputs if node and node.op in ops else ():
                if given not in found and len(found) < MAX_STEPS:
                    found[given] = None
                    waiting.append(given)

    def origin(self, source: str) -> str:
        """The output that operations of `PASS_ON` return: what a loop's state is at first."""
        for _ in range(MAX_STEPS):
            node = self.node(source)
            if node is None or node.op not in PASS_ON or not node.inputs:
                break
            source = node.inputs[0]
        return source

    def shards(self, variables: Iterable[str]) -> list[str]:
        """Variables, and the shards of each, which a checkpoint joins and a graph does not."""
        found = list(variables)
        for name in list(found):
            numbered = (f"{name}/part_{i}" for i in itertools.count())
            found += itertools.takewhile(self._users.__contains__, numbered)
        return found

    def product(self, variables: list[str]) -> str | None:
        """The first operation that uses a kernel, or the shards of one.

        It is a matmul, in the loop if there is one, or one of `BLOCKS`.
        """
        products = ("MatMul", *BLOCKS)
        # Shards are concatenated before.
        variables = self.shards(variables)
        through = list(self.after(variables, (*PASS_ON, "ConcatV2", "Concat")))
        return next(self.using([*variables, *through], products), None)

    def inputs(self, name: str) -> tuple[str, ...]:
        """What an operation receives."""
        node = self.node(name)
        return node.inputs if node else ()

    def op(self, name: str) -> str:
        """The kind of an operation; empty if it was not read."""
        node = self.node(name)
        return node.op if node else ""

    def attribute(self, name: str, key: str, default: float) -> float:
        """An attribute of an operation; graphs may leave out those with TensorFlow's defaults."""
        node = self.node(name)
        return node.attributes.get(key, default) if node else default

    def constant(self, name: str) -> float | None:
        """The constant among the inputs of an operation, all elements of which are one number."""
        values = map(self.uniform, self.inputs(name))
        return next((value for value in values if value is not None), None)

    def uniform(self, output: str) -> float | None:
        """The number that all elements of an output are, if it is constant."""
        node = self.node(self.origin(output))
        if node is not None and node.op == "Fill" and len(node.inputs) == 2:
            node = self.node(self.origin(node.inputs[1]))
        if node is None:
            return None
        return 0.0 if node.op == "ZerosLike" else node.value
