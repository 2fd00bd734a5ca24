"""A framework in a process by itself, with no other at its side: see `benchmarks.fairness`.

    python -m benchmarks.alone pytorch

reads a pickled `(problem, weights, count)` from its standard input, and writes what `count` rounds
took. It shares no code with `benchmarks.worker`, which might be what slows a framework down.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
from typing import Any

from . import peers
from .grid import Problem, draw_inputs, draw_lengths
from .timing import WHAT, rounds, seconds


def main() -> None:
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a framework prints is no result
    problem, weights, count = pickle.load(sys.stdin.buffer)
    built = _built(sys.argv[1], problem, weights)
    turns = {name: functools.partial(seconds, x) for name, x in built.items()}
    pickle.dump({what: rounds(turns, what, count) for what in WHAT}, results)


def _built(family: str, problem: Problem, weights: Any) -> dict[str, Any]:
    """All implementations of a framework, fed."""
    kind, size, lengths = problem
    data, peer = (draw_inputs(problem), draw_lengths(problem)), peers.load(family)
    if family in peers.JAX:
        from .compiled import Compiled  # with JAX, which is not there else

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
