"""The variable scopes of cells and of runs in TF1."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from ... import cells as c
from ... import wrappers as w
from ..._adapter import as_cell
from ..._bidirectional import init_bidirectional
from ..._cell import Cell, Params
from ..._check_cell import by_name
from ..._composition import Around, Stacked, inner_cells
from ..._stack_bidirectional import init_stack_bidirectional
from ..._types import Cells, Shapes
from .._code import code

SCOPES: dict[type[Any], str] = {
    c.BasicLSTMCell: "basic_lstm_cell",
    c.BasicRNNCell: "basic_rnn_cell",
    c.BidirectionalGridLSTMCell: "bidirectional_grid_lstm_cell",
    c.CFNCell: "cfn_cell",
    c.Conv1DLSTMCell: "conv_1d_lstm_cell",
    c.Conv2DLSTMCell: "conv_2d_lstm_cell",
    c.Conv3DLSTMCell: "conv_3d_lstm_cell",
    c.ConvLSTMCell: "conv_lstm_cell",
    c.CoupledInputForgetGateLSTMCell: "coupled_input_forget_gate_lstm_cell",
    c.CudnnCompatibleGRUCell: "cudnn_compatible_gru_cell",
    c.GLSTMCell: "glstm_cell",
    c.GRUCell: "gru_cell",
    c.GridLSTMCell: "grid_lstm_cell",
    c.IndRNNCell: "ind_rnn_cell",
    c.IndyGRUCell: "indy_gru_cell",
    c.IndyLSTMCell: "indy_lstm_cell",
    c.IntersectionRNNCell: "intersection_rnn_cell",
    c.LSTMBlockCell: "lstm_cell",
    c.LSTMCell: "lstm_cell",
    c.LayerNormBasicLSTMCell: "layer_norm_basic_lstm_cell",
    c.LayerNormLSTMCell: "layer_norm_lstm_cell",
    c.MinimalRNNCell: "minimal_rnn_cell",
    c.NASCell: "nas_cell",
    c.NTMCell: "ntm_cell",
    c.PhasedLSTMCell: "phased_lstm_cell",
    c.SRUCell: "sru_cell",
    c.TimeFreqLSTMCell: "time_freq_lstm_cell",
    c.UGRNNCell: "ugrnn_cell",
    c.WeightNormLSTMCell: "wn_lstm_cell/wn_lstm_cell",
    w.AttentionCellWrapper: "attention_cell_wrapper",
    w.AttentionWrapper: "attention_wrapper",
    w.EmbeddingWrapper: "embedding_wrapper",
    w.HighwayWrapper: "",
    w.InputProjectionWrapper: "input_projection_wrapper",
    w.LearnedInitialState: "",
    w.MultiRNNCell: "multi_rnn_cell",
    w.OutputProjectionWrapper: "output_projection_wrapper",
}
"""The scope of each class of cells; a wrapper without variables has none."""

MEMORY = "memory_layer/kernel"
"""The name of an attention mechanism's memory layer.

