"""Recognises cells by the names and shapes of a TF1 model's variables."""

from __future__ import annotations

import dataclasses
import itertools
import os.path
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax

from ... import wrappers as w
from .._escape import MAX_LENGTH
from .kinds import MAX_SCOPES
from .names import canonical
from .scopes import SCOPES
from .sizes import CELLS, WRAPPERS, numbered
from .table import CanonicalWeights

ScopeTree = dict[str, Any]
"""Nested scopes; the leaves are the canonical names of variables."""


NAME_BYTES, SCOPE_BYTES = 1000, 500  # of Python's objects, without the characters of names


class Found(NamedTuple):
    """The recognised cells of a run, or the class of a cell whose options are unknown."""

    scope: str
    cells: Any
    """In the form in which the run takes them, or a class."""


BY_SCOPE = {
    canonical(scope)[0].split("/")[0]: cell_class
    for cell_classes in (SCOPES, CELLS)  # where classes share a scope, the one in CELLS is used
    for cell_class in cell_classes
    if (scope := SCOPES[cell_class] and f"{SCOPES[cell_class]}/")
}
"""The class of the cells with a scope."""
CUDNN_RELU = re.compile(r"(^|/)cudnn_rnn_relu(_\d+)?/")
"""The scope of a `CudnnRNNRelu`."""
RUN_SCOPES = re.compile(rf"{'|'.join(BY_SCOPE)}|fw|bw|cell_\d+|initial_state")
"""The scopes inside of a recognised run, which are not searched again."""


def recognised(weights: CanonicalWeights, at_most: int | None = None) -> list[Found]:
    """The first runs whose cells are recognised, and single cells that are not, sorted by scope."""
    root: ScopeTree = {}
    for key in sorted(weights):
        if not is_too_long(key) and weights.is_weight(key):
            *scopes, name = key.split("/")
            tree = root
            for scope in scopes:
                # A variable may have the name of a scope, which replaces it.
                if not isinstance(tree.get(scope), dict):
                    tree[scope] = {}
                tree = tree[scope]
            tree.setdefault(name, key)
    return list(itertools.islice(_find_runs(weights, root, ""), at_most))


def is_too_long(name: str) -> bool:
    """Whether a name is longer than those of any model, and so is ignored."""
    return name.count("/") >= MAX_SCOPES or len(name) > MAX_LENGTH


def needed_bytes(names: Iterable[str]) -> int:
    """An upper bound of the memory for these names and the scopes that they are in.

    Args:
        names: sorted, so that names in the same scope follow each other.
    """
    total, last = 0, []
    for name in names:
        if not is_too_long(name):
            scopes = name.split("/")[:-1]
            new = len(scopes) - len(os.path.commonprefix([scopes, last]))
            total += NAME_BYTES + 3 * sys.getsizeof(name) + new * SCOPE_BYTES
            last = scopes
    return total


def _find_runs(weights: CanonicalWeights, tree: ScopeTree, scope: str) -> Iterator[Found]:
    """Yields the runs in a scope, and those in the scopes inside."""
    cells = (
        _stack(weights, tree, scope) or _pair(weights, tree, scope) or _cell(weights, tree, scope)
    )
    if cells is not None:
        yield Found(scope, cells)
        tree = {name: x for name, x in tree.items() if not RUN_SCOPES.fullmatch(name)}
    for name, inner in tree.items():
        inner_scope = f"{scope}/{name}".lstrip("/")
        if name in BY_SCOPE and name != "multi_rnn_cell":
            yield Found(inner_scope, BY_SCOPE[name])
        elif isinstance(inner, dict):
            cell = _numbered_cell(weights, inner, name, inner_scope)
            yield from (
                [Found(inner_scope, cell)] if cell else _find_runs(weights, inner, inner_scope)
            )


def _numbered_cell(weights: CanonicalWeights, tree: ScopeTree, name: str, inner_scope: str) -> Any:
    """The cell in a scope such as `lstm_cell_1`: a further cell made in the same scope."""
    first = canonical(re.sub(r"_\d+$", "", name) + "/kernel")[0].split("/")[0]
    if first == name or first not in BY_SCOPE:
        return None
    return _cell(weights, {first: tree}, inner_scope) or BY_SCOPE[first]


def _stack(weights: CanonicalWeights, tree: ScopeTree, scope: str) -> Any:
    """The pair of lists of cells of a stack of bidirectional layers, or `None`."""
    layers = [_subtree(layer, "bidirectional_rnn") for layer in _layers(tree)]
    pairs = [_pair(weights, layer, scope) for layer in layers]
    return tuple(map(list, zip(*pairs, strict=True))) if pairs and None not in pairs else None


