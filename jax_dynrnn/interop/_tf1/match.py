"""Which variables are those of a run: found by name, then checked by shape."""

from __future__ import annotations

import collections
import difflib
import os.path
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..._check_cell import by_name
from .names import canonical
from .scopes import Run, inside, is_memory
from .shapes import fitted
from .table import Table

SIBLINGS = {r"cell_\d+": "cell_0", r"(carry|transform)_[wb]": "carry_w"}
"""What is beside each other in one scope, and must be all of it."""


class Match(NamedTuple):
    """The variables in one scope by path in the params, or what is wrong with them."""

    scope: str
    arrays: dict[str, Any]
    error: Exception | None = None


def find(
    run: Run, size: int, names: Mapping[str, str], table: Table, scope: str | None
) -> dict[str, Any]:
    """The variables of a run, by path in the params.

    Args:
        size: the smallest number of input features that the cells accept.
        names: canonical names in the scope of the run, by path in the params.
        scope: that of the run, or one around it; `None`: anywhere.

    Raises:
        KeyError, ValueError: there is no scope with variables that fit, or more than one.
    """
    matches = [match(run, size, names, table, s) for s in scopes(run, names, table, scope)]
    named = [m for m in matches if not isinstance(m.error, KeyError)]  # shapes choose nothing
    fitting = [m for m in named if m.error is None]
    if len(named) == 1 and fitting:
        return fitting[0].arrays
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


def scopes(run: Run, names: Mapping[str, str], table: Table, scope: str | None) -> list[str]:
    """The scopes that have all of the names; where there is none, the one with the most."""
    own = [name for name in names.values() if not is_memory(name)]
    found = collections.Counter(
        key[: -len(name)].rstrip("/")
        for name in own
        for key in table
        if f"/{key}".endswith(f"/{name}")
    )
    within = canonical(f"{scope or ''}/x")[0][: -len("/x")].strip("/")
    near = {s: n for s, n in found.items() if f"{s}/".startswith(within and f"{within}/")}
    complete = [s for s, n in near.items() if n == len(own)]
    if within in complete and scope is not None:
        return [within]
    return complete or [max(near, key=near.__getitem__, default=within or run.scope)]


def match(run: Run, size: int, names: Mapping[str, str], table: Table, scope: str) -> Match:
    """The variables in a scope."""
    keys = {path: f"{scope}/{name}".strip("/") for path, name in names.items()}
    memories = [path for path, name in names.items() if is_memory(name)]
    nearest = nearest_memories(table, scope) if memories else []
    if nearest and len(nearest) != len(memories):
        listed = ", ".join(map(table.name, nearest))
        message = (
            f"variables: expected {len(memories)} memory_layer for {table.scope(scope)!r}, of "
            f"which it is not part, got {listed} as near to it; leave out those of other models"
        )
        return Match(scope, {}, ValueError(message))
    keys |= dict(zip(memories, nearest, strict=False))
    wrong = filter(None, map(table.wrong, keys.values()))
    error = next(wrong, None) or _misnamed(keys, names, table, scope) or _biased(run, keys, table)
    if error:
        return Match(scope, {}, error)
    arrays = {path: table.array(key) for path, key in keys.items()}
    return Match(scope, arrays, _misshapen(run, size, keys, arrays, table))


def nearest_memories(table: Table, scope: str) -> list[str]:
    """The memory layers that have most scopes in common with `scope`, in the order of making."""

    def nearness(key):
        made = key.split("/")[:-2]
        common = os.path.commonprefix([made, scope.split("/")])
        return len(common), common == made

    def number(key):
        return int(re.sub(r".*memory_layer_?(\d*)/kernel", r"0\1", key))

    found = [key for key in table if is_memory(key)]
    most = max(map(nearness, found), default=(0, False))
    return sorted((key for key in found if nearness(key) == most), key=number)


def _misnamed(
    keys: Mapping[str, str], names: Mapping[str, str], table: Table, scope: str
) -> KeyError | None:
    """An error that lists what is missing and what is left over in the scopes of the cells."""
    missing = [key for key in keys.values() if key not in table]
    own = {_sibling(name) for name in names.values() if not is_memory(name)}
    left_over = [
        table.name(key)
        for key in sorted(set(table) - set(keys.values()))
        if f"/{key}".startswith(f"/{scope}/" if scope else "/")
        and _sibling(key[len(scope) :].lstrip("/")) in own
        and table.is_weight(key)
    ]
    if not missing and not left_over:
        return None
    listed = [f"{key}{_like(key, table)}" for key in missing]
    return KeyError(
        f"variables: for these cells in {table.scope(scope)!r} missing: "
        f"{', '.join(listed) or 'none'}; left over: {', '.join(left_over) or 'none'}; check the "
        "cells and their options, and rename what has other names"
    )


def _sibling(name: str) -> str:
    """The scope of a cell, which is the same for those that a longer stack has."""
    first = name.split("/")[0]
    for pattern, one in SIBLINGS.items():
        first = one if re.fullmatch(pattern, first) else first
    return first


def _like(key: str, table: Table) -> str:
    close = difflib.get_close_matches(key, list(table))
    return f" (there is {' or '.join(map(table.name, close))})" if close else ""


def _biased(run: Run, keys: Mapping[str, str], table: Table) -> ValueError | None:
    """An error that says that `CudnnLSTM` adds nothing to the forget gate."""
    biased = [
        cell for _, outer in run.cells for cell in inside(outer) if getattr(cell, "forget_bias", 0)
    ]
    cudnn = [key for key in keys.values() if "cudnn_compatible_lstm" in table.name(key)]
    if not biased or not cudnn:
        return None
    return ValueError(
        f"variables: {table.name(cudnn[0])} is a CudnnLSTM's, which has no forget bias: expected "
        f"cells with forget_bias=0.0, got {biased[0]!r}"
    )


def _misshapen(
    run: Run, size: int, keys: Mapping[str, str], arrays: Mapping[str, Any], table: Table
) -> ValueError | None:
    """An error that lists the variables of other shapes than the cells'."""
    try:
        size, params = fitted(run, size, {path: np.shape(x) for path, x in arrays.items()})
    except ValueError as error:
        return error
    wrong = [
        f"{table.name(keys[path])} of shape {x.shape}, got {np.shape(arrays[path])}"
        for path, x in by_name(params).items()
        if x.shape != np.shape(arrays[path])
    ]
    if not wrong:
        return None
    return ValueError(
        f"variables: for these cells on inputs of {size} features expected {'; '.join(wrong)}; "
        "check the sizes of the cells"
    )
