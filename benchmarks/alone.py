"""Measures one framework in its own process, without the others: see `benchmarks.fairness`.

    python -m benchmarks.alone pytorch

reads a pickled `(problem, weights, count)` from standard input, and writes the times of `count`
rounds. It shares no code with `benchmarks.worker`, because that code might be what slows a
framework down.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
from typing import Any

from . import peers
from .grid import Problem, draw_inputs, draw_lengths
from .timing import PASSES, rounds, seconds


def main() -> None:
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # frameworks print to stdout, which must carry only the pickled results
    problem, weights, count = pickle.load(sys.stdin.buffer)
    built = _built(sys.argv[1], problem, weights)
    timers = {name: functools.partial(seconds, x) for name, x in built.items()}
    pickle.dump({what: rounds(timers, what, count) for what in PASSES}, results)


def _built(family: str, problem: Problem, weights: Any) -> dict[str, Any]:
    """All implementations of a framework, with their inputs set."""
    kind, size, lengths = problem
    data, peer = (draw_inputs(problem), draw_lengths(problem)), peers.load(family)
    if family in peers.JAX:
        from .compiled import Compiled  # imported here: the process of another framework has no JAX

        return {
            name: Compiled(*run, *data) for name, run in peer.build(kind, size, weights).items()
        }
    names = peer.names(kind, size, lengths != "none")
    built = {name: peer.build(name, kind, size, weights) for name in names}
    for each in built.values():
        each.feed(*data)
    return built


if __name__ == "__main__":
    main()