It is in the scope where the mechanism was made, not in that of the run. A second one made there is
`memory_layer_1/kernel`."""


class Run(NamedTuple):
    """The function that runs the cells: `dynamic_rnn`, or one of the bidirectional ones."""

    scope: str
    """Its default scope in TF1."""
    init: Callable[..., Any]
    """`init(key, input_shape)` returns the params of the run."""
    cells: list[tuple[str, Any]]
    """Each cell with its path prefix: `cell_0/fw/`, or an empty string."""


def as_run(cells: Cells) -> Run:
    """The run of one cell, of a pair of cells, or of a pair of lists of cells."""
    if not isinstance(cells, tuple | list):
        return _checked(Run("rnn", as_cell(cells, "cells").init, [("", cells)]))
    are_lists = {isinstance(entry, tuple | list) for entry in cells}
    if len(cells) != 2 or len(are_lists) != 1:
        raise TypeError(
            "cells: expected one cell (a MultiRNNCell for a stack), a pair (cell_fw, cell_bw), or "
            f"a pair of lists (cells_fw, cells_bw), got {code(cells)}"
        )
    directions = dict(zip(("fw", "bw"), cells, strict=True))
    if are_lists == {False}:
        scope, init = "bidirectional_rnn", init_bidirectional
        prefixed = [(f"{direction}/", cell) for direction, cell in directions.items()]
    else:
        scope, init = "stack_bidirectional_rnn", init_stack_bidirectional
        prefixed = [
            (f"cell_{i}/{direction}/", cell)
            for direction, stack in directions.items()
            for i, cell in enumerate(stack)
        ]

    def init_run(key: jax.Array, input_shape: Shapes) -> Params:
        return init(key, cells[0], cells[1], input_shape)

    return _checked(Run(scope, init_run, prefixed))


def _checked(run: Run) -> Run:
    """The same run; raises if TF1 has no names for one of its cells."""
    for _, outer in run.cells:
        for cell in cells_inside(as_cell(outer, "cells")):
            _scope_of(cell)
    return run


def variable_names(run: Run, params: Params) -> dict[str, str]:
    """The name of each param inside of the scope of the run, by path in the params."""
    names, memories = {}, 0
    for prefix, cell in run.cells:
        cell_params = params
        for key in prefix.split("/")[:-1]:
            cell_params = cell_params[key]
        # Each layer of a stack is a bidirectional run, with that run's scope.
        scope = re.sub(r"^cell_\d+/", r"\g<0>bidirectional_rnn/", prefix)
        for path, name in _names_in_cell(cell, cell_params, scope):
            if name == MEMORY:
                name = MEMORY.replace("/", f"_{memories}/") if memories else MEMORY
                memories += 1
            names[prefix + path] = name
    return names


def _names_in_cell(cell: Any, params: Params, scope: str) -> Iterator[tuple[str, str]]:
    """Yields the path in the params and the name of each variable of a cell in `scope`."""
    scope += _scope_of(cell)
    composition = composition_of(cell)
    if isinstance(composition, Stacked):
        for layer, inner in composition.cells.items():
            for path, name in _names_in_cell(inner, params[layer], f"{scope}{layer}/"):
                yield f"{layer}/{path}", name
        return
    if _without_variables(cell):
        yield from _names_in_cell(composition.cell, params, scope)
        return
    # The memory layers of a wrapper come first: their numbers count in the order of making.
    memories = [f"{mechanism}/{MEMORY}" for mechanism in getattr(cell, "mechanisms", ())]
    yield from ((path, MEMORY) for path in memories)
    for path in by_name({key: x for key, x in params.items() if key != "cell"}):
        if path not in memories:
            yield path, scope + path
    if "cell" in params:
        # The controller of an NTMCell is a cell inside it that its composition does not show.
        inner = cell.controller if isinstance(cell, c.NTMCell) else composition.cell
        for path, name in _names_in_cell(inner, params["cell"], scope):
            yield f"cell/{path}", name


def cells_inside(cell: Any) -> Iterator[Any]:
    """A cell and all cells inside it, including the controller of an `NTMCell`."""
    for inner in inner_cells(cell):
        yield inner
        if (controller := getattr(inner, "controller", None)) is not None:
            yield from cells_inside(controller)


def composition_of(cell: Any) -> Any:
    """How a cell is composed of other cells, or `None`."""
    return cell.composition() if isinstance(cell, Cell) else None


def _scope_of(cell: Any) -> str:
    """The scope of a cell, with a slash if it has one; raises if it has no name in TF1."""
    if _without_variables(cell):
        return ""
    for cell_class in type(cell).__mro__:
        if cell_class in SCOPES:
            return f"{SCOPES[cell_class]}/" if SCOPES[cell_class] else ""
    raise TypeError(
        "cells: expected cells of jax_dynrnn, whose variables have known names in TF1, got "
        f"{code(cell)}; map the variables to its params yourself"
    )


def _without_variables(cell: Any) -> bool:
    """Whether it is a wrapper whose params are those of the cell inside."""
    composition = composition_of(cell)
    return isinstance(composition, Around) and composition.name is None
