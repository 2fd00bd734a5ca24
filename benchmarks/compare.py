"""Ratios and their means, of the rows that were measured.

A *speed-up* is their time over ours. A family counts by its fastest variant.
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
"""Sets of lengths that means are taken over."""


class Rival(NamedTuple):
    """Whom ours is compared with."""

    families: tuple[str, ...]
    ours: str = "ours"
    """The implementation that is compared with them."""


SPREAD = f"ours{peers.DEVICES}"
RIVALS = {
    "best JAX peer": Rival(tuple(peers.JAX)),
    "TensorFlow": Rival(("tensorflow",)),
    "PyTorch": Rival(("pytorch",)),
    "Flax, both with a device per core": Rival((f"flax{peers.DEVICES}",), SPREAD),
    "PyTorch, ours with a device per core": Rival(("pytorch",), SPREAD),
}
MARGIN = 0.95
"""What is below it is lost; the rest is noise."""


def by_problem(rows: Iterable[Row]) -> dict[Problem, Entry]:
    """The rows as the tables have them."""
    entries: dict[Problem, Entry] = {}
    for row in rows:
        problem = Problem(row["kind"], Size(*row["size"]), row["lengths"])
        entries.setdefault(problem, {})[row["implementation"]] = row
    return entries


def in_grid(entries: dict[Problem, Entry]) -> dict[Problem, Entry]:
    """Those of the four cells, which means are taken over."""
    return {p: entry for p, entry in entries.items() if SIZES[p.kind] is GRID}


def least(entry: Entry, families: Iterable[str], value: Callable[[Row], float]) -> float | None:
    """The smallest value of any implementation of these families."""
    found = [value(row) for name, row in entry.items() if peers.family(name) in families]
    return min(found, default=None)


def speed_up(entry: Entry, what: str, rival: Rival) -> float | None:
    """Their fastest over ours; `None` where there is none of them, or of ours."""
    theirs = least(entry, rival.families, lambda row: row[what]["median"])
    if theirs is None or rival.ours not in entry:
        return None
    return theirs / entry[rival.ours][what]["median"]


def over_scan(entry: Entry, what: str) -> float | None:
    """Our scan's time over ours."""
    scan = entry.get("ours: scan")
    return scan and scan[what]["median"] / entry["ours"][what]["median"]


def over_flax(entry: Entry, what: str, quantity: str) -> float | None:
    """Ours over Flax's, of memory or of time to compile."""
    flax = least(entry, ("flax",), lambda row: row[what][quantity])
    return flax and entry["ours"][what][quantity] / flax


def collect(
    entries: dict[Problem, Entry], ratio: Callable[[Entry], float | None], group: str = "all"
) -> dict[Problem, float]:
    """The ratio of each problem of a group that has one."""
    found = {p: ratio(e) for p, e in entries.items() if p.lengths in GROUPS[group]}
    return {p: r for p, r in found.items() if r is not None}


def geometric_mean(values: Iterable[float]) -> float | None:
    """Of any number of values; `None` of none."""
    logs = np.log(list(values))
    return float(np.exp(logs.mean())) if logs.size else None