def _pair(weights: CanonicalWeights, tree: ScopeTree, scope: str) -> Any:
    """The pair of cells of a bidirectional run, or `None`."""
    pair = tuple(
        _cell(weights, _subtree(tree, direction), f"{scope}/{direction}")
        for direction in ("fw", "bw")
    )
    return None if None in pair else pair


def _cell(weights: CanonicalWeights, tree: ScopeTree, scope: str) -> Any:
    """The only cell in a scope, or `None`."""
    if "multi_rnn_cell" in tree:
        layers = _layers(_subtree(tree, "multi_rnn_cell"))
        cells = [_cell(weights, layer, scope) for layer in layers]
        return w.MultiRNNCell(cells) if cells and None not in cells else None
    names = [name for name in tree if name in BY_SCOPE]
    if len(names) != 1:
        return None
    try:
        cell = _build_cell(weights, _subtree(tree, names[0]), BY_SCOPE[names[0]], scope)
    # Nothing is known about the variables but their names: any misfit means another cell.
    except (LookupError, TypeError, ValueError):
        return None
    if cell is not None and "carry_w" in tree:
        cell = w.HighwayWrapper(cell, couple_carry_transform_gates="transform_w" not in tree)
    return w.LearnedInitialState(cell) if cell is not None and "initial_state" in tree else cell


def _layers(tree: ScopeTree) -> list[ScopeTree]:
    """The scopes of the layers of a stack, in order."""
    return numbered({name: _subtree(tree, name) for name in tree}, r"cell_(\d+)")


def _subtree(tree: ScopeTree, name: str) -> ScopeTree:
    """The scope of this name; an empty one if there is none, or a variable of that name."""
    inner = tree.get(name)
    return inner if isinstance(inner, dict) else {}


def _build_cell(
    weights: CanonicalWeights, tree: ScopeTree, cell_class: type[Any], scope: str
) -> Any:
    """A cell of this class, with options inferred from its variables in `tree`."""
    keys = _flatten(tree)
    shapes = {name.removeprefix("wn_lstm_cell/"): weights.spec(k).shape for name, k in keys.items()}
    if cell_class in CELLS:
        cell = CELLS[cell_class](shapes)
        return _as_in_graph(weights, _as_by_cudnn(weights, cell, keys), keys)
    inner = _cell(weights, tree, scope)
    if inner is None or cell_class not in WRAPPERS:
        return None
    memories = [weights.spec(key).shape for key in weights.nearest_memories(scope)]
    wrapper = WRAPPERS[cell_class](inner, shapes, memories)
    if weights.graph is None or not isinstance(wrapper, w.AttentionWrapper):
        return wrapper
    return weights.graph.with_output(wrapper, {x: weights.names(key) for x, key in keys.items()})


def _as_by_cudnn(weights: CanonicalWeights, cell: Any, keys: dict[str, str]) -> Any:
    """The cell with the options of cuDNN, if it is a layer of `tf.contrib.cudnn_rnn`.

    The canonical names do not distinguish them.
    """
    names = [weights.name(key) for key in keys.values()]
    if any("cudnn_compatible_lstm" in name for name in names):
        return dataclasses.replace(cell, forget_bias=0.0)
    if any(CUDNN_RELU.search(name) for name in names) and hasattr(cell, "activation"):
        return dataclasses.replace(cell, activation=jax.nn.relu)
    return cell


def _as_in_graph(weights: CanonicalWeights, cell: Any, keys: dict[str, str]) -> Any:
    """The cell with the options, initial state and residual connection that the graph shows."""
    graph = weights.graph
    variables = {name: weights.names(key) for name, key in keys.items()}
    # A layer of cuDNN is one operation, which has no options.
    is_cudnn = any("cudnn_" in name for names in variables.values() for name in names)
    if graph is None or (is_cudnn and not graph.has(variables)):
        return cell
    cell = graph.completed(cell, variables)
    learned = graph.learned_state(cell, variables, weights.is_row)
    with_residual = graph.with_residual(cell, variables)
    if learned is None:
        return with_residual
    around = _scope_around(keys)
    for leaf, name in learned.items():
        weights.add_alias(f"{around}/initial_state/{leaf}".lstrip("/"), name)
    return w.LearnedInitialState(with_residual)


def _scope_around(keys: dict[str, str]) -> str:
    """The scope around that of a cell, from its variables by their names in the cell."""
    name, key = next(iter(keys.items()))
    return key.removesuffix(name).rstrip("/").rpartition("/")[0]


def _flatten(tree: ScopeTree) -> dict[str, str]:
    """The variables in a scope and below, by their names inside of it."""
    return {
        f"{name}/{inner}".rstrip("/"): key
        for name, below in tree.items()
        for inner, key in (_flatten(below) if isinstance(below, dict) else {"": below}).items()
    }
