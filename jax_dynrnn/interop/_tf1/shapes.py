"""The shapes of a run's params, for the number of input features that arrays show."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from ... import cells as c
from ..._cell import Params, output_shape
from ..._check_cell import by_name
from ..._composition import Around, Stacked
from .scopes import Run, composition_of


def smallest(run: Run, names: Iterable[str]) -> tuple[int, Params]:
    """The lowest number of input features that the cells accept, and the shapes for it.

    By the `names` of the arrays that there are, since an IntersectionRNNCell has a projection only
    where the number needs one.
    """
    projected = any("in_projection/" in name for name in names)
    size = math.lcm(*(_smallest(cell, projected) for cell in _outer(run)))
    return size, _shapes(run, size)


def fitted(run: Run, size: int, got: Mapping[str, tuple[Any, ...]]) -> tuple[int, Params]:
    """The number of features for which most of the `got` shapes fit, and all shapes for it.

    Args:
        size: the smallest number that the cells accept.
        got: shapes by path.
    """
    one = by_name(_shapes(run, size))
    try:  # shapes are linear in the number of features; some cells accept one number only
        two = by_name(_shapes(run, 2 * size))
    except ValueError:
        two = one
    fits = collections.Counter(
        size + (given - a) * size // (b - a)
        for name, shape in got.items()
        if len(shape) == len(one[name].shape)
        for given, a, b in zip(shape, one[name].shape, two[name].shape, strict=True)
        if a != b
    )
    for size_of_most, _ in fits.most_common(1):
        size = max(size, size_of_most)
    return size, _shapes(run, size)


def received(run: Run, shapes: Mapping[str, tuple[Any, ...]]) -> str:
    """What params of these shapes, by path, are for: `29 features`."""
    if _takes_ids(_first(run)[0]):
        return "ids"
    return f"{fitted(run, smallest(run, shapes)[0], shapes)[0]} features"


def _shapes(run: Run, size: int) -> Params:
    inputs = _input_shape(_first(run)[0], size)
    return jax.eval_shape(lambda: run.init(jax.random.key(0), inputs))


def _outer(run: Run) -> list[Any]:
    """The cells that are given the inputs, with all around them, one for each direction."""
    return [cell for place, cell in run.cells if re.match(r"cell_0/|(?!cell_)", place)]


def _first(run: Run) -> list[Any]:
    """The cells that receive the inputs as they are, one for each direction."""
    return [_receiving(cell) for cell in _outer(run)]


def _receiving(cell: Any) -> Any:
    while (inner := _given_the_inputs(cell)) is not None:
        cell = inner
    return cell


def _given_the_inputs(cell: Any) -> Any:
    """The cell inside `cell` that receives as many features, or `None`."""
    composition = composition_of(cell)
    if isinstance(composition, Stacked):
        return next(iter(composition.cells.values()))
    is_same = isinstance(composition, Around) and composition.same_features
    return composition.cell if is_same else None


def _takes_ids(cell: Any) -> bool:
    return cell.feature_ndim == 0


def _input_shape(cell: Any, size: int) -> Any:
    """The shape of what the cell receives: `size` features of one array, as a rule."""
    if _takes_ids(cell):
        return ()
    if isinstance(cell, c.PhasedLSTMCell):
        return (1,), (size,)
    return getattr(cell, "input_shape", (size,))


def _accepts(cell: Any, size: int) -> bool:
    """Whether a step of the cell can take inputs of `size` features."""
    try:
        output_shape(cell, _input_shape(_receiving(cell), size))
    except (TypeError, ValueError):
        return False
    return True


def _output_size(cell: Any, size: int) -> int:
    """How many features come out of a cell, and so go into a connection around it."""
    return output_shape(cell, _input_shape(_receiving(cell), size))[-1]


def _smallest(cell: Any, projected: bool) -> int:
    """The lowest number of features that the cell accepts: a few accept no other."""
    inner = _given_the_inputs(cell)
    if inner is not None:
        size = _smallest(inner, projected)
        # A connection around a cell needs inputs of the size of its output.
        return size if _accepts(cell, size) else _output_size(inner, size)
    if isinstance(cell, c.TimeFreqLSTMCell):
        return cell.input_size
    if isinstance(cell, c.IntersectionRNNCell):
        if not projected:
            return cell.num_units
        return 1 if cell.num_units > 2 else 3  # neither it nor twice as many are num_units
    if isinstance(cell, c.GridLSTMCell | c.BidirectionalGridLSTMCell):
        (windows, *_), skip = cell.num_frequency_blocks, cell.frequency_skip
        return max(cell.end_freqindex_list or [cell.feature_size + (windows - 1) * skip])
    return getattr(cell, "number_of_groups", 1)
