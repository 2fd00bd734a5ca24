"""When an engine that can run a call is the fastest: rules, with the measurements behind them.

CPUs: `blocked`. In `benchmarks/results/cpu.json` training steps have 1.27 times
the speed of `scan` in the geometric mean of 88 rows, 1.52 times where lengths are log-normal.

NVIDIA GPUs: `pallas` where it can run, on Hopper; else `blocked`, whose forward pass
there is `scan`'s, several steps in one iteration of the loop. `benchmarks/results/gpu.json` has
both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from .._memoize import memoize_by_cell
from . import pallas
from ._tiles import on_cpu
from .call import Call, platform

LEAST_WORK = 500
"""Steps of rows, `B * T`: below it compilation counts more than all that a run takes."""

NARROW = 32
"""Units, at most, of a cell of which operations take less time than starting them: with `MANY`
rows or more, and no more than `SMALL` numbers in a leaf of the state."""

MANY = 32
SMALL = 2**12

UNROLL = 8
"""The steps of one iteration of a loop on accelerators, at least: 8 in a row took half the time of
one on a GPU; 16 took no less in training steps, and up to 1.6 times as long to compile."""

MOST = 1024 * 128
"""Numbers in a state, for `pallas`: so many keep all multiprocessors of a GPU busy."""

MEASURED = (64, 128, 256)
"""Units, on a GPU with `pallas`: clusters of one, two and four multiprocessors."""


class Rule(NamedTuple):
    """Where another engine is faster."""

    holds: Callable[[Call], bool]
    reason: str


@memoize_by_cell
def _units(cell: Any, dtype: Any) -> list[int]:
    """Of each leaf of the state; of one whose size depends on a memory, none."""
    try:
        state = jax.eval_shape(lambda: cell.zero_state((), dtype))
    except ValueError:
        return []
    return [s.size for s in jax.tree.leaves(state)]


def _is_narrow(call: Call) -> bool:
    units = max(_units(call.cell, call.dtype), default=NARROW + 1)
    return units <= NARROW and call.batch * units <= SMALL


LITTLE = Rule(
    lambda call: call.batch * call.time < LEAST_WORK,
    f"scan compiles faster, and less than {LEAST_WORK} steps in all gain nothing",
)
RULES = {
    "pallas": (
        Rule(
            lambda call: jax.device_count() > 1,
            "it was measured with one device only, and there are more",
        ),
        Rule(
            lambda call: call.batch * max(_units(call.cell, call.dtype)) > MOST,
            "more than 1024 rows of 128 units do not run at once, and were not measured",
        ),
        Rule(
            lambda call: not {*_units(call.cell, call.dtype)} <= {*MEASURED},
            f"it was measured with {MEASURED} units only",
        ),
        Rule(
            lambda call: pallas.unmeasured(call) is not None,
            "the cell computes with functions that no GPU has run in its kernels yet",
        ),
        LITTLE,
    ),
    "cudnn": (
        Rule(
            lambda call: True,
            "scan is over twice as fast with 8 steps an iteration, and has vmap and jvp",
        ),
    ),
    "blocked": (
        Rule(
            lambda call: platform() not in ("cpu", "gpu"),
            "scan is preferred where blocked was not measured: on TPUs",
        ),
        LITTLE,
        Rule(
            lambda call: on_cpu() and call.batch >= MANY and _is_narrow(call),
            f"scan has fewer operations, which take the time with up to {NARROW} units and "
            f"{SMALL} numbers in a state: up to 1.6 times the speed of blocked",
        ),
    ),
    "scan": (),
}
"""Of each engine that may be chosen, the first first; of its rules the first that holds says why
another one is taken."""

ON_H200 = "LSTM and GRU of 128 units, bfloat16 and float32, an H200"
CHOSEN: dict[tuple[str | None, str], str] = {
    ("pallas", "gpu"): f"1.1 to 3.1 times blocked's speed forward, 1.5 to 2.8 training: {ON_H200}",
    ("blocked", "gpu"): f"scan's speed forward, 1.2 to 1.7 times in training steps: {ON_H200}",
    ("blocked", "cpu"): "1.27 times the speed of scan in training steps, the mean of 88 problems",
}
"""By engine and platform: the figures that speak for it."""


def against(name: str, call: Call) -> str | None:
    """Why another engine than `name`, which can run `call`, is faster; `None` if none is."""
    return next((rule.reason for rule in RULES[name] if rule.holds(call)), None)


def unrolled(call: Call) -> Call:
    """`call` with as many steps in one iteration as are fast; results do not depend on it."""
    return call if on_cpu() else dataclasses.replace(call, unroll=max(call.unroll, UNROLL))
