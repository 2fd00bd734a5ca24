"""Where TF1 puts the variables of each cell: the scopes of cells and of runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ... import cells as c
from ... import wrappers as w
from ..._bidirectional import init_bidirectional
from ..._cell import Cell, Params, as_cell
from ..._check_cell import by_name
from ..._composition import Around, Stacked, inner_cells
from ..._stack_bidirectional import init_stack_bidirectional
from ..._types import Cells
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
"""The scope of each cell; a wrapper that has no variables has none."""

MEMORY = "memory_layer/kernel"
"""Of an attention mechanism: in the scope where it was made, not in that of the run. The second
that was made there is `memory_layer_1/kernel`."""


class Run(NamedTuple):
    """What runs the cells: `dynamic_rnn`, or one of the bidirectional functions."""

    scope: str
    """Its scope in TF1, where none was given."""
    init: Callable[..., Any]
    """`init(key, input_shape)` makes the params."""
    cells: list[tuple[str, Any]]
    """Each cell and its place: `cell_0/fw/`, or nothing."""


def as_run(cells: Cells) -> Run:
    """The run of one cell, of a pair of cells, or of a pair of lists of cells."""
    if not isinstance(cells, tuple | list):
        return _checked(Run("rnn", as_cell(cells, "cells").init, [("", cells)]))
    kinds = {isinstance(one, tuple | list) for one in cells}
    if len(cells) != 2 or len(kinds) != 1:
        raise TypeError(
            "cells: expected one cell (a MultiRNNCell for a stack), a pair (cell_fw, cell_bw), or "
            f"a pair of lists (cells_fw, cells_bw), got {code(cells)}"
        )
    directions = dict(zip(("fw", "bw"), cells, strict=True))
    if kinds == {False}:
        scope, init = "bidirectional_rnn", init_bidirectional
        placed = [(f"{way}/", cell) for way, cell in directions.items()]
    else:
        scope, init = "stack_bidirectional_rnn", init_stack_bidirectional
        placed = [
            (f"cell_{i}/{way}/", cell)
            for way, stack in directions.items()
            for i, cell in enumerate(stack)
        ]
    return _checked(Run(scope, lambda key, shape: init(key, cells[0], cells[1], shape), placed))


def _checked(run: Run) -> Run:
    """The run, if TF1 has names for all of its cells."""
    for _, outer in run.cells:
        for cell in inside(as_cell(outer, "cells")):
            _scope(cell)
    return run


def variable_names(run: Run, params: Params) -> dict[str, str]:
    """The name of each param in the scope of the run, by its path in the params."""
    names, memories = {}, 0
    for place, cell in run.cells:
        own = params
        for key in place.split("/")[:-1]:
            own = own[key]
        scope = re.sub(r"^cell_\d+/", r"\g<0>bidirectional_rnn/", place)
        for path, name in _of_cell(cell, own, scope):
            if name == MEMORY:
                name = MEMORY.replace("/", f"_{memories}/") if memories else MEMORY
                memories += 1
            names[place + path] = name
    return names


def _of_cell(cell: Any, params: Params, scope: str) -> Iterator[tuple[str, str]]:
    """`(path in the params, name)` of each variable of a cell that is in `scope`."""
    scope += _scope(cell)
    composition = composition_of(cell)
    if isinstance(composition, Stacked):
        for layer, inner in composition.cells.items():
            for path, name in _of_cell(inner, params[layer], f"{scope}{layer}/"):
                yield f"{layer}/{path}", name
        return
    if _without_variables(cell):
        yield from _of_cell(composition.cell, params, scope)
        return
    memories = [f"{mechanism}/{MEMORY}" for mechanism in getattr(cell, "mechanisms", ())]
    yield from ((path, MEMORY) for path in memories)
    for path in by_name({key: x for key, x in params.items() if key != "cell"}):
        if path not in memories:
            yield path, scope + path
    if "cell" in params:
        inner = cell.controller if isinstance(cell, c.NTMCell) else composition.cell
        for path, name in _of_cell(inner, params["cell"], scope):
            yield f"cell/{path}", name


def inside(cell: Any) -> Iterator[Any]:
    """A cell and all cells in it, the controller of an `NTMCell` too."""
    for inner in inner_cells(cell):
        yield inner
        if (controller := getattr(inner, "controller", None)) is not None:
            yield from inside(controller)


def composition_of(cell: Any) -> Any:
    """How a cell is made of others, or `None`."""
    return cell.composition() if isinstance(cell, Cell) else None


def _scope(cell: Any) -> str:
    if _without_variables(cell):
        return ""
    for kind in type(cell).__mro__:
        if kind in SCOPES:
            return f"{SCOPES[kind]}/" if SCOPES[kind] else ""
    raise TypeError(
        "cells: expected cells of jax_dynrnn, whose variables have known names in TF1, got "
        f"{code(cell)}; make its params from the variables by hand"
    )


def _without_variables(cell: Any) -> bool:
    """Whether it is a wrapper whose params are those of the cell inside."""
    composition = composition_of(cell)
    return isinstance(composition, Around) and composition.name is None
