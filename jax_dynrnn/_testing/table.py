"""The table of laws: for each its check, what it states, and how to fix a cell that breaks it."""

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
    """One law that every cell obeys."""

    check: Callable[[Problem], str | None]
    """Raises `Broken` if the law does not hold; returns why it was skipped, or `None`."""
    statement: str
    """What the law states."""
    fix: str
    """How to fix a cell that breaks it."""


LAWS = {
    "structure": Law(
        structure,
        "init, zero_state and a step return the structure, shapes and dtypes of the protocol",
        "init reads only the features of its shape. zero_state takes (), an int or a tuple, and "
        "puts it in front of the shape of every leaf. A step returns (output, new_state): the "
        "output with the batch as its first axis, the state with the structure, shapes and dtypes "
        "that it was given. All are in the dtype that is passed to init and zero_state.",
    ),
    "padding": Law(
        padding,
        "a row of a padded batch has the same results as without padding",
        "Compute each row from its own inputs and state; no mean, maximum or norm over the batch.",
    ),
    "garbage": Law(
        garbage,
        "the contents of the padding reach no value and no gradient",
        "A padded step is computed on the row's first valid inputs and its final state, and its "
        "result is discarded. If its derivative is not finite there, gradients become NaN: keep "
        "sqrt, log, norms and quotients away from 0 (jnp.where on their argument too).",
    ),
    "split": Law(
        split,
        "a run in two parts, with the state carried over, equals one run",
        "Store everything that a step has to remember in the state; nothing in attributes of the "
        "cell, in globals or on the host.",
    ),
    "rows": Law(
        rows,
        "no row depends on another one",
        "Compute each row from its own inputs and state; no mean, maximum, norm or sort over the "
        "batch (the first axis).",
    ),
    "vmap": Law(
        vmap,
        "jax.vmap over single rows equals the batch",
        "Count axes from the end (axis=-1, x[..., :n]): one row has no batch axis. "
        "Compute each row independently.",
    ),
    "jit": Law(
        jit,
        "init and a step have the same results compiled and uncompiled",
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
        "gradients equal finite differences",
        "Look at custom_jvp, custom_vjp, stop_gradient, and functions that round; leave "
        "the law out (laws=) if the gradient differs on purpose.",
    ),
    "engines": Law(
        engines,
        "every engine that can run the cell equals scan",
        "Define the step once: a MatmulCell has all of it in project, hidden, recurrent_kernel "
        "and pointwise, and overrides step only to draw random numbers.",
    ),
    "keys": Law(
        keys,
        "draws depend on the key and the row's index in the batch only",
        "Draw with jax.random from the key that the step receives, separately for each row; no "
        "np.random, no permutation of rows.",
    ),
    "pickle": Law(
        pickles,
        "the cell pickles, and its copy computes the same",
        "Use only numbers, strings, importable functions and cells as attributes; no locks, "
        "files or generators.",
    ),
}
"""The laws by name, in the order in which they are checked."""
