"""The shapes of a run's params, for the number of input features inferred from arrays."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from ... import cells as c
from ..._adapter import output_shape
from ..._cell import Params
from ..._check_cell import by_name
from ..._composition import Around, Stacked
from .scopes import Run, composition_of


def smallest_input_size(run: Run, names: Iterable[str]) -> tuple[int, Params]:
    """The lowest number of input features that the cells accept, and the shapes of params for it.

    The `names` of the available arrays are needed because an IntersectionRNNCell has a projection
    only for some numbers.
    """
    projected = any("in_projection/" in name for name in names)
    # Both directions receive the same inputs; some cells accept multiples of a number only.
    size = math.lcm(*(_smallest_of_cell(cell, projected) for cell in _outermost_cells(run)))
    return size, _shapes(run, size)


def fit_input_size(run: Run, size: int, got: Mapping[str, tuple[Any, ...]]) -> tuple[int, Params]:
    """The number of input features that fits most of the shapes in `got`, and all shapes for it.

    Args:
        size: the smallest number that the cells accept.
        got: shapes by path.
    """
    at_size = by_name(_shapes(run, size))
    # Shapes are linear in the number of features, so two sizes determine the others.
    try:
        at_double = by_name(_shapes(run, 2 * size))
    except ValueError:  # of a cell that accepts one size only
        at_double = at_size
    fits = collections.Counter(
        size + (given - a) * size // (b - a)
        for name, shape in got.items()
        if len(shape) == len(at_size[name].shape)
        for given, a, b in zip(shape, at_size[name].shape, at_double[name].shape, strict=True)
        if a != b
    )
    # Each axis that depends on the size votes for one; an empty Counter leaves the size as it is.
    for size_of_most, _ in fits.most_common(1):
        size = max(size, size_of_most)
    return size, _shapes(run, size)


def describe_inputs(run: Run, shapes: Mapping[str, tuple[Any, ...]]) -> str:
    """Describes the inputs of a run, from the shapes of its params by path: `29 features`."""
    if _takes_ids(_receiving_cells(run)[0]):
        return "ids"
    return f"{fit_input_size(run, smallest_input_size(run, shapes)[0], shapes)[0]} features"


def placeholder(run: Run, shapes: Mapping[str, tuple[Any, ...]], time_major: bool) -> str:
    """The code of inputs of the right shape: one row of ten steps."""
    axes = (10, 1) if time_major else (1, 10)
    cell = _receiving_cells(run)[0]
    if _takes_ids(cell):
        return f"jnp.ones({axes}, int)"
    size, _ = fit_input_size(run, smallest_input_size(run, shapes)[0], shapes)
    if isinstance(cell, c.PhasedLSTMCell):
        return f"(jnp.ones({(*axes, 1)}), jnp.ones({(*axes, size)}))"
    return f"jnp.ones({(*axes, *_input_shape(cell, size))})"


def _shapes(run: Run, size: int) -> Params:
    """The shapes of the params of a run for `size` features."""
    inputs = _input_shape(_receiving_cells(run)[0], size)
    return jax.eval_shape(lambda: run.init(jax.random.key(0), inputs))


def _outermost_cells(run: Run) -> list[Any]:
    """The cells, including wrappers, that the run gives its inputs to, one for each direction."""
    # Those without a stack, and of a stack the first layer.
    return [cell for prefix, cell in run.cells if re.match(r"cell_0/|(?!cell_)", prefix)]


def _receiving_cells(run: Run) -> list[Any]:
    """The innermost cells that receive the inputs unchanged, one for each direction."""
    return [_receiving_cell(cell) for cell in _outermost_cells(run)]


def _receiving_cell(cell: Any) -> Any:
    """The innermost cell that receives the inputs of `cell` unchanged."""
    while (inner := _cell_with_same_inputs(cell)) is not None:
        cell = inner
    return cell


def _cell_with_same_inputs(cell: Any) -> Any:
    """The cell inside `cell` that receives as many features, or `None`."""
    composition = composition_of(cell)
    if isinstance(composition, Stacked):
        return next(iter(composition.cells.values()))
    same_inputs = isinstance(composition, Around) and composition.same_features
    return composition.cell if same_inputs else None


def _takes_ids(cell: Any) -> bool:
    """Whether the inputs of a cell are integer ids."""
    return cell.feature_ndim == 0


def _input_shape(cell: Any, size: int) -> Any:
    """The input shape of a cell: mostly one array of `size` features."""
    if _takes_ids(cell):
        return ()
    if isinstance(cell, c.PhasedLSTMCell):
        # Its inputs are the time and the features.
        return (1,), (size,)
    return getattr(cell, "input_shape", (size,))


def _accepts(cell: Any, size: int) -> bool:
    """Whether a step of the cell accepts inputs of `size` features."""
    try:
        output_shape(cell, _input_shape(_receiving_cell(cell), size))
    except (TypeError, ValueError):
        return False
    return True


def _output_size(cell: Any, size: int) -> int:
    """The number of features of a cell's output for `size` input features."""
    return output_shape(cell, _input_shape(_receiving_cell(cell), size))[-1]


def _smallest_of_cell(cell: Any, projected: bool) -> int:
    """The lowest number of features that the cell accepts; a few accept only one number."""
    inner = _cell_with_same_inputs(cell)
    if inner is not None:
        size = _smallest_of_cell(inner, projected)
        # A connection around a cell needs inputs of the size of its output.
        return size if _accepts(cell, size) else _output_size(inner, size)
    if isinstance(cell, c.TimeFreqLSTMCell):
        return cell.input_size
    if isinstance(cell, c.IntersectionRNNCell):
        if not projected:
            return cell.num_units
        # With a projection, neither the size nor its double may be num_units.
        return 1 if cell.num_units > 2 else 3
    if isinstance(cell, c.GridLSTMCell | c.BidirectionalGridLSTMCell):
        (windows, *_), skip = cell.num_frequency_blocks, cell.frequency_skip
        return max(cell.end_freqindex_list or [cell.feature_size + (windows - 1) * skip])
    return getattr(cell, "number_of_groups", 1)
