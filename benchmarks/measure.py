"""Builds, checks and times all implementations of each problem."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from . import peers
from .check import check
from .compiled import Compiled, warm_up
from .grid import Problem, Size, draw_inputs, draw_lengths
from .problems import params_of
from .remote import Process
from .timing import WHAT, rounds

Row = dict[str, Any]


class Field:
    """Ours and the peers, to be used in a `with` statement.

    Args:
        families: the peers; those that are not installed are left out.
        at_once: how many programs are compiled at once; where it is timed, one.
    """

    def __init__(self, families: list[str], at_once: int = 1):
        self.at_once = at_once
        self.missing = [f for f in families if not peers.installed(f)]
        self.families = [f for f in families if f not in self.missing]
        self.stack = ExitStack()
        self.processes = [
            self.stack.enter_context(Process(f)) for f in self.families if f in peers.PROCESSES
        ]
        here = [f for f in self.families if f in peers.JAX]
        self.here = [peers.load(f) for f in ("ours", *here)]
        for process in self.processes:
            process.call("ready")  # its imports would disturb what is measured next
        warm_up()

    def __enter__(self) -> Field:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stack.close()

    def checked(
        self, kind: str, size: Size, each: tuple[str, ...]
    ) -> Iterator[tuple[Problem, dict[str, Any]]]:
        """Each problem of a kind and size with all its implementations, which agree.

        Args:
            kind, size: of the problems.
            each: their lengths; those with and those without any are compiled apart.
        """
        params = params_of(kind, size)
        runs = {n: r for module in self.here for n, r in module.build(kind, size, params).items()}
        for given in (False, True):
            problems = [Problem(kind, size, n) for n in each if (n != "none") == given]
            if not problems:
                continue
            first = draw_inputs(problems[0]), draw_lengths(problems[0])
            with ThreadPoolExecutor(self.at_once) as pool:
                compiled = pool.map(lambda run, data=first: Compiled(*run, *data), runs.values())
                built: dict[str, Any] = dict(zip(runs, compiled, strict=True))
            for process in self.processes:
                built |= process.build(kind, size, params, given)
            for problem in problems:
                data = draw_inputs(problem), draw_lengths(problem)
                for implementation in built.values():
                    implementation.feed(*data)
                check(built, problem, runs["ours"][0], *data)
                yield problem, built


def timed(problem: Problem, implementations: dict[str, Any], count: int) -> list[Row]:
    """The rows of a problem, one for each implementation, of `count` rounds."""
    turns = {name: x.seconds for name, x in implementations.items()}
    measured = {what: rounds(turns, what, count) for what in WHAT}
    rows = []
    for name, implementation in implementations.items():
        cost = getattr(implementation, "cost", {what: {} for what in WHAT})
        rows.append(
            {"kind": problem.kind, "size": list(problem.size), "lengths": problem.lengths}
            | {"implementation": name}
            | {what: measured[what][name] | cost[what] for what in WHAT}
        )
    return rows


def training_rows(runs: dict[str, Any], size: Size, lengths: Any, count: int) -> list[Row]:
    """A row for each run of an LSTM: the training step's time and memory, and no check."""
    inputs = draw_inputs(Problem("lstm", size, "none"))
    compiled = {n: Compiled(*run, inputs, lengths, ("training",)) for n, run in runs.items()}
    times = rounds({name: x.seconds for name, x in compiled.items()}, "training", count)
    return [
        {"implementation": name, "training": times[name] | x.cost["training"]}
        for name, x in compiled.items()
    ]
