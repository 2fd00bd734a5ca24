"""Lists the cells of a run, each with the path of its params."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..._cell import Cell
from ..._composition import Around, Stacked
from ..._types import CellLike, Cells, PyTree


class RunLayer(NamedTuple):
    """One cell of a run, in one direction."""

    cell: Any
    """The cell inside of all wrappers without variables."""
    path: str = ""
    """The path of its params: `cell_0/fw`."""
    depth: int | None = None
    """Its index in a stack; `None` without a stack."""
    direction: int | None = None
    """0 for forward, 1 for backward; `None` in a run of one direction."""
    inputs: int | None = None
    """The number of features that it receives, if the layer below determines it."""
    separate_stacks: bool = False
    """Whether it is in one of two stacks, each of which receives only its own direction."""

    def with_path(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """The same entries, with the path of the layer before their names."""
        return {f"{self.path}/{name}" if self.path else name: x for name, x in entries.items()}


def layers_of(cells: Cells) -> list[RunLayer]:
    """The layers of a run, in order from the inputs, forward before backward.

    `cells` is one cell, a pair `(cell_fw, cell_bw)` or a pair of lists `(cells_fw, cells_bw)`.
    """
    if not isinstance(cells, tuple | list):
        return _one_direction(cells)
    if not isinstance(cells, tuple) or len(cells) != 2:
        raise TypeError(
            "cells: expected one cell (a MultiRNNCell for a stack), a pair (cell_fw, cell_bw) or "
            f"a pair of lists (cells_fw, cells_bw), got a {type(cells).__name__} of {len(cells)}"
        )
    lists = [isinstance(c, tuple | list) for c in cells]
    if all(lists):
        return _stack_of_pairs(*cells)
    if any(lists):
        raise TypeError("cells: expected two cells or two lists of cells, got one of each")
    return [
        layer._replace(
            path="/".join(filter(None, (name, layer.path))),
            direction=direction,
            separate_stacks=layer.depth is not None,
        )
        for direction, (name, cell) in enumerate(zip(("fw", "bw"), cells, strict=True))
        for layer in _one_direction(cell)
    ]


def _one_direction(cell: Any) -> list[RunLayer]:
    """The layers of a cell or a stack."""
    leaves = _leaves(cell, "")
    if not leaves[0][0]:
        return [RunLayer(_unwrapped(cell))]
    below = [_output_size(cell) for _, cell in leaves[:-1]]
    return [
        RunLayer(_unwrapped(cell), path, depth, inputs=inputs)
        for depth, ((path, cell), inputs) in enumerate(zip(leaves, [None, *below], strict=True))
    ]


def _stack_of_pairs(cells_fw: Sequence[CellLike], cells_bw: Sequence[CellLike]) -> list[RunLayer]:
    """The layers of a stack of bidirectional layers."""
    if len(cells_fw) != len(cells_bw) or not cells_fw:
        raise ValueError(
            "cells: expected as many forward as backward cells, and one at least, got "
            f"{len(cells_fw)} and {len(cells_bw)}"
        )
    layers, inputs = [], None
    for depth, pair in enumerate(zip(cells_fw, cells_bw, strict=True)):
        for direction, (name, cell) in enumerate(zip(("fw", "bw"), pair, strict=True)):
            path = f"cell_{depth}/{name}"
            layers.append(RunLayer(_unwrapped(cell), path, depth, direction, inputs))
        forward, backward = (_output_size(cell) for cell in pair)
        # The outputs of both directions are concatenated for the next layer.
        inputs = forward + backward if forward and backward else None
    return layers


def _leaves(cell: Any, path: str) -> list[tuple[str, Any]]:
    """The cells of a stack, nested or not, with their wrappers and the paths of their params."""
    stack = composition(_unwrapped(cell))
    if not isinstance(stack, Stacked):
        return [(path, cell)]
    return [
        leaf
        for name, inner in stack.cells.items()
        for leaf in _leaves(inner, f"{path}/{name}" if path else name)
    ]


def _unwrapped(cell: Any) -> Any:
    """The cell inside of all wrappers without variables."""
    while isinstance(around := composition(cell), Around) and around.name is None:
        cell = around.cell
    return cell


def composition(cell: Any) -> Any:
    """How a cell is made of others, or `None`."""
    return cell.composition() if isinstance(cell, Cell) else None


def units_of(cell: Any) -> int:
    """The number of units of a cell; of a convolutional one, of its channels."""
    return cell.num_units if hasattr(cell, "num_units") else cell.output_channels


def hidden_size(cell: Any) -> int:
    """The size of a cell's output, which is also its hidden state."""
    return getattr(cell, "num_proj", None) or units_of(cell)


def _output_size(cell: Any) -> int | None:
    """The number of features of a cell's output; `None` where a wrapper changes it."""
    while isinstance(around := composition(cell), Around):
        if not around.same_output:
            return None
        cell = around.cell
    return hidden_size(cell) if hasattr(cell, "num_units") else None


def flatten(tree: PyTree, path: str = "") -> dict[str, Any]:
    """`{"a": {"b": x}, "c": [y]}` as `{"a/b": x, "c/0": y}`."""
    if isinstance(tree, Mapping):
        items = list(tree.items())
    elif isinstance(tree, tuple | list):
        items = list(enumerate(tree))
    else:
        return {path: tree}
    return {
        name: leaf
        for key, value in items
        for name, leaf in flatten(value, f"{path}/{key}" if path else str(key)).items()
    }


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a/b": x}` as `{"a": {"b": x}}`."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *inner, last = name.split("/")
        subtree = tree
        for key in inner:
            subtree = subtree.setdefault(key, {})
        subtree[last] = leaf
    return tree
