"""Timing of implementations, in any process. This module imports no framework."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

PASSES = ("forward", "training")
MIN_SECONDS = 3e-2
"""Seconds. A shorter call is repeated for this long. The first call is then not counted, because
another framework's data fills the caches."""


class Results(NamedTuple):
    """The results of an implementation, as NumPy arrays."""

    outputs: Any
    """`[B, T, H]`, with arbitrary values in the padding."""
    states: list
    """The final states, with c before h and forward before backward."""
    gradient: Any
    """The gradient of the loss with respect to the inputs, `[B, T, I]`."""


def seconds(implementation: Any, what: str) -> float:
    """The mean time of consecutive calls, which together take at least `MIN_SECONDS`."""
    call = getattr(implementation, what)
    start = time.perf_counter()
    call()
    elapsed = time.perf_counter() - start
    if elapsed >= MIN_SECONDS:
        return elapsed
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < MIN_SECONDS:
        call()
        calls += 1
    return elapsed / calls


def rounds(
    timers: dict[str, Callable[[str], float]], what: str, count: int
) -> dict[str, dict[str, Any]]:
    """Times every implementation once per round, in a new random order each time.

    Rounds spread a disturbance of the machine over all implementations, and the random order does
    not favour any of them by its predecessor.

    Args:
        timers: the `seconds` of each implementation.
        what: `"forward"` or `"training"`.
        count: the number of rounds, after one that is not counted.

    Returns:
        The `summary` of each implementation.
    """
    measured: dict[str, list[float]] = {name: [] for name in timers}
    order, shuffle = list(timers), random.Random(0).shuffle
    for _ in range(count + 1):
        shuffle(order)
        for name in order:
            measured[name].append(timers[name](what))
    return {name: summary(values[1:]) for name, values in measured.items()}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The median and the quartiles in milliseconds, rounded to four digits."""
    low, median, high = (float(f"{1e3 * q:.4g}") for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": median, "quartiles": [low, high]}
