"""Checks for your own tests: does a cell obey what `dynamic_rnn` relies on, and does a replay equal
its rollout?

>>> import jax_dynrnn as rnn
>>> from jax_dynrnn.testing import check_cell
>>> "padding" in check_cell(rnn.GRUCell(4), (2, 5, 3), laws=["padding", "rows"]).passed
True
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _check_data
from ._adapter import as_cell
from ._testing.compare import Broken, described
from ._testing.problem import Problem
from ._testing.replay import Difference, explanation, first_difference
from ._testing.table import LAWS
from ._tools import map_shapes
from ._types import ArrayLike, CellLike, DTypeLike, PyTree, Shapes

__all__ = ["CellCheckError", "CellReport", "check_cell", "check_replay"]


class CellCheckError(AssertionError):
    """The error of `check_cell`: a law does not hold; the message says where, and how to fix it.

    Attributes:
        law: the name of the broken law.

    Example:
        >>> import jax_dynrnn as rnn
        >>> from jax_dynrnn.testing import CellCheckError, check_cell
        >>> class NaNs(rnn.BasicRNNCell):
        ...     def zero_state(self, batch_shape=(), dtype=None):
        ...         return super().zero_state(batch_shape, dtype) * float("nan")
        >>> try:
        ...     check_cell(NaNs(4), (2, 5, 3), laws=["finite"])
        ... except CellCheckError as error:
        ...     print(error.law)
        finite
    """

    def __init__(self, law: str, text: str):
        super().__init__(text)
        self.law = law


@dataclasses.dataclass(frozen=True)
class CellReport:
    """The result of `check_cell`: which laws hold; printed, it is a table.

    Attributes:
        passed: the names of the laws that hold.
        skipped: the reason for each law that could not be checked.

    Example:
        >>> import jax_dynrnn as rnn
        >>> from jax_dynrnn.testing import check_cell
        >>> print(check_cell(rnn.GRUCell(4), (2, 5, 3), laws=["rows", "keys"]))
        rows  passed
        keys  skipped: the cell draws no random numbers
    """

    passed: tuple[str, ...]
    skipped: dict[str, str]

    def __str__(self) -> str:
        lines = dict.fromkeys(self.passed, "passed")
        lines |= {name: f"skipped: {reason}" for name, reason in self.skipped.items()}
        width = max(map(len, lines), default=0)
        return "\n".join(f"{name:<{width}}  {lines[name]}" for name in LAWS if name in lines)


def check_cell(
    cell: CellLike,
    input_shape: Shapes,
    *,
    key: jax.Array | None = None,
    dtype: DTypeLike = jnp.float32,
    laws: Sequence[str] | None = None,
) -> CellReport:
    """Checks that a cell obeys the laws on which `dynamic_rnn` and its engines rely.

    Args:
        cell: a cell, or any object with `init`, `zero_state` and `__call__`.
        input_shape: as for `cell.init`: `(batch, time, *features)`, or a pytree of shapes. Only
            the feature sizes are read; the checks use 4 rows and 5 steps.
        key: the key for params, inputs and random numbers; default: `jax.random.key(0)`.
        dtype: the dtype of params and inputs. Finite differences are computed in float64 if the
            cell runs in it.
        laws: the names of the laws to check; default: all.

    The laws are:

        structure   init, zero_state and a step return what the protocol requires
        padding     a row of a padded batch has the same results as without padding
        garbage     NaN in the padding reaches no value and no gradient
        split       a run in two parts, with the state carried over, equals one run
        rows        no row depends on another row
        vmap        jax.vmap over single rows equals the batch
        jit         init and a step have the same results compiled and uncompiled
        finite      values and gradients are finite from the start state
        gradients   gradients equal finite differences
        engines     every engine that can run the cell equals scan
        keys        with a key: random numbers depend on the key and the row's index only
        pickle      the cell pickles, and its copy computes the same

    Returns:
        A `CellReport`: the laws that hold, and those that were skipped, with the reason.

    Raises:
        CellCheckError: a law does not hold; an `AssertionError` with the attribute `law`. If the
            cell cannot be run at all, the law is `structure`; if it has no gradient, `gradients`.
        TypeError: `cell` is not a cell, or `input_shape` is not a shape. ValueError: `laws` has
            an unknown name.
        NotImplementedError: the cell attends to a memory.

    Example:
        >>> import jax_dynrnn as rnn
        >>> from jax_dynrnn.testing import check_cell
        >>> report = check_cell(rnn.LSTMCell(4), (2, 5, 3))
        >>> len(report.passed), report.skipped
        (11, {'keys': 'the cell draws no random numbers'})
    """
    if as_cell(cell).attends:
        raise NotImplementedError(
            f"check_cell: expected a cell whose state has a fixed size, got {type(cell).__name__}, "
            "which attends to a memory; check the cell inside of it"
        )
    _check_shape(input_shape)
    _check_data.floating(dtype)
    _check_data.one_key(key)
    chosen = _chosen(laws)
    seed = jax.random.key(0) if key is None else key
    problem = Problem(cell, input_shape, seed, dtype)
    skipped = {}
    # On accelerators matmuls are of lower precision by default, which the tolerances do not allow.
    with jax.default_matmul_precision("highest"):
        for name in chosen:
            reason, broken = _check_law(name, problem)
            if broken is not None:
                call = f"check_cell(cell, {input_shape}, key={'None' if key is None else 'key'}"
                text = _message(cell, broken, name, f"{call}, dtype={problem.dtype.name!r}")
                raise CellCheckError(broken.law or name, text) from broken.__cause__
            if reason is not None:
                skipped[name] = reason
    return CellReport(tuple(name for name in chosen if name not in skipped), skipped)


def _check_law(name: str, problem: Problem) -> tuple[str | None, Broken | None]:
    """Checks one law -> `(why it was skipped, how it is broken)`, each `None` if it does not apply.

    If a law on which this one rests is broken too, that one is returned as the cause.
    """
    try:
        return LAWS[name].check(problem), None
    except Broken as error:
        broken = error
    except Exception as error:  # the user's code may raise anything
        broken = Broken(described(error))
        broken.__cause__ = error
    for cause in CAUSES.get(name, ("structure", "jit")):
        found = _check_law(cause, problem)[1]
        if found is not None:
            found.law = found.law or cause
            return None, found
    return None, broken


CAUSES = {
    "structure": (),
    "jit": ("structure",),
    "rows": ("structure", "jit"),
    "padding": ("structure", "jit"),
    **dict.fromkeys(("garbage", "split"), ("structure", "jit", "rows")),
}
"""For each law those on which it rests: if one of them is broken, its advice is the right one.

