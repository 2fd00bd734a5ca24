"""Which variables are those of a run: found by name, then checked by shape."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from typing import NamedTuple

from ..._cell import Params
from ..._types import Cells
from .misfits import biased, misnamed, misshapen, partial
from .names import canonical, is_memory
from .scopes import Run, as_run, variable_names
from .shapes import smallest
from .table import Table


class Match(NamedTuple):
    """The variables in one scope by path in the params, or what is wrong with them."""

    scope: str
    keys: dict[str, str]
    """Canonical names."""
    error: Exception | None = None


class Fit(NamedTuple):
    """Which variables are the params of some cells; their values have not been read."""

    tree: Params
    """Of the structure of the params."""
    table: Table
    keys: dict[str, str]
    """The variables in the table, by path in the params."""


def fit(cells: Cells, table: Table, scope: str | None) -> Fit:
    """The variables of the cells; raises what `find` raises, and `TypeError` for other cells."""
    run = as_run(cells)
    size, tree = smallest(run, table)
    names = {path: canonical(name)[0] for path, name in variable_names(run, tree).items()}
    return Fit(tree, *find(run, size, names, table, scope))


def find(
    run: Run, size: int, names: Mapping[str, str], table: Table, scope: str | None
) -> tuple[Table, dict[str, str]]:
    """The variables of a run, by path in the params, and the table that they are in.

    Args:
        size: the smallest number of input features that the cells accept.
        names: canonical names in the scope of the run, by path in the params.
        scope: that of the run, or one around it; of one cell its own too; `None`: anywhere.

    Raises:
        KeyError, ValueError: there is no scope with variables that fit, or more than one.
    """
    within = None if scope is None else canonical(f"{scope}/x")[0][: -len("/x")].strip("/")
    table = _named_by_user(names, table, within) or table
    matches = [match(run, size, names, table, s) for s in scopes(run, names, table, within)]
    named = [m for m in matches if not isinstance(m.error, KeyError)]  # shapes choose nothing
    fitting = [m for m in named if m.error is None]
    if len(named) == 1 and fitting:
        (one,) = fitting
        error = partial(table, one.scope) or _several(names, table, one.scope)
        if error and one.scope != within:
            raise error
        return table, one.keys
    if len(matches) == 1:
        raise matches[0].error  # pyright: ignore[reportGeneralTypeIssues]
    listed = ", ".join(repr(table.scope(m.scope)) for m in (named if fitting else matches))
    if fitting:
        raise ValueError(
            f"variables: expected one scope with the variables of the cells, got {listed}; pass "
            "scope="
        )
    reasons = " ".join(f"In {table.scope(m.scope)!r}: {m.error.args[0]}." for m in matches)  # pyright: ignore
    raise ValueError(
        f"variables: expected a scope with the variables of the cells, got {listed}, in none of "
        f"which all fit. {reasons}"
    )


def _several(names: Mapping[str, str], table: Table, scope: str) -> ValueError | None:
    """An error that says that a scope has more cells of one kind: `lstm_cell` and `lstm_cell_1`."""
    cell = _usual(names)
    if cell is None or cell == "multi_rnn_cell":
        return None
    first = f"{scope}/{cell}".lstrip("/")
    more = {m[0] for key in table if (m := re.match(rf"{re.escape(first)}_\d+(?=/)", key))}
    if not more:
        return None
    listed = ", ".join(repr(table.scope(scope)) for scope in (first, *sorted(more)))
    return ValueError(f"variables: expected those of one cell, got {listed}; pass one as scope=")


def _usual(names: Mapping[str, str]) -> str | None:
    """The scope of the one cell that a run has, in the run's; `None`: it has more."""
    usual = {name.split("/")[0] for name in names.values() if "/" in name and not is_memory(name)}
    return usual.pop() if len(usual) == 1 else None


def scopes(run: Run, names: Mapping[str, str], table: Table, scope: str | None) -> list[str]:
    """The scopes that have all of the names; where there is none, the one with the most."""
    own = [name for name in names.values() if not is_memory(name)]
    found = collections.Counter(
        key[: -len(name)].rstrip("/")
        for name in own
        for key in table
        if f"/{key}".endswith(f"/{name}")
    )
    within = scope or ""
    near = {s: n for s, n in found.items() if f"{s}/".startswith(within and f"{within}/")}
    complete = [s for s, n in near.items() if n == len(own)]
    if within in complete and scope is not None:
        return [within]
    return complete or [max(near, key=near.__getitem__, default=within or run.scope)]


def _named_by_user(names: Mapping[str, str], table: Table, scope: str | None) -> Table | None:
    """The variables of a cell that has a name of its own, which is `scope`, under its usual one.

    `None` if that is not what the scope is: of one cell, with most of its variables.
    """
    own, cell = [name for name in names.values() if not is_memory(name)], _usual(names)
    if not scope or cell is None or any("/" not in name for name in own):
        return None
    there = [f"{scope}/{name.removeprefix(cell + '/')}" in table for name in own]
    as_run = [f"{scope}/{name}" in table for name in own]
    return table.nested(scope, cell) if sum(there) > sum(as_run) else None


def match(run: Run, size: int, names: Mapping[str, str], table: Table, scope: str) -> Match:
    """The variables in a scope."""
    keys = {path: f"{scope}/{name}".strip("/") for path, name in names.items()}
    memories = [path for path, name in names.items() if is_memory(name)]
    nearest = table.nearest_memories(scope) if memories else []
    if nearest and len(nearest) != len(memories):
        listed = ", ".join(map(table.name, nearest))
        message = (
            f"variables: expected {len(memories)} memory_layer for {table.scope(scope)!r}, of "
            f"which it is not part, got {listed} as near to it; leave out those of other models"
        )
        return Match(scope, {}, ValueError(message))
    keys |= dict(zip(memories, nearest, strict=False))
    wrong = filter(None, map(table.wrong, keys.values()))
    error = next(wrong, None) or misnamed(keys, names, table, scope) or biased(run, keys, table)
    if error:
        return Match(scope, {}, error)
    return Match(scope, keys, misshapen(run, size, keys, table))
