"""When an engine that can run a call is the fastest: rules, with the measurements behind them.

`blocked` is the default on CPUs: in `benchmarks/results/cpu.json` training steps have 1.19 times
the speed of `scan` in the geometric mean of 88 rows, 1.50 times where lengths are log-normal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from .._cell import StagedCell
from ._parts import shapes
from ._tiles import on_cpu
from .call import Call

LEAST_WORK = 500
"""Steps of rows, `B * T`: below it compilation counts more than all that a run takes."""


class Rule(NamedTuple):
    """Where `scan` is faster than `blocked`."""

    holds: Callable[[Call], bool]
    reason: str


def _not_added(call: Call) -> bool:
    """Whether there are no lengths, and a step does more with its products than to add them."""
    if call.lengths is not None or call.mask is not None or not isinstance(call.cell, StagedCell):
        return False
    parts, weights, row, state = shapes(call)
    return not parts.all_added(jax.eval_shape(parts.project, weights, row), state)


RULES = (
    Rule(
        lambda call: not on_cpu(),
        "scan is preferred on accelerators: blocked was measured on CPUs only",
    ),
    Rule(
        lambda call: call.batch * call.time < LEAST_WORK,
        f"scan compiles faster, and less than {LEAST_WORK} steps in all gain nothing",
    ),
    Rule(
        _not_added,
        "scan is faster without lengths where a step does more with its matmul than to add it: "
        "blocked had 0.97 of its speed in the mean of six sizes, 0.77 at least",
    ),
)
"""The first that holds says why."""


def blocked(call: Call) -> str | None:
    """Why `scan` is faster than `blocked`, or `None`."""
    return next((rule.reason for rule in RULES if rule.holds(call)), None)