All others rest on `structure` and `jit`.
"""


def _chosen(laws: Sequence[str] | None) -> list[str]:
    """The names of the laws to check, in the order of `LAWS`."""
    given = list(LAWS) if laws is None else [laws] if isinstance(laws, str) else list(laws)
    if unknown := [name for name in given if name not in LAWS]:
        raise ValueError(f"laws: expected names among {', '.join(LAWS)}, got {unknown[0]!r}")
    return [name for name in LAWS if name in given]


def _check_shape(input_shape: Shapes) -> None:
    """Raises for an array, a number of features, or anything else that is no pytree of shapes."""
    expected = "input_shape: expected a shape as of cell.init, (batch, time, features), or a pytree"
    if hasattr(input_shape, "shape"):
        raise TypeError(f"{expected}, got an array; give its .shape, {tuple(input_shape.shape)}")
    sizes = jax.tree.leaves(map_shapes(lambda s: s, input_shape))
    is_shapes = not isinstance(input_shape, int) and sizes
    if not is_shapes or not all(hasattr(size, "__index__") for size in sizes):
        raise TypeError(f"{expected}, got {input_shape!r}")


def _message(cell: CellLike, broken: Broken, checked: str, call: str) -> str:
    """The message of `CellCheckError`; `call` is how to reproduce the check."""
    name = broken.law or checked
    law = LAWS[name]
    return (
        f"the law {name!r} is broken by {cell!r}: {law.statement}.\n"
        f"  Found: {broken.text}\n"
        f"  Fix: {law.fix}\n"
        f"  Reproduce: {call}, laws=[{checked!r}])"
    )


def check_replay(
    replay: Callable[[Any], PyTree],
    resets: ArrayLike,
    rollout: PyTree,
    *,
    mask: ArrayLike | None = None,
    time_major: bool = True,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> None:
    """Checks that a replay computes what was recorded when the agent acted.

    An agent with memory acts step by step, and learns from whole chunks. If resets are off by one
    step between the two, it learns from outputs that it never had: PPO's ratio is then not 1 before
    the first update, and nothing else shows it.

    Args:
        replay: `replay(resets)` returns what `rollout` holds (log-probabilities, values, outputs),
            computed from the recorded inputs and the recorded first state, with the params that
            acted.
        resets: bool `[T, B]`, as the replay receives them.
        rollout: pytree of arrays `[T, B, ...]`, recorded step by step.
        mask: bool `[T, B]`: the steps to compare; default: all.
        time_major: `False`: everything is `[B, T, ...]`.
        rtol, atol: the relative and the absolute tolerance.

    Raises:
        AssertionError: a step differs; the message names the leaf, the first such step, a row, both
            values, and which other resets would make both equal: one step earlier, one step later,
            none at all, or one more before the first step.
        TypeError, ValueError: the arguments have other shapes.

    Example: the done flag of a step taken as its reset
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from jax_dynrnn.testing import check_replay
        >>> cell, inputs = rnn.GRUCell(4), jax.random.normal(jax.random.key(1), (6, 1, 3))
        >>> params, done = cell.init(jax.random.key(0), (3,)), jnp.arange(6)[:, None] == 2
        >>> def replay(resets):
        ...     return rnn.dynamic_rnn(cell, params, inputs, resets=resets, time_major=True)[0]
        >>> resets = rnn.resets_from_done(done, time_major=True)
        >>> acted = replay(resets)
        >>> check_replay(replay, resets, acted)
        >>> try:
        ...     check_replay(replay, done, acted)
        ... except AssertionError as error:
        ...     print(str(error).splitlines()[-1])
        They are equal if resets come one step later.
    """
    flags = np.asarray(_check_data.array("resets", resets))
    if flags.ndim != 2 or flags.dtype != bool:
        order = "[time, batch]" if time_major else "[batch, time]"
        raise ValueError(f"resets: expected bool {order}, got {flags.dtype}{list(flags.shape)}")
    axis = 0 if time_major else 1
    shape = flags.shape
    valid = np.ones(shape, bool) if mask is None else np.asarray(_check_data.array("mask", mask))
    if valid.shape != shape or valid.dtype != bool:
        raise ValueError(
            f"mask: expected bool {list(shape)}, as resets, got {valid.dtype}{list(valid.shape)}"
        )
    valid, flags = (x if time_major else x.T for x in (valid, flags))

    def compare(resets: np.ndarray) -> Difference | None:
        replayed = replay(jnp.asarray(resets if time_major else resets.T))
        _check_steps(replayed, rollout, shape)
        return first_difference(replayed, rollout, valid, axis, (rtol, atol))

    if (difference := compare(flags)) is None:
        return
    found = explanation(compare, flags, difference)
    hint = f"They are equal if resets come {found}."
    if found is None:
        hint = (
            "No other resets explain it. Is the first state the one before step 0? Is the state "
            "replaced at a reset, not multiplied by 0? Are params and inputs those of the rollout?"
        )
    raise AssertionError(f"the replay differs from the rollout: {difference}.\n{hint}")


def _check_steps(replayed: PyTree, rollout: PyTree, shape: tuple[int, ...]) -> None:
    """Checks that both have the same leaves, of all steps and rows."""
    if jax.tree.structure(replayed) != jax.tree.structure(rollout):
        raise TypeError(
            f"replay: expected it to return {jax.tree.structure(rollout)}, as the rollout, got "
            f"{jax.tree.structure(replayed)}"
        )
    for a, b in zip(jax.tree.leaves(replayed), jax.tree.leaves(rollout), strict=True):
        if np.shape(a) != np.shape(b) or np.shape(b)[:2] != shape:
            raise ValueError(
                f"rollout: expected arrays {list(shape)} and more axes, of the shapes that replay "
                f"returns, got {list(np.shape(b))} and {list(np.shape(a))}"
            )
