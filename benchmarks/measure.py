"""Builds, checks and times all implementations of a problem."""

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
from .timing import PASSES, rounds

Row = dict[str, Any]


class Implementations:
    """All implementations, ours and the peers', as a context manager.

    Args:
        families: the peers; those that are not installed are left out.
        compile_threads: the number of programs that are compiled in parallel. Use one if compile
            times are to be measured.
    """

    def __init__(self, families: list[str], compile_threads: int = 1):
        self.compile_threads = compile_threads
        self.missing = [f for f in families if not peers.installed(f)]
        self.families = [f for f in families if f not in self.missing]
        self.stack = ExitStack()
        self.processes = [
            self.stack.enter_context(Process(f)) for f in self.families if f in peers.PROCESSES
        ]
        here = [f for f in self.families if f in peers.JAX]
        self.here = [peers.load(f) for f in ("ours", *here)]
        for process in self.processes:
            process.call("ready")  # waits for its imports, which would disturb later measurements
        warm_up()

    def __enter__(self) -> Implementations:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stack.close()

    def checked(
        self, kind: str, size: Size, each: tuple[str, ...]
    ) -> Iterator[tuple[Problem, dict[str, Any]]]:
        """Yields each problem of a kind and size with all its implementations, after the check.

        Args:
            kind, size: the cell and size of the problems.
            each: the kinds of lengths of the problems.
        """
        params = params_of(kind, size)
        runs = {n: r for module in self.here for n, r in module.build(kind, size, params).items()}
        # Programs with lengths and without take different arguments: they are compiled separately.
        for given in (False, True):
            problems = [Problem(kind, size, n) for n in each if (n != "none") == given]
            if not problems:
                continue
            first = draw_inputs(problems[0]), draw_lengths(problems[0])
            with ThreadPoolExecutor(self.compile_threads) as pool:
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
    """Times `count` rounds of a problem, and returns a row for each implementation."""
    timers = {name: x.seconds for name, x in implementations.items()}
    measured = {what: rounds(timers, what, count) for what in PASSES}
    rows = []
    for name, implementation in implementations.items():
        # Only JAX reports compile time and memory.
        cost = getattr(implementation, "cost", {what: {} for what in PASSES})
        rows.append(
            {"kind": problem.kind, "size": list(problem.size), "lengths": problem.lengths}
            | {"implementation": name}
            | {what: measured[what][name] | cost[what] for what in PASSES}
        )
    return rows


def training_rows(runs: dict[str, Any], size: Size, lengths: Any, count: int) -> list[Row]:
    """A row for each run of an LSTM: time and memory of the training step, without a check."""
    inputs = draw_inputs(Problem("lstm", size, "none"))
    compiled = {n: Compiled(*run, inputs, lengths, ("training",)) for n, run in runs.items()}
    times = rounds({name: x.seconds for name, x in compiled.items()}, "training", count)
    return [
        {"implementation": name, "training": times[name] | x.cost["training"]}
        for name, x in compiled.items()
    ]
