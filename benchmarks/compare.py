"""Ratios of the measured rows, and their means.

A *speed-up* is the time of another implementation divided by ours. A family is represented by its
fastest variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from . import peers
from .grid import GRID, LENGTHS, RAGGED, SIZES, Problem, Size

Row = dict[str, Any]
Entry = dict[str, Row]
"""The rows of one problem, by implementation."""

GROUPS = {
    "all": LENGTHS,
    "none given": ("none",),
    "all T": ("full",),
    "ragged": RAGGED,
    "log-normal": ("lognormal",),
}
"""Sets of lengths over which means are taken."""


class Comparison(NamedTuple):
    """The frameworks that one of our implementations is compared with."""

    families: tuple[str, ...]
    ours: str = "ours"
    """The implementation of ours in this comparison."""


SHARDED = f"ours{peers.DEVICES}"
"""Ours with the batch sharded over one JAX device per core."""
COMPARISONS = {
    "best JAX peer": Comparison(tuple(peers.JAX)),
    "TensorFlow": Comparison(("tensorflow",)),
    "PyTorch": Comparison(("pytorch",)),
    "Flax, both with a device per core": Comparison((f"flax{peers.DEVICES}",), SHARDED),
    "PyTorch, ours with a device per core": Comparison(("pytorch",), SHARDED),
}
MARGIN = 0.95
"""A speed-up below this counts as slower; one between this and 1 is within noise."""


def by_problem(rows: Iterable[Row]) -> dict[Problem, Entry]:
    """The rows grouped by problem, as in the tables."""
    entries: dict[Problem, Entry] = {}
    for row in rows:
        problem = Problem(row["kind"], Size(*row["size"]), row["lengths"])
        entries.setdefault(problem, {})[row["implementation"]] = row
    return entries


def in_grid(entries: dict[Problem, Entry]) -> dict[Problem, Entry]:
    """The entries of the four cells over which means are taken."""
    return {p: entry for p, entry in entries.items() if SIZES[p.kind] is GRID}


def least(entry: Entry, families: Iterable[str], value: Callable[[Row], float]) -> float | None:
    """The smallest value of any implementation of these families."""
    found = [value(row) for name, row in entry.items() if peers.family(name) in families]
    return min(found, default=None)


def speed_up(entry: Entry, what: str, comparison: Comparison) -> float | None:
    """Their fastest time divided by ours; `None` if either is missing."""
    theirs = least(entry, comparison.families, lambda row: row[what]["median"])
    if theirs is None or comparison.ours not in entry:
        return None
    return theirs / entry[comparison.ours][what]["median"]


def over_scan(entry: Entry, what: str) -> float | None:
    """The time of our `scan` divided by that of the chosen engine."""
    scan = entry.get("ours: scan")
    return scan and scan[what]["median"] / entry["ours"][what]["median"]


def over_flax(entry: Entry, what: str, quantity: str) -> float | None:
    """Our memory or compile time divided by Flax's."""
    flax = least(entry, ("flax",), lambda row: row[what][quantity])
    return flax and entry["ours"][what][quantity] / flax


def collect(
    entries: dict[Problem, Entry], ratio: Callable[[Entry], float | None], group: str = "all"
) -> dict[Problem, float]:
    """The ratio of each problem in a group, without those that have none."""
    found = {p: ratio(e) for p, e in entries.items() if p.lengths in GROUPS[group]}
    return {p: r for p, r in found.items() if r is not None}


def geometric_mean(values: Iterable[float]) -> float | None:
    """The geometric mean of the values; `None` if there are none."""
    logs = np.log(list(values))
    return float(np.exp(logs.mean())) if logs.size else None
