"""The laws by name: what each says, and what to mend where it does not hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from .laws import (
    engines,
    finite,
    garbage,
    gradients,
    jit,
    keys,
    padding,
    pickles,
    rows,
    split,
    vmap,
)
from .problem import Problem
from .structure import structure


@dataclasses.dataclass(frozen=True)
class Law:
    """One law; `check` returns why it was skipped, or `None`, and raises `Broken`."""

    check: Callable[[Problem], str | None]
    statement: str
    mend: str


LAWS = {
    "structure": Law(
        structure,
        "init, zero_state and a step return the structure, shapes and dtypes of the protocol",
        "init reads only the features of its shape. zero_state takes (), an int or a tuple, and "
        "puts it in front of every leaf. A step returns (output, new_state), the state as it got "
        "it and the batch first. All are in the dtype that init and zero_state are asked for.",
    ),
    "padding": Law(
        padding,
        "a row of a padded batch is what it is alone",
        "Compute each row from its own inputs and state; no mean, maximum or norm over the batch.",
    ),
    "garbage": Law(
        garbage,
        "what the padding holds reaches no value and no gradient",
        "A padded step is computed on the row's first valid inputs and its final state, and "
        "thrown away. Where its derivative is not finite the gradients become NaN: keep "
        "sqrt, log, norms and quotients away from 0 (jnp.where on their argument too).",
    ),
    "split": Law(
        split,
        "a run in two parts is one run",
        "Keep all that a step remembers in the state; nothing in attributes of the cell, in "
        "globals or on the host.",
    ),
    "rows": Law(
        rows,
        "no row depends on another one",
        "Compute each row from its own inputs and state; no mean, maximum, norm or sort over the "
        "batch (the first axis).",
    ),
    "vmap": Law(
        vmap,
        "jax.vmap of one row is the batch",
        "Count axes from the end (axis=-1, x[..., :n]): one row has no batch axis. "
        "Keep rows apart.",
    ),
    "jit": Law(
        jit,
        "compiled, init and a step are what they are called from Python",
        "Compute with jax.numpy alone. Python and NumPy code runs once, while JAX traces: no "
        "np.random, no counters, no float(x), no `if` on values, no change of params in place.",
    ),
    "finite": Law(
        finite,
        "from the start of a run all values and gradients are finite",
        "Look for sqrt, log, a norm or a quotient at the start state (zeros): move its argument "
        "away from 0, by jnp.where before the function, not after.",
    ),
    "gradients": Law(
        gradients,
        "the gradient is the derivative",
        "Look at custom_jvp, custom_vjp, stop_gradient, and functions that are rounded; leave "
        "the law out (laws=) where the gradient differs on purpose.",
    ),
    "engines": Law(
        engines,
        "every engine that can run the cell computes what scan does",
        "Say the step once: a MatmulCell has all of it in project, hidden, recurrent_kernel and "
        "pointwise, and overrides step only to draw.",
    ),
    "keys": Law(
        keys,
        "what is drawn depends on the key and the row's place in the batch alone",
        "Draw with jax.random from the key that the step gets, a number for each row; no "
        "np.random, no permutation of rows.",
    ),
    "pickle": Law(
        pickles,
        "a cell is saved and sent to other processes by pickle",
        "Keep numbers, strings, importable functions and cells in the attributes; no locks, "
        "files or generators.",
    ),
}
"""In the order in which they are checked."""
