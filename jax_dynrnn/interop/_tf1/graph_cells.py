"""Completes cells that variables show with what a graph shows of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ... import wrappers as w
from .._formats.graph_nodes import Node
from . import graph, graph_options, graph_runs
from .graph_options import Variables

OPS = frozenset((*graph.OPS, *graph.BLOCKS, *graph_options.OPS, *graph_runs.OPS))
"""All operations that are looked at."""


class GraphCells:
    """The cells in a graph."""

    def __init__(self, nodes: Mapping[str, Node]):
        self._graph = graph.Graph(nodes)
        self.missing: list[str] = []
        """The kernels of the cells whose operations were not found."""
        self.started: list[str] = []
        """The kernels of the cells that the graph gives an initial state."""

    def completed(self, cell: Any, variables: Variables) -> Any:
        """A cell with its options, and its residual connection, if it has one."""
        class_name = type(cell).__name__
        fields = {field.name for field in dataclasses.fields(cell)} & graph_options.OPTIONS
        found = graph_options.options(self._graph, class_name, variables)
        if found is None and fields:
            self.missing.append(_kernel(variables))
        options = {name: x for name, x in (found or {}).items() if name in fields}
        return dataclasses.replace(cell, **options)

    def has(self, variables: Variables) -> bool:
        """Whether the graph has the product with a cell's kernel."""
        return graph_options.product_of(self._graph, variables) is not None

    def with_residual(self, cell: Any, variables: Variables) -> Any:
        """A cell, in a wrapper if the graph adds its inputs to its outputs."""
        residual = graph_runs.is_residual(self._graph, variables)
        return w.ResidualWrapper(cell) if residual else cell

    def learned_state(
        self, cell: Any, variables: Variables, is_row: Callable[[str, int], bool]
    ) -> dict[str, str] | None:
        """The variables that are the initial state of a cell, by the names of the state's leaves.

        Args:
            cell: of any class.
            variables: of the cell.
            is_row: whether a variable is a row of so many units.
        """
        states = graph_runs.initial_state(self._graph, type(cell).__name__, variables)
        if all(self._graph.uniform(state) == 0 for state in states.values()):
            return None
        sizes = {"h": getattr(cell, "num_proj", None) or cell.num_units}
        found = {}
        for leaf, state in states.items():
            size = sizes.get(leaf, cell.num_units)
            row = graph_runs.broadcast_row(self._graph, state, lambda x, n=size: is_row(x, n))
            found |= {leaf: row} if row else {}
        if len(found) == len(states):
            return found
        self.started.append(_kernel(variables))
        return None

    def with_output(self, wrapper: Any, variables: Variables) -> Any:
        """An `AttentionWrapper` with the output that the graph shows."""
        kernel = variables.get("attention_layer/kernel", [])
        if graph_runs.returns_attention(self._graph, kernel) is False:
            return dataclasses.replace(wrapper, output_attention=False)
        return wrapper

    def epsilon(self, variance: list[str]) -> float | None:
        """The epsilon of a batch norm, from the names of its `moving_variance`."""
        found = graph_runs.epsilon(self._graph, variance)
        return None if found is None else float(f"{found:.7g}")

    def time_major(self, kernels: Iterable[list[str]]) -> bool:
        """Whether time is the first axis of the inputs of a run, with these kernels."""
        return bool(graph_runs.time_major(self._graph, kernels))


def _kernel(variables: Variables) -> str:
    """The name that stands for a cell in a message."""
    named = [name for path, (name, *_) in variables.items() if path.endswith("kernel")]
    return next(iter(named), next(iter(variables.values()))[0])
