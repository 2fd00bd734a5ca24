"""Finds the variables of a run: by name, then checked by shape."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from typing import NamedTuple

from ..._cell import Params
from ..._types import Cells
from .misfits import forget_bias_error, names_error, part_of_run_error, shapes_error
from .names import canonical, is_memory
from .scopes import Run, as_run, variable_names
from .shapes import smallest_input_size
from .table import CanonicalWeights


class Match(NamedTuple):
    """The variables in one scope, by path in the params, or the reason why they do not fit."""

    scope: str
    keys: dict[str, str]
    """Canonical names."""
    error: Exception | None = None


class Fit(NamedTuple):
    """Which variables are the params of some cells; their values are not read yet."""

    tree: Params
    """A pytree with the structure of the params."""
    weights: CanonicalWeights
    keys: dict[str, str]
    """Canonical names in `weights`, by path in the params."""


def fit(cells: Cells, weights: CanonicalWeights, scope: str | None) -> Fit:
    """Finds the variables of the cells.

    Raises as `find_variables` does, and `TypeError` for cells that are not of this library.
    """
    run = as_run(cells)
    size, tree = smallest_input_size(run, weights)
    names = {path: canonical(name)[0] for path, name in variable_names(run, tree).items()}
    return Fit(tree, *find_variables(run, size, names, weights, scope))


def find_variables(
    run: Run, size: int, names: Mapping[str, str], weights: CanonicalWeights, scope: str | None
) -> tuple[CanonicalWeights, dict[str, str]]:
    """Returns the weights, and the canonical names of a run's variables by path in the params.

    Args:
        size: the smallest number of input features that the cells accept.
        names: canonical names in the scope of the run, by path in the params.
        scope: of the run, or any around it; for one cell, its own scope too; `None`: anywhere.

    Raises:
        KeyError, ValueError: there is no scope with variables that fit, or more than one.
    """
    # `canonical` is for names of variables: `x` makes one of the scope, and is removed again.
    within = None if scope is None else canonical(f"{scope}/x")[0][: -len("/x")].strip("/")
    weights = _with_usual_scope(names, weights, within) or weights
    matches = [
        match_scope(run, size, names, weights, s)
        for s in candidate_scopes(run, names, weights, within)
    ]
    # Names choose a scope, and sizes one of several with the same names.
    named = [m for m in matches if not isinstance(m.error, KeyError)]
    fitting = [m for m in named if m.error is None]
    if len(fitting) == 1:
        (match,) = fitting
        error = part_of_run_error(weights, match.scope) or _several_cells_error(
            names, weights, match.scope
        )
        if error and match.scope != within:
            raise error
        return weights, match.keys
    if len(matches) == 1:
        raise matches[0].error  # pyright: ignore[reportGeneralTypeIssues]
    listed = ", ".join(repr(weights.scope(m.scope)) for m in (named if fitting else matches))
    if fitting:
        raise ValueError(
            f"variables: expected one scope with the variables of the cells, got {listed}; pass "
            "scope="
        )
    reasons = " ".join(f"In {weights.scope(m.scope)!r}: {m.error.args[0]}." for m in matches)  # pyright: ignore
    raise ValueError(
        f"variables: expected a scope with the variables of the cells, got {listed}, in none of "
        f"which all fit. {reasons}"
    )


def _several_cells_error(
    names: Mapping[str, str], weights: CanonicalWeights, scope: str
) -> ValueError | None:
    """An error if a scope has more cells of the same class: `lstm_cell` and `lstm_cell_1`."""
    cell = _only_cell_scope(names)
    if cell is None or cell == "multi_rnn_cell":
        return None
    first = f"{scope}/{cell}".lstrip("/")
    more = {m[0] for key in weights if (m := re.match(rf"{re.escape(first)}_\d+(?=/)", key))}
    if not more:
        return None
    listed = ", ".join(repr(weights.scope(scope)) for scope in (first, *sorted(more)))
    return ValueError(f"variables: expected those of one cell, got {listed}; pass one as scope=")


def _only_cell_scope(names: Mapping[str, str]) -> str | None:
    """The scope, inside of the run's, of the only cell of a run; `None` if there are more."""
    cell_scopes = {
        name.split("/")[0] for name in names.values() if "/" in name and not is_memory(name)
    }
    return cell_scopes.pop() if len(cell_scopes) == 1 else None


def candidate_scopes(
    run: Run, names: Mapping[str, str], weights: CanonicalWeights, scope: str | None
) -> list[str]:
    """The scopes that have all of the names; if there are none, the scope that has most of them."""
    own = [name for name in names.values() if not is_memory(name)]
    found = collections.Counter(
        key[: -len(name)].rstrip("/")
        for name in own
        for key in weights
        if f"/{key}".endswith(f"/{name}")
    )
    within = scope or ""
    near = {s: n for s, n in found.items() if f"{s}/".startswith(within and f"{within}/")}
    complete = [s for s, n in near.items() if n == len(own)]
    if within in complete and scope is not None:
        return [within]
    return complete or [max(near, key=near.__getitem__, default=within or run.scope)]


def _with_usual_scope(
    names: Mapping[str, str], weights: CanonicalWeights, scope: str | None
) -> CanonicalWeights | None:
    """The weights, with the custom scope of a cell, `scope`, replaced by its default scope.

    `None` if `scope` is not that of one cell, with most of its variables.
    """
    own, cell = [name for name in names.values() if not is_memory(name)], _only_cell_scope(names)
    if not scope or cell is None or any("/" not in name for name in own):
        return None
    renamed = [f"{scope}/{name.removeprefix(cell + '/')}" in weights for name in own]
    as_is = [f"{scope}/{name}" in weights for name in own]
    return weights.with_cell_scope(scope, cell) if sum(renamed) > sum(as_is) else None


def match_scope(
    run: Run, size: int, names: Mapping[str, str], weights: CanonicalWeights, scope: str
) -> Match:
    """Looks for the variables in one scope."""
    keys = {path: f"{scope}/{name}".strip("/") for path, name in names.items()}
    # A `memory_layer` is in the scope where the attention mechanism was made, not in the cell's.
    memories = [path for path, name in names.items() if is_memory(name)]
    nearest = weights.nearest_memories(scope) if memories else []
    if nearest and len(nearest) != len(memories):
        listed = ", ".join(map(weights.name, nearest))
        message = (
            f"variables: expected {len(memories)} memory_layer for {weights.scope(scope)!r}, got "
            f"{listed}, which are equally near to it; leave out those of other models"
        )
        return Match(scope, {}, ValueError(message))
    keys |= dict(zip(memories, nearest, strict=False))
    wrong = filter(None, map(weights.identification_error, keys.values()))
    error = (
        next(wrong, None)
        or names_error(keys, names, weights, scope)
        or forget_bias_error(run, keys, weights)
    )
    if error:
        return Match(scope, {}, error)
    return Match(scope, keys, shapes_error(run, size, keys, weights))
