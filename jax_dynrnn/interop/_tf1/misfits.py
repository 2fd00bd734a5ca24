"""Describes, as errors that list them, the variables in a scope that do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..._check_cell import by_name, is_learned_row
from .._code import code
from .._escape import closest
from .names import is_memory
from .scopes import SCOPES, Run, cells_inside
from .shapes import fit_input_size
from .table import CanonicalWeights

SIBLINGS = {r"cell_\d+": "cell_0", r"(carry|transform)_[wb]": "carry_w"}
"""Patterns of scopes that occur side by side, and the scope that stands for all of them.

Where a run has one of them, all others in the same scope must be its own, too."""

WRAPPER_SIBLINGS = {"carry_w", "initial_state"}
"""The siblings that may belong to any cell beside them."""


def part_of_run_error(weights: CanonicalWeights, scope: str) -> ValueError | None:
    """An error if a scope is a part of a larger run, whose other variables would be left out."""
    around, _, last = scope.rpartition("/")
    other = {"fw": "bw", "bw": "fw"}.get(last)
    if last and last in SCOPES.values():
        enclosing = last
    elif re.fullmatch(r"(.*/)?multi_rnn_cell/cell_\d+", scope):
        enclosing = "a stack"
    elif other and weights.has(f"{around}/{other}".lstrip("/")):
        enclosing = "a bidirectional run"
    else:
        return None
    scope_name = weights.scope(scope)
    return ValueError(
        f"variables: those in {scope_name!r} are of one cell within {enclosing}; expected all "
        f"cells of the run, or scope={scope_name!r} for this one alone"
    )


def names_error(
    keys: Mapping[str, str], names: Mapping[str, str], weights: CanonicalWeights, scope: str
) -> KeyError | None:
    """An error that lists what is missing, and what is left over in the scopes of the cells."""
    missing = [key for key in keys.values() if key not in weights]
    own = {
        _sibling_group(name) for name in names.values() if not is_memory(name)
    } | WRAPPER_SIBLINGS
    # Variables beside the cells' scopes belong to other parts of the model, and are not counted.
    left_over = [
        weights.name(key)
        for key in sorted(set(weights) - set(keys.values()))
        if f"/{key}".startswith(f"/{scope}/" if scope else "/")
        and _sibling_group(key[len(scope) :].lstrip("/")) in own
        and weights.is_weight(key)
    ]
    if not missing and not left_over:
        return None
    listed = [f"{weights.name(key)}{_suggestion(key, weights)}" for key in missing]
    return KeyError(
        f"variables: for these cells in {weights.scope(scope)!r} missing: "
        f"{', '.join(listed) or 'none'}; left over: {', '.join(left_over) or 'none'}; check the "
        "cells and their options; for a single cell with a custom name pass its scope as scope=; "
        "rename variables that have other names"
    )


def _sibling_group(name: str) -> str:
    """The first scope of a name, or the one that stands for it and its siblings."""
    first = name.split("/")[0]
    for pattern, representative in SIBLINGS.items():
        first = representative if re.fullmatch(pattern, first) else first
    return first


def _suggestion(key: str, weights: CanonicalWeights) -> str:
    """The names most similar to a missing one, for a message."""
    close = closest(key, weights)
    return f" (there is {' or '.join(map(weights.name, close))})" if close else ""


def forget_bias_error(
    run: Run, keys: Mapping[str, str], weights: CanonicalWeights
) -> ValueError | None:
    """An error if cells add a forget bias to weights of a `CudnnLSTM`, which has none."""
    biased_cells = [
        cell
        for _, outer in run.cells
        for cell in cells_inside(outer)
        if getattr(cell, "forget_bias", 0)
    ]
    cudnn = [key for key in keys.values() if "cudnn_compatible_lstm" in weights.name(key)]
    if not biased_cells or not cudnn:
        return None
    return ValueError(
        f"variables: {weights.name(cudnn[0])} is a CudnnLSTM's, which has no forget bias: expected "
        f"cells with forget_bias=0.0, got {code(biased_cells[0])}"
    )


def shapes_error(
    run: Run, size: int, keys: Mapping[str, str], weights: CanonicalWeights
) -> ValueError | None:
    """An error that lists the variables whose shapes differ from the cells'."""
    shapes = {path: weights.spec(key).shape for path, key in keys.items()}
    try:
        size, params = fit_input_size(run, size, shapes)
    except ValueError as error:
        return error
    wrong = [
        f"{weights.name(keys[path])} of shape {x.shape}, got {shapes[path]}"
        f"{' of its shards one below the other' if weights.sharded(keys[path]) else ''}"
        for path, x in by_name(params).items()
        if x.shape != shapes[path] and not is_learned_row(path, shapes[path], x.shape)
    ]
    if not wrong:
        return None
    return ValueError(
        f"variables: for these cells on inputs of {size} features expected {'; '.join(wrong)}; "
        "check the sizes of the cells"
    )
