"""Which cells the variables of a TF1 model may be of, by their names and shapes."""

from __future__ import annotations

import dataclasses
import itertools
import os.path
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ... import wrappers as w
from .kinds import MOST_SCOPES
from .names import canonical
from .scopes import SCOPES
from .sizes import CELLS, WRAPPERS, numbered
from .table import Table

Node = dict[str, Any]
"""Scopes in scopes, and in them the canonical names of variables."""


MOST_FOUND = 1000
MOST_LENGTH = 1000
NAME_BYTES, SCOPE_BYTES = 1000, 500  # of Python's objects, beside the names' characters


class Found(NamedTuple):
    """The cells of a run that were recognised, or a cell that was not."""

    scope: str
    cells: Any
    """As the run takes them; a class, if the sizes of this cell are not in its variables."""


BY_SCOPE = {
    canonical(scope)[0].split("/")[0]: kind
    for kinds in (SCOPES, CELLS)  # of those with one scope, the one in CELLS
    for kind in kinds
    if (scope := SCOPES[kind] and f"{SCOPES[kind]}/")
}
OF_RUN = re.compile(rf"{'|'.join(BY_SCOPE)}|fw|bw|cell_\d+|initial_state")
"""The scopes in that of a run whose cells were recognised."""


def recognised(table: Table) -> list[Found]:
    """The runs whose cells are known, and the cells that are not, in the order of their scopes.

    They are at most `MOST_FOUND + 1`, so that the caller can say that there are more.
    """
    root: Node = {}
    for key in sorted(table):
        if not is_too_long(key) and table.is_weight(key):
            *scopes, name = key.split("/")
            node = root
            for scope in scopes:
                if not isinstance(node.get(scope), dict):  # a variable may have a scope's name
                    node[scope] = {}
                node = node[scope]
            node.setdefault(name, key)
    return list(itertools.islice(_runs(table, root, ""), MOST_FOUND + 1))


def is_too_long(name: str) -> bool:
    """Whether a name is longer than those of models, and so is passed over."""
    return name.count("/") >= MOST_SCOPES or len(name) > MOST_LENGTH


def needed_bytes(names: Iterable[str]) -> int:
    """The most memory that a table of these names, and the scopes they are in, take.

    Args:
        names: sorted, so that those in one scope follow each other.
    """
    total, last = 0, []
    for name in names:
        if not is_too_long(name):
            scopes = name.split("/")[:-1]
            new = len(scopes) - len(os.path.commonprefix([scopes, last]))
            total += NAME_BYTES + 3 * sys.getsizeof(name) + new * SCOPE_BYTES
            last = scopes
    return total


def _runs(table: Table, node: Node, scope: str) -> Iterator[Found]:
    cells = _stack(table, node, scope) or _pair(table, node, scope) or _cell(table, node, scope)
    if cells is not None:
        yield Found(scope, cells)
        node = {name: x for name, x in node.items() if not OF_RUN.fullmatch(name)}
    for name, inner in node.items():
        place = f"{scope}/{name}".lstrip("/")
        if name in BY_SCOPE and name != "multi_rnn_cell":
            yield Found(place, BY_SCOPE[name])
        elif isinstance(inner, dict):
            again = _again(table, inner, name, place)
            yield from [Found(place, again)] if again else _runs(table, inner, place)


def _again(table: Table, node: Node, name: str, place: str) -> Any:
    """A cell whose scope is `lstm_cell_1`: the second that was made in one scope."""
    first = canonical(re.sub(r"_\d+$", "", name) + "/kernel")[0].split("/")[0]
    if first == name or first not in BY_SCOPE:
        return None
    return _cell(table, {first: node}, place) or BY_SCOPE[first]


def _stack(table: Table, node: Node, scope: str) -> Any:
    layers = [_inner(layer, "bidirectional_rnn") for layer in _layers(node)]
    pairs = [_pair(table, layer, scope) for layer in layers]
    return tuple(map(list, zip(*pairs, strict=True))) if pairs and None not in pairs else None


def _pair(table: Table, node: Node, scope: str) -> Any:
    pair = tuple(_cell(table, _inner(node, way), f"{scope}/{way}") for way in ("fw", "bw"))
    return None if None in pair else pair


def _cell(table: Table, node: Node, scope: str) -> Any:
    """The one cell in a scope, or `None`."""
    if "multi_rnn_cell" in node:
        layers = _layers(_inner(node, "multi_rnn_cell"))
        cells = [_cell(table, layer, scope) for layer in layers]
        return w.MultiRNNCell(cells) if cells and None not in cells else None
    names = [name for name in node if name in BY_SCOPE]
    if len(names) != 1:
        return None
    try:
        cell = _built(table, _inner(node, names[0]), BY_SCOPE[names[0]], scope)
    except (LookupError, TypeError, ValueError):  # variables are missing, or of other shapes
        return None
    if cell is not None and "carry_w" in node:
        cell = w.HighwayWrapper(cell, couple_carry_transform_gates="transform_w" not in node)
    return w.LearnedInitialState(cell) if cell is not None and "initial_state" in node else cell


def _layers(node: Node) -> list[Node]:
    return numbered({name: _inner(node, name) for name in node}, r"cell_(\d+)")


def _inner(node: Node, name: str) -> Node:
    """A scope in a node; an empty one if there is none, or a variable of that name."""
    inner = node.get(name)
    return inner if isinstance(inner, dict) else {}


def _built(table: Table, node: Node, kind: type[Any], scope: str) -> Any:
    """A cell of which the variables are in `node`."""
    keys = _flat(node)
    shapes = {name.removeprefix("wn_lstm_cell/"): table.spec(k).shape for name, k in keys.items()}
    if kind in CELLS:
        cell = CELLS[kind](shapes)
        cudnn = any("cudnn_compatible_lstm" in table.name(key) for key in keys.values())
        return dataclasses.replace(cell, forget_bias=0.0) if cudnn else cell
    inner = _cell(table, node, scope)
    if inner is None or kind not in WRAPPERS:
        return None
    memories = [table.spec(key).shape for key in table.nearest_memories(scope)]
    return WRAPPERS[kind](inner, shapes, memories)


def _flat(node: Node) -> dict[str, str]:
    """The variables in a node by their names in it."""
    return {
        f"{name}/{inner}".rstrip("/"): key
        for name, below in node.items()
        for inner, key in (_flat(below) if isinstance(below, dict) else {"": below}).items()
    }
