"""When an engine that can run a call is the fastest: rules, and the measurements behind them.

The measurements are in `benchmarks/results/`.
"""

from __future__ import annotations

import jax

from .call import Call

LEAST_WORK = 2_000
"""Steps of rows, `B * T`: below it a loop's few microseconds and its compilation count more."""


def blocked(call: Call) -> str | None:
    """Why `scan` is faster than `blocked`, or `None`."""
    if jax.default_backend() != "cpu":
        return f"scan is preferred on {jax.default_backend()}: blocked was measured on CPUs only"
    if call.batch * call.time < LEAST_WORK:
        return f"scan compiles faster, and less than {LEAST_WORK} steps in all gain nothing"
    return None
