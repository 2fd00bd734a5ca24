"""What is wrong with the variables in a scope, as errors that name them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..._check_cell import by_name
from .._code import code
from .._escape import closest
from .names import is_memory
from .scopes import SCOPES, Run, inside
from .shapes import fitted
from .table import Table

SIBLINGS = {r"cell_\d+": "cell_0", r"(carry|transform)_[wb]": "carry_w"}
"""What is beside each other in one scope, and must be all of it."""

OF_WRAPPERS = {"carry_w", "initial_state"}
"""The siblings that belong to whatever cell is beside them."""


def partial(table: Table, scope: str) -> ValueError | None:
    """An error that says that a scope is a part of other cells, whose variables are left out."""
    around, _, last = scope.rpartition("/")
    other = {"fw": "bw", "bw": "fw"}.get(last)
    if last and last in SCOPES.values():
        whole = last
    elif re.fullmatch(r"(.*/)?multi_rnn_cell/cell_\d+", scope):
        whole = "a stack"
    elif other and table.has(f"{around}/{other}".lstrip("/")):
        whole = "a bidirectional run"
    else:
        return None
    place = table.scope(scope)
    return ValueError(
        f"variables: those in {place!r} are of one cell within {whole}; expected all cells of the "
        f"run, or scope={place!r} for this one alone"
    )


def misnamed(
    keys: Mapping[str, str], names: Mapping[str, str], table: Table, scope: str
) -> KeyError | None:
    """An error that lists what is missing and what is left over in the scopes of the cells."""
    missing = [key for key in keys.values() if key not in table]
    own = {_sibling(name) for name in names.values() if not is_memory(name)} | OF_WRAPPERS
    left_over = [
        table.name(key)
        for key in sorted(set(table) - set(keys.values()))
        if f"/{key}".startswith(f"/{scope}/" if scope else "/")
        and _sibling(key[len(scope) :].lstrip("/")) in own
        and table.is_weight(key)
    ]
    if not missing and not left_over:
        return None
    listed = [f"{table.name(key)}{_like(key, table)}" for key in missing]
    return KeyError(
        f"variables: for these cells in {table.scope(scope)!r} missing: "
        f"{', '.join(listed) or 'none'}; left over: {', '.join(left_over) or 'none'}; check the "
        "cells and their options; of one cell with a name of its own give scope=, that name with "
        "its scope, and rename what else has other names"
    )


def _sibling(name: str) -> str:
    """The scope of a cell, which is the same for those that a longer stack has."""
    first = name.split("/")[0]
    for pattern, one in SIBLINGS.items():
        first = one if re.fullmatch(pattern, first) else first
    return first


def _like(key: str, table: Table) -> str:
    close = closest(key, table)
    return f" (there is {' or '.join(map(table.name, close))})" if close else ""


def biased(run: Run, keys: Mapping[str, str], table: Table) -> ValueError | None:
    """An error that says that `CudnnLSTM` adds nothing to the forget gate."""
    biased = [
        cell for _, outer in run.cells for cell in inside(outer) if getattr(cell, "forget_bias", 0)
    ]
    cudnn = [key for key in keys.values() if "cudnn_compatible_lstm" in table.name(key)]
    if not biased or not cudnn:
        return None
    return ValueError(
        f"variables: {table.name(cudnn[0])} is a CudnnLSTM's, which has no forget bias: expected "
        f"cells with forget_bias=0.0, got {code(biased[0])}"
    )


def misshapen(run: Run, size: int, keys: Mapping[str, str], table: Table) -> ValueError | None:
    """An error that lists the variables of other shapes than the cells'."""
    shapes = {path: table.spec(key).shape for path, key in keys.items()}
    try:
        size, params = fitted(run, size, shapes)
    except ValueError as error:
        return error
    wrong = [
        f"{table.name(keys[path])} of shape {x.shape}, got {shapes[path]}"
        f"{' of its shards one below the other' if table.sharded(keys[path]) else ''}"
        for path, x in by_name(params).items()
        if x.shape != shapes[path]
    ]
    if not wrong:
        return None
    return ValueError(
        f"variables: for these cells on inputs of {size} features expected {'; '.join(wrong)}; "
        "check the sizes of the cells"
    )
