"""Checks that a framework is as fast in the suite as in its own process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from . import peers
from .grid import Problem, Size
from .measure import Implementations, timed
from .problems import cells_of, params_of
from .remote import EXPORT
from .timing import PASSES

PROBLEMS = (
    Problem("lstm", Size(32, 100, 64, 128), "full"),
    Problem("lstm", Size(16, 512, 32, 64), "lognormal"),
    Problem("lstm", Size(64, 256, 64, 64), "full"),
)
BOUND = 0.15
"""The largest difference of the two times, relative to the time alone."""
TRIES = 3
"""How often a pair beyond the bound is measured: the machine may have been disturbed."""

Row = dict[str, Any]


def check(
    field: Implementations, count: int, when: str, problems: tuple[Problem, ...] = PROBLEMS
) -> Iterator[Row]:
    """Compares the two times of every implementation of another framework, problem by problem.

    Args:
        field: ours and the peers.
        count: the number of rounds.
        when: a word that is stored in the rows.
        problems: the problems to measure.

    Yields:
        A row for each problem, implementation and pass, with `"suite"` and `"alone"`: the lower
        quartiles in milliseconds, because interference can only add to a time.
    """
    families = [f for f in field.families if f in peers.FRAMEWORKS]
    for kind, size, lengths in problems:
        for problem, implementations in field.checked(kind, size, (lengths,)):
            rows: dict[tuple[str, str], Row] = {}
            left = families  # after the first try, only the families with a pair beyond the bound
            for _ in range(TRIES):
                rows |= _closer(_pairs(problem, implementations, left, count), rows)
                left = sorted(
                    {peers.family(row["implementation"]) for row in beyond_bound(rows.values())}
                )
            shared = {"when": when, "kind": kind, "size": list(size), "lengths": lengths}
            yield from (shared | row for row in rows.values())


def beyond_bound(rows: Any) -> list[Row]:
    """The rows whose times differ by more than `BOUND`."""
    return [row for row in rows if _difference(row) > BOUND]


def sentence(row: Row) -> str:
    """A sentence that describes a row."""
    problem = Problem(row["kind"], Size(*row["size"]), row["lengths"])
    return (
        f"{row['implementation']}, {problem}, {row['what']}: {row['suite']:.4g} ms in the suite at "
        f"its {row['when']}, {row['alone']:.4g} ms alone"
    )


def _difference(row: Row) -> float:
    return abs(row["suite"] / row["alone"] - 1)


def _closer(new: dict, old: dict) -> dict:
    """The new rows whose difference is not larger than that of the old row."""
    return {
        k: row for k, row in new.items() if k not in old or _difference(row) <= _difference(old[k])
    }


def _pairs(
    problem: Problem, implementations: dict[str, Any], families: list[str], count: int
) -> dict[tuple[str, str], Row]:
    """The rows of some families, by implementation and pass."""
    if not families:
        return {}
    suite = {row["implementation"]: row for row in timed(problem, implementations, count)}
    rows = {}
    for family in families:
        alone = measure(family, problem, count)
        for what in PASSES:
            for name, times in alone[what].items():
                row = {"implementation": name, "what": what}
                row |= {"suite": _lower_quartile(suite[name][what])}
                row |= {"alone": _lower_quartile(times)}
                rows[name, what] = row
    return rows


def _lower_quartile(times: dict[str, Any]) -> float:
    return times["quartiles"][0]


def measure(family: str, problem: Problem, count: int) -> dict[str, dict[str, Any]]:
    """The times of a problem in a process with this framework only, by pass and implementation."""
    kind, size, _ = problem
    weights = params_of(kind, size)
    if family in EXPORT:
        weights = EXPORT[family](cells_of(kind, size.units), weights)
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.alone", family],
        input=pickle.dumps((problem, weights, count)), capture_output=True,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"{family}: it failed alone:\n{result.stderr.decode()[-2000:]}")
    return pickle.loads(result.stdout)
