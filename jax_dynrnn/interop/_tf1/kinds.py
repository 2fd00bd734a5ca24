"""What the variables of a TF1 checkpoint are for, by their names."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

AVERAGE = "ExponentialMovingAverage"
OPTIMIZERS = (
    "Adadelta", "Adagrad", "AdagradDA", "Adam", "Ftrl", "Momentum", "ProximalAdagrad", "RMSProp",
    "AdaMax", "AdamW", "AddSignOptimizer", "LARSOptimizer", "MomentumW", "PowerSignOptimizer",
)  # fmt: skip
"""Names by default: those of `tf.train`, then of `tf.contrib.opt`."""
SLOT = re.compile(
    rf".+/(({'|'.join(OPTIMIZERS)})(_\d+)?|biased|\.OPTIMIZER_SLOT/.+)|(.+/)?beta[12]_power(_\d+)?"
)
MOST_SCOPES = 64  # one in another
STEP = re.compile(r"(.+/)?((global|local)_step|save_counter)(_\d+)?")


def kind(name: str) -> str:
    """What the variable of this name is: `"weight"`, `"slot"`, `"step"` or `"average"`.

    A slot is an optimizer's state (`rnn/kernel/Adam_1`, `beta1_power`), a step a counter
    (`global_step`), an average the `ExponentialMovingAverage` of another variable. The names are
    those that TensorFlow gives by default: `AdamOptimizer(name="mine")` makes weights of its slots.

    Args:
        name: of a variable, in a checkpoint or with the `:0` of a graph's tensor.

    Returns:
        One of the four.

    Reference: `tf.compat.v1.train.Optimizer`, `tf.train.ExponentialMovingAverage`.

    Example:
        >>> from jax_dynrnn.interop import checkpoint
        >>> [checkpoint.kind(n) for n in ("rnn/bias", "rnn/bias/Adam", "global_step")]
        ['weight', 'slot', 'step']
    """
    name = _bare(name)
    if name.endswith("/" + AVERAGE):
        return "average"
    if SLOT.fullmatch(name):
        return "slot"
    return "step" if STEP.fullmatch(name) else "weight"


def moving_averages(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The moving averages in a checkpoint, under the names of the variables they are of.

    Args:
        variables: `{name: array}`, of `read_checkpoint`.

    Returns:
        `{name: array}` of averages alone. Averaged within a scope, a variable has that scope in
        front of its name, twice perhaps; where only the rest is a variable's name, it is that.

    Raises:
        ValueError: two averages are of one variable.

    Reference: `tf.train.ExponentialMovingAverage.variables_to_restore`.

    Example:
        >>> from jax_dynrnn.interop import checkpoint
        >>> checkpoint.moving_averages({"w": 1.0, "w/ExponentialMovingAverage": 0.9, "b": 2.0})
        {'w': 0.9}
    """
    names, found = {_bare(name): name for name in variables}, {}
    for name in names:
        if kind(name) != "average":
            continue
        of = _averaged(name.removesuffix("/" + AVERAGE), names)
        if of in found:
            raise ValueError(f"expected one average of {of!r}, got {found[of]!r} and {name!r}")
        found[of] = name
    return {of: variables[names[name]] for of, name in found.items()}


def _averaged(name: str, names: Container[str]) -> str:
    """The variable that `name` ends with, or `name`."""
    parts = name.split("/")
    ends = ("/".join(parts[i:]) for i in range(min(len(parts), MOST_SCOPES)))
    return next((end for end in ends if end in names), name)


def _bare(name: str) -> str:
    return name.removesuffix(":0").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
