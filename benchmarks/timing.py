"""How an implementation is timed, in whatever process it runs. No framework is imported here."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

WHAT = ("forward", "training")
SHORTEST = 3e-2
"""Seconds: where one call takes less, a turn is several, and one before them that is not counted:
steps follow each other, and that one finds the caches full of another framework's."""


class Results(NamedTuple):
    """What an implementation computes, as NumPy's arrays."""

    outputs: Any
    """`[B, T, H]`, anything past the lengths."""
    states: list
    """c before h, forward before backward."""
    gradient: Any
    """Of the scalar by the inputs, `[B, T, I]`."""


def seconds(implementation: Any, what: str) -> float:
    """Of one call, the mean of a turn: as many in a row as take `SHORTEST`, at least one."""
    call = getattr(implementation, what)
    start = time.perf_counter()
    call()
    elapsed = time.perf_counter() - start
    if elapsed >= SHORTEST:
        return elapsed
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SHORTEST:
        call()
        calls += 1
    return elapsed / calls


def rounds(
    turns: dict[str, Callable[[str], float]], what: str, count: int
) -> dict[str, dict[str, Any]]:
    """Lets every implementation have a turn in each round, in another order each time.

    Args:
        turns: the `seconds` of each implementation.
        what: `"forward"` or `"training"`.
        count: how many rounds; one before them is not counted.

    Returns:
        The `summary` of each.
    """
    measured: dict[str, list[float]] = {name: [] for name in turns}
    order, shuffle = list(turns), random.Random(0).shuffle
    for _ in range(count + 1):
        shuffle(order)
        for name in order:
            measured[name].append(turns[name](what))
    return {name: summary(values[1:]) for name, values in measured.items()}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The median and the quartiles, in milliseconds of four digits."""
    low, median, high = (float(f"{1e3 * q:.4g}") for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": median, "quartiles": [low, high]}
