"""Compares every engine with TensorFlow's stored outputs, states and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .gpu_runs import BOUND, TESTS, Point, compared, engines, precision

REFUSAL = "cannot run this call"
"""Part of the error message of an engine that was selected by name and cannot run a call."""


def names() -> list[str]:
    """The names of the configurations without random numbers."""
    import tensorflow_oracle as oracle

    return [name for name, config in oracle.CONFIGS.items() if not oracle.options(config)]


def rows(name: str) -> list[dict[str, Any]]:
    """The errors of the runs of one configuration."""
    import tensorflow_oracle as oracle
    from golden.make_golden import RUNS, expected, problem

    config, stored = oracle.CONFIGS[name], np.load(TESTS / "golden" / f"{name}.npz")
    found_rows = []
    for run, dtype in itertools.product(RUNS, BOUND):
        given = problem(config, run)
        exact = expected(stored, run)
        for engine in engines(dtype):
            # Default arguments bind the current values of the loop variables.
            def flat(given=given, engine=engine):
                return oracle.flat(oracle.ours(config, given, "float32", implementation=engine))

            with precision(dtype):
                found = compared(flat, exact)
            if REFUSAL not in found.get("failure", ""):
                point = Point(f"TensorFlow's {name}", run, dtype, engine)
                found_rows.append(point._asdict() | found | {"bound": BOUND[dtype]})
    return found_rows
