"""Tells from its name what a variable of a TF1 checkpoint is for."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

AVERAGE = "ExponentialMovingAverage"
OPTIMIZERS = (
    "Adadelta", "Adagrad", "AdagradDA", "Adam", "Ftrl", "Momentum", "ProximalAdagrad", "RMSProp",
    "AdaMax", "AdamW", "AddSignOptimizer", "LARSOptimizer", "MomentumW", "PowerSignOptimizer",
)  # fmt: skip
"""Their default names: those of `tf.train`, then of `tf.contrib.opt`."""
SLOT = re.compile(
    rf".+/(({'|'.join(OPTIMIZERS)})(_\d+)?|biased|\.OPTIMIZER_SLOT/.+)|(.+/)?beta[12]_power(_\d+)?"
)
MAX_SCOPES = 64  # nested in each other; names of models have far fewer
STEP = re.compile(r"(.+/)?((global|local)_step|save_counter)(_\d+)?")


def kind(name: str) -> str:
    """Classifies a variable by its name: `"weight"`, `"slot"`, `"step"` or `"average"`.

    A slot is an optimizer's state (`rnn/kernel/Adam_1`, `beta1_power`), a step a counter
    (`global_step`), an average the `ExponentialMovingAverage` of another variable. Only
    TensorFlow's default names are recognised: slots of `AdamOptimizer(name="mine")` count as
    weights.

    Args:
        name: the name of a variable, in a checkpoint or with the `:0` of a graph's tensor.

    Returns:
        One of the four.

    Reference: `tf.compat.v1.train.Optimizer`, `tf.train.ExponentialMovingAverage`.

    Example:
        >>> from jax_dynrnn.interop import checkpoint
        >>> [checkpoint.kind(n) for n in ("rnn/bias", "rnn/bias/Adam", "global_step")]
        ['weight', 'slot', 'step']
    """
    name = _without_suffix(name)
    if name.endswith("/" + AVERAGE):
        return "average"
    if SLOT.fullmatch(name):
        return "slot"
    return "step" if STEP.fullmatch(name) else "weight"


def moving_averages(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the moving averages in a checkpoint, under the names of the averaged variables.

    Args:
        variables: `{name: array}`, of `read_checkpoint`.

    Returns:
        `{name: array}` of the averages alone. TensorFlow puts the scope in which an average is made
        before the variable's name, perhaps twice; it is removed if the rest is a variable's name.

    Raises:
        ValueError: two averages belong to the same variable.

    Reference: `tf.train.ExponentialMovingAverage.variables_to_restore`.

    Example:
        >>> from jax_dynrnn.interop import checkpoint
        >>> checkpoint.moving_averages({"w": 1.0, "w/ExponentialMovingAverage": 0.9, "b": 2.0})
        {'w': 0.9}
    """
    names, found = {_without_suffix(name): name for name in variables}, {}
    for name in names:
        if kind(name) != "average":
            continue
        target = _averaged_variable(name.removesuffix("/" + AVERAGE), names)
        if target in found:
            raise ValueError(
                f"expected one average of {target!r}, got {found[target]!r} and {name!r}"
            )
        found[target] = name
    return {target: variables[names[name]] for target, name in found.items()}


def _averaged_variable(name: str, names: Container[str]) -> str:
    """The longest end of `name` that is a variable's name; `name` itself if there is none."""
    parts = name.split("/")
    ends = ("/".join(parts[i:]) for i in range(min(len(parts), MAX_SCOPES)))
    return next((end for end in ends if end in names), name)


def _without_suffix(name: str) -> str:
    """A name without the suffix of a graph's tensor or of an object-based checkpoint."""
    return name.removesuffix(":0").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
