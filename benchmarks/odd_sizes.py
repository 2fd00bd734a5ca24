"""Cost of sizes that no tile or block divides, compared with neighbouring sizes.

Measures an LSTM's training step by `blocked` against the number of steps and the batch size. No
size should cost notably more than its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from .compiled import Compiled, training_step
from .grid import Problem, Size, draw_inputs, lognormal
from .peers import ours
from .problems import cells_of, params_of
from .report import aligned
from .timing import rounds

BASE = {"time": Size(16, 0, 32, 64), "batch": Size(0, 50, 32, 64)}
"""For each axis, the size whose field of that name is varied."""
ANCHORS = {
    "time": (40, 64, 131, 257, 512, 1021, 2048, 4096, 10_000),
    "batch": (16, 33, 64, 134, 251, 512, 1009, 1028, 2048),
}
OFFSETS = (-13, -7, -3, -2, -1, 0, 1, 2, 3, 7, 16, 37)
"""Memory is measured at each anchor plus each of these offsets."""
TIMED_SIZES = {
    "time": (127, 262, 331, 514, 521, 1031, 2053, 4098, 4099, 10_007),
    "batch": (37, 134, 142, 149, 178, 262, 509, 1009, 1028, 2053),
}
"""Primes and small multiples of large primes. Time is measured at each of these sizes and at two
sizes after it."""
TIMED_OFFSETS = (1, 16)
MAX_DISTANCE = 50
"""The largest difference of two sizes that are compared."""
KINDS: tuple[tuple[str, Any], ...] = tuple(itertools.product(("full", "lognormal"), (None, "sqrt")))
"""Kinds of lengths and `remat`."""

TINY = {"time": Size(4, 0, 3, 8), "batch": Size(0, 6, 3, 8)}
TINY_ANCHORS = {"time": (16,), "batch": (16,)}

Row = dict[str, Any]
Curve = tuple[str, str, Any]
"""An axis, a kind of lengths, and `remat`."""


def count(short: bool) -> int:
    """The number of rows."""
    memories, times = _plans(short)
    return len(KINDS) * (len(memories) + sum(len(values) for _, values in times))


def rows(short: bool, num_rounds: int) -> Iterator[Row]:
    """Measures the memory of every size and kind, and the time of some."""
    base, (memories, times) = TINY if short else BASE, _plans(short)
    for (axis, value), (lengths, remat) in itertools.product(memories, KINDS):
        size = base[axis]._replace(**{axis: value})
        cost = {"memory": _memory(size, lengths == "full", remat)}
        yield {"axis": axis, "value": value, "lengths": lengths, "remat": remat} | cost
    for (axis, values), (lengths, remat) in itertools.product(times, KINDS):
        sizes = {value: base[axis]._replace(**{axis: value}) for value in values}
        for value, time in _times(sizes, lengths == "full", remat, num_rounds).items():
            cost = {"training": time}
            yield {"axis": axis, "value": value, "lengths": lengths, "remat": remat} | cost


def _times(sizes: dict[int, Size], full: bool, remat: Any, num_rounds: int) -> dict[int, Any]:
    """The times of training steps. All sizes are timed in the same rounds: otherwise a disturbance
    of the machine would look like the cost of one size."""
    timers = {}
    for value, size in sizes.items():
        drawn = None if full else lognormal(size.batch, size.time, 0)
        inputs = draw_inputs(Problem("lstm", size, "none"))
        timers[str(value)] = Compiled(*_run(size, remat), inputs, drawn, ("training",)).seconds
    measured = rounds(timers, "training", num_rounds)
    return {value: measured[str(value)] for value in sizes}


def _plans(short: bool) -> tuple[list[tuple[str, int]], list[tuple[str, list[int]]]]:
    """The sizes whose memory is measured, and groups of near sizes whose time is."""
    if short:
        memories = timed = _sizes(TINY_ANCHORS, (0, 1))
    else:
        memories, timed = _sizes(ANCHORS, OFFSETS), _sizes(TIMED_SIZES, (0, *TIMED_OFFSETS))
    groups: list[tuple[str, list[int]]] = []
    for axis, value in timed:
        if groups and groups[-1][0] == axis and value - groups[-1][1][-1] <= MAX_DISTANCE:
            groups[-1][1].append(value)
        else:
            groups.append((axis, [value]))
    return memories, groups


def _sizes(anchors: dict[str, tuple], offsets: tuple[int, ...]) -> list[tuple[str, int]]:
    """Every `(axis, value)` once, in order."""
    return [
        (axis, value)
        for axis, values in anchors.items()
        for value in sorted({a + offset for a in values for offset in offsets})
    ]


def _memory(size: Size, full: bool, remat: Any) -> int:
    """Bytes of temporary memory of a training step, from compilation alone.

    LLVM's optimisation is off: it takes most of the compile time and does not change the memory.
    """
    run, params = _run(size, remat)
    inputs = jax.ShapeDtypeStruct(size[:3], np.float32)
    lengths = None if full else jax.ShapeDtypeStruct(size[:1], np.int32)
    jax.clear_caches()
    lowered = jax.jit(training_step(run)).lower(params, inputs, lengths)
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    return compiled.memory_analysis().temp_size_in_bytes


def _run(size: Size, remat: Any) -> tuple[Any, Any]:
    cell = cells_of("lstm", size.units)
    return ours.forward(cell, "blocked", remat=remat), params_of("lstm", size)


def curves(measured: list[Row], quantity: str) -> dict[Curve, dict[int, float]]:
    """For every curve, megabytes (`"memory"`) or milliseconds (`"training"`) by size."""
    found: dict[Curve, dict[int, float]] = {}
    for row in measured:
        if quantity in row:
            cost = row["memory"] / 1e6 if quantity == "memory" else row["training"]["median"]
            found.setdefault((row["axis"], row["lengths"], row["remat"]), {})[row["value"]] = cost
    return found


def worst(curve: dict[int, float]) -> tuple[float, int, int]:
    """`(ratio, n, m)`: the size `n` that costs most relative to a larger size `m` near it.

    A smaller size should cost less, so any ratio above 1 is an anomaly.
    """
    pairs = [(n, m) for n, m in itertools.permutations(curve, 2) if 0 < m - n <= MAX_DISTANCE]
    return max((curve[n] / curve[m], n, m) for n, m in pairs)


def table(measured: list[Row]) -> str:
    """The worst pair of sizes of each curve."""
    lines = [["axis", "lengths", "remat", "", "ratio", "size", "larger size"]]
    for quantity, named in (("memory", "memory"), ("training", "time")):
        for (axis, lengths, remat), curve in curves(measured, quantity).items():
            ratio, n, m = worst(curve)
            lines.append([axis, lengths, str(remat), named, f"{ratio:.2f}", str(n), str(m)])
    title = f"largest cost of a size relative to a size up to {MAX_DISTANCE} larger"
    return f"{title}\n{aligned(lines, left=4)}"
