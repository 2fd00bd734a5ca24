"""Comparison of a replay with what was recorded, and what would explain a difference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.tree_util import keystr

from .._types import PyTree

Comparison = tuple[float, float]
"""The relative and the absolute tolerance."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first step at which a replay differs from what was recorded."""

    leaf: str
    step: int
    rows: np.ndarray
    """All rows that differ at that step."""
    replayed: float
    recorded: float

    def __str__(self) -> str:
        where = f"{self.leaf} at step {self.step}, row {self.rows[0]}"
        return f"{where}: {self.replayed:.8g} in the replay, {self.recorded:.8g} in the rollout"


def first_difference(
    replayed: PyTree, recorded: PyTree, valid: np.ndarray, time_axis: int, within: Comparison
) -> Difference | None:
    """Where two pytrees of steps first differ, or `None`.

    `valid` is bool `[T, B]`. A NaN equals nothing but a NaN.
    """
    found = None
    pairs = zip(_leaves(replayed, time_axis), _leaves(recorded, time_axis), strict=True)
    for (path, a), (_, b) in pairs:
        unequal = ~np.isclose(a, b, *within, equal_nan=True)
        wrong = valid & unequal.reshape(*valid.shape, -1).any(-1)
        if not wrong.any():
            continue
        step = int(wrong.any(1).argmax())
        if found is None or step < found.step:
            rows = np.flatnonzero(wrong[step])
            index = np.unravel_index(unequal[step, rows[0]].argmax(), unequal.shape[2:])
            values = (float(x[(step, rows[0], *index)]) for x in (a, b))
            found = Difference(path, step, rows, *values)
    return found


def _leaves(tree: PyTree, time_axis: int) -> list[tuple[str, np.ndarray]]:
    """The leaves by name, time-major, in float64."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    arrays = [(keystr(path) or "the result", np.asarray(x).astype(np.float64)) for path, x in found]
    return [(name, x if time_axis == 0 else x.swapaxes(0, 1)) for name, x in arrays]


LAST_DONE = "the last done of the chunk before is missing"


def explanation(
    compare: Callable[[np.ndarray], Difference | None], resets: np.ndarray, difference: Difference
) -> str | None:
    """Which other resets, `[T, B]`, make the replay equal to what was recorded, or `None`.

    `difference` is the one with `resets`. Each comparison runs the replay once.
    """
    none = np.zeros_like(resets[:1])
    candidates = {
        "as they do": resets,
        "one step later": np.concatenate([none, resets[:-1]]),
        "one step earlier": np.concatenate([resets[1:], none]),
        "not at all": np.zeros_like(resets),
    }
    for name, moved in candidates.items():
        # Nothing is known of the step after the last one, whose flag would come into the chunk.
        known = len(resets) - (name == "one step earlier")
        found = difference if moved is resets else compare(moved)
        if found is None or found.step >= known > 0:
            return name
        if found.step == 0:
            begun = moved.copy()
            begun[0, found.rows] = True
            rest = compare(begun)
            if rest is None or rest.step >= known > 0:
                rows = ", ".join(map(str, found.rows))
                return f"{name}, and before step 0 in row {rows}: {LAST_DONE}"
    return None
