"""Finds the options of cells in a graph: forget bias, clips and activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .._formats.graph_nodes import Node

FUNCTIONS = {
    "Elu": jax.nn.elu, "LeakyRelu": jax.nn.leaky_relu, "Relu": jax.nn.relu, "Relu6": jax.nn.relu6,
    "Selu": jax.nn.selu, "Sigmoid": jax.nn.sigmoid, "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign, "Tanh": jnp.tanh,
}  # fmt: skip
"""Activation functions by their operation."""
PASS_ON = ("Enter", "Identity", "ReadVariableOp")
"""Operations between a variable and the one that uses it."""
ADD = ("Add", "AddV2")
OPS = (*FUNCTIONS, *PASS_ON, *ADD, "BiasAdd", "Const", "MatMul", "Minimum", "Mul", "Split")
"""All operations that are looked at."""
MAX_STEPS = 100  # from a variable to its matmul
CELLS = ("BasicRNNCell", "GRUCell", "LSTMCell")
"""The classes whose options are found."""


class Graph:
    """The operations of a graph, and which ones receive the output of each."""

    def __init__(self, nodes: Mapping[str, Node]):
        self._nodes = nodes
        self.missing: list[str] = []
        """The kernels of the cells whose operations were not found."""
        self._users: dict[str, list[str]] = {}
        for name, node in nodes.items():
            for source in node.inputs:
                self._users.setdefault(source, []).append(name)

    def options(self, class_name: str, kernels: list[str]) -> dict[str, Any]:
        """The options of a cell; none if its operations are not found.

        Args:
            class_name: of the cell.
            kernels: the names of its kernels; of a GRU the candidate's alone, of an LSTM the
                projection's may follow.
        """
        biased = self._biased(kernels[0]) if class_name in CELLS else None
        options = None
        if biased and class_name == "LSTMCell":
            options = self._lstm_options(biased, kernels[1:])
        elif biased:
            options = self._activation([biased])
        self.missing += [] if options is not None else kernels[:1]
        return options or {}

    def _biased(self, kernel: str) -> str | None:
        """The operation that adds the bias to the product with a kernel."""
        product = self._product(kernel)
        added = self._using([product] if product else [], ("BiasAdd", *ADD))
        return next(added, None)

    def _product(self, kernel: str) -> str | None:
        """The matmul with a kernel, in the loop."""
        found = [kernel]
        for name in found:
            for user in self._users.get(name, ())[:MAX_STEPS]:
                op = self._nodes[user].op
                if op == "MatMul":
                    return user
                if op in PASS_ON and len(found) < MAX_STEPS:
                    found.append(user)
        return None

    def _using(self, sources: list[str], ops: Any) -> Iterator[str]:
        """Yields the operations, of certain kinds, that receive one of these outputs."""
        for source in sources:
            for user in self._users.get(source, ()):
                if self._nodes[user].op in ops:
                    yield user

    def _activation(self, sources: list[str]) -> dict[str, Any] | None:
        """The activation that is applied to an output."""
        found = next(self._using(sources, FUNCTIONS), None)
        if found is None:
            return None
        function = FUNCTIONS[self._nodes[found].op]
        return {} if function is jnp.tanh else {"activation": function}

    def _lstm_options(self, biased: str, projections: list[str]) -> dict[str, Any] | None:
        """The options of an LSTM, from its four gates i, g, f, o side by side."""
        split = next(self._using([biased], ("Split",)), None)
        options = self._activation([f"{split}:1"]) if split else None
        if options is None:
            return None
        added = [self._constant(user) for user in self._using([f"{split}:2"], ADD)]
        forget_bias = next((x for x in added if x is not None), None)
        if forget_bias is None:
            return None
        # TensorFlow stores 32 bits: 0.7 is 0.699999988.
        options["forget_bias"] = float(f"{forget_bias:.7g}")
        projected = [p for p in map(self._product, projections) if p]
        clips = {
            "proj_clip": self._clip(projected),
            "cell_clip": self._clip(self._new_state(f"{split}:1")),
        }
        return options | {name: clip for name, clip in clips.items() if clip is not None}

    def _new_state(self, candidate: str) -> list[str]:
        """The sum of old state and candidate, both multiplied by their gates."""
        activated = list(self._using([candidate], FUNCTIONS))
        return list(self._using(list(self._using(activated, ("Mul",))), ADD))

    def _clip(self, sources: list[str]) -> float | None:
        """The bound that an output is clipped to; `None` if it is not."""
        clipped = (self._constant(user) for user in self._using(sources, ("Minimum",)))
        bound = next((x for x in clipped if x is not None), None)
        return None if bound is None else float(f"{bound:.7g}")

    def _constant(self, name: str) -> float | None:
        """The scalar constant among the inputs of an operation."""
        nodes = (self._nodes.get(x) for x in self._nodes[name].inputs)
        return next((node.value for node in nodes if node and node.value is not None), None)
