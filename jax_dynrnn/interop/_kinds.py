"""What a variable of a checkpoint is for."""

from __future__ import annotations

import re

SLOT = re.compile(
    r"(.*/)?(Adam|Momentum|RMSProp|Adagrad|Adadelta|AdagradDA|Ftrl|beta\d_power)(_\d+)?(:\d+)?"
)


def kind(name: str) -> str:
    """`weight`, `slot` (of an optimiser), `step` or `average`.

    >>> kind("rnn/gru_cell/gates/kernel/Adam_1"), kind("global_step"), kind("dense/kernel")
    ('slot', 'step', 'weight')
    """
    if SLOT.fullmatch(name):
        return "slot"
    if re.fullmatch(r"(.*/)?global_step(:\d+)?", name):
        return "step"
    return "average" if "/ExponentialMovingAverage" in name else "weight"
