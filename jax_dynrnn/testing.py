"""Checks for tests of your own: is a cell one that runs everywhere?

>>> import jax_dynrnn as rnn
>>> from jax_dynrnn.testing import check_cell
>>> "padding" in check_cell(rnn.GRUCell(4), (2, 5, 3), laws=["padding", "rows"]).passed
True
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from . import _check_data
from ._cell import as_cell
from ._testing.compare import Broken, described
from ._testing.problem import Problem
from ._testing.table import LAWS
from ._tools import map_shapes
from ._types import CellLike, DTypeLike, Shapes

__all__ = ["CellCheckError", "CellReport", "check_cell"]


class CellCheckError(AssertionError):
    """A law does not hold for a cell. Its text says where, and what to mend.

    Attributes:
        law: the name of the law.

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
    """Which laws hold for a cell. It prints as a table.

    Attributes:
        passed: the names of the laws that hold.
        skipped: for each law that could not be checked, why.

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
        input_shape: as of `cell.init`: `(batch, time, *features)`, or a pytree of shapes. Only
            the features are read; the checks run 4 rows and 5 steps.
        key: the seed of params, inputs and draws; default: `jax.random.key(0)`.
        dtype: of params and inputs. Finite differences are taken in float64, where the cell
            runs in it.
        laws: names of the laws to check; default: all.

    The laws are:

        structure   init, zero_state and a step return what the protocol says
        padding     a row of a padded batch is what it is alone
        garbage     NaN in the padding reaches no value and no gradient
        split       a run in two parts, the state carried over, is one run
        rows        no row depends on another one
        vmap        jax.vmap of one row is the batch
        jit         compiled, init and a step are what they are called from Python
        finite      values and gradients are finite from the start state
        gradients   gradients are finite differences
        engines     every engine that can run the cell equals scan
        keys        with a key: draws depend on the key and the row alone
        pickle      the cell pickles, and its copy is equal

    Returns:
        A `CellReport`: the laws that hold, and those that were skipped with the reason.

    Raises:
        CellCheckError: a law does not hold; an `AssertionError` with the attribute `law`. If the
            cell cannot be run at all, the law is `structure`; if it has no gradient, `gradients`.
        TypeError: it is not a cell, or `input_shape` is not a shape. ValueError: a law has
            another name.
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
    with jax.default_matmul_precision("highest"):
        for name in chosen:
            reason, broken = _checked(name, problem)
            if broken is not None:
                again = f"check_cell(cell, {input_shape}, key={'None' if key is None else 'key'}"
                text = _text(cell, broken, name, f"{again}, dtype={problem.dtype.name!r}")
                raise CellCheckError(broken.law or name, text) from broken.__cause__
            if reason is not None:
                skipped[name] = reason
    return CellReport(tuple(name for name in chosen if name not in skipped), skipped)


def _checked(name: str, problem: Problem) -> tuple[str | None, Broken | None]:
    """Why a law was skipped, and how it is broken; by a cell of a wrong structure, that comes."""
    try:
        return LAWS[name].check(problem), None
    except Broken as error:
        broken = error
    except Exception as error:  # of the code of a user
        broken = Broken(described(error))
        broken.__cause__ = error
    for cause in CAUSES.get(name, ("structure", "jit")):
        found = _checked(cause, problem)[1]
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
"""The laws without which others do not hold, and whose advice is then the right one."""


def _chosen(laws: Sequence[str] | None) -> list[str]:
    given = list(LAWS) if laws is None else [laws] if isinstance(laws, str) else list(laws)
    if unknown := [name for name in given if name not in LAWS]:
        raise ValueError(f"laws: expected names among {', '.join(LAWS)}, got {unknown[0]!r}")
    return [name for name in LAWS if name in given]


def _check_shape(input_shape: Shapes) -> None:
    """Refuses an array, a number of features, and whatever else is no pytree of shapes."""
    expected = "input_shape: expected a shape as of cell.init, (batch, time, features), or a pytree"
    if hasattr(input_shape, "shape"):
        raise TypeError(f"{expected}, got an array; give its .shape, {tuple(input_shape.shape)}")
    sizes = jax.tree.leaves(map_shapes(lambda s: s, input_shape))
    is_shapes = not isinstance(input_shape, int) and sizes
    if not is_shapes or not all(hasattr(size, "__index__") for size in sizes):
        raise TypeError(f"{expected}, got {input_shape!r}")


def _text(cell: CellLike, broken: Broken, checked: str, again: str) -> str:
    name = broken.law or checked
    law = LAWS[name]
    return (
        f"the law {name!r} is broken by {cell!r}: {law.statement}.\n"
        f"  Found: {broken.text}\n"
        f"  Mend: {law.mend}\n"
        f"  Reproduce: {again}, laws=[{checked!r}])"
    )
