"""`tf1.import_params`: which scope variables are taken from, and which errors it raises."""

import numpy as np
import pytest
from cases import CASES
from tf1_params import KNOWN, D, H, assert_equal, drawn, variables_of

import jax_dynrnn as rnn
from jax_dynrnn.interop import tf1

LSTM = rnn.LSTMCell(H, use_peepholes=True, num_proj=2)


# Scopes


def test_scope_may_be_an_enclosing_one():
    """`scope=` may be the scope of the cell or an enclosing one; without it two are ambiguous."""
    cell = rnn.GRUCell(H)
    variables = {n: i * x for i in (1, 2)
                 for n, x in variables_of(cell, scope=f"Net{i}/RNN").items()}  # fmt: skip
    second = variables["Net2/RNN/gru_cell/gates/bias"]
    for scope in ("Net2", "Net2/RNN", "Net2/"):
        params = tf1.import_params(cell, variables, scope)
        np.testing.assert_array_equal(params["gates"]["bias"], second)
    with pytest.raises(ValueError, match="got 'Net1/RNN', 'Net2/RNN'; pass scope="):
        tf1.import_params(cell, variables)
    with pytest.raises(KeyError, match="in 'net' missing: net/gru_cell/candidate/bias"):
        tf1.import_params(cell, variables, "Net")


def test_a_scope_takes_precedence_over_those_inside():
    """If a scope and a scope inside of it both fit, the outer one is imported."""
    cell = rnn.GRUCell(H)
    inner, outer = variables_of(cell, scope="a/b"), variables_of(cell, scope="a")
    params = tf1.import_params(cell, {n: 0 * x for n, x in inner.items()} | outer, "a")
    np.testing.assert_array_equal(params["gates"]["bias"], outer["a/gru_cell/gates/bias"])


def test_a_cell_with_a_custom_name():
    """A numbered or renamed cell is imported by its full scope."""
    cell = rnn.LSTMCell(H, use_peepholes=True)
    usual = variables_of(cell, scope="decoder")
    for own in ("lstm_cell_1", "Words"):
        variables = {n.replace("lstm_cell", own): x for n, x in usual.items()}
        with pytest.raises(KeyError, match="for a single cell with a custom name pass its scope"):
            tf1.import_params(cell, variables, "decoder")
        params = tf1.import_params(cell, variables | {"lstm_cell/kernel": 0}, f"decoder/{own}")
        assert_equal(tf1.export_params(cell, params, "decoder"), usual)
        with pytest.raises(KeyError, match=f"missing: none; left over: decoder/{own}/w_f_diag"):
            tf1.import_params(rnn.LSTMCell(H), variables, f"decoder/{own}")
        del variables[f"decoder/{own}/w_o_diag"]
        with pytest.raises(KeyError, match=f"missing: decoder/{own.lower()}/w_o_diag"):
            tf1.import_params(cell, variables, f"decoder/{own}")


def test_a_cell_of_a_stack_needs_its_full_scope():
    """One cell of a stack is not mistaken for the whole model."""
    cell = rnn.MultiRNNCell([rnn.GRUCell(H)])
    variables = variables_of(cell)
    part = "rnn/multi_rnn_cell/cell_0"
    for scope in (None, "rnn"):
        with pytest.raises(ValueError, match=f"one cell within a stack; .* scope='{part}'"):
            tf1.import_params(rnn.GRUCell(H), variables, scope)
    params = tf1.import_params(rnn.GRUCell(H), variables, part)
    assert_equal(params, tf1.import_params(cell, variables)["cell_0"])


def test_shapes_select_a_scope():
    """Of two scopes with the same names, that of the cell's sizes; without one, all are listed."""
    variables = variables_of(rnn.GRUCell(H), scope="encoder/rnn")
    variables |= variables_of(rnn.GRUCell(2), scope="decoder/rnn")
    assert_equal(
        tf1.import_params(rnn.GRUCell(2), variables),
        tf1.import_params(rnn.GRUCell(2), variables, "decoder"),
    )
    params = tf1.import_params(rnn.GRUCell(2), variables, "decoder")
    assert params["candidate"]["bias"].shape == (2,)
    with pytest.raises(ValueError, match=(
        r"got 'encoder/rnn', 'decoder/rnn', in none of which all fit. In 'encoder/rnn': .*"
        r"candidate/bias of shape \(5,\), got \(4,\).* In 'decoder/rnn': .*\(5,\), got \(2,\)"
    )):  # fmt: skip
        tf1.import_params(rnn.GRUCell(5), variables)


# Errors


GRU = variables_of(rnn.GRUCell(H))
TWO = rnn.MultiRNNCell([rnn.GRUCell(H), rnn.GRUCell(H)])
THREE = variables_of(rnn.MultiRNNCell([rnn.GRUCell(H)] * 3))
STACKED = tf1.export_params(
    ([rnn.GRUCell(H)] * 2,) * 2,
    drawn(lambda key, x: rnn.init_stack_bidirectional(key, *([rnn.GRUCell(H)] * 2,) * 2, x)),
)
CUDNN = {n.replace("lstm", "cudnn_compatible_lstm"): x
         for n, x in variables_of(rnn.LSTMCell(H)).items()}  # fmt: skip
REFUSED = {
    "missing": (TWO, variables_of(rnn.MultiRNNCell([rnn.GRUCell(H)])), KeyError,
        r"in 'rnn' missing: rnn/multi_rnn_cell/cell_1/gru_cell/candidate/bias "
        r"\(there is rnn/multi_rnn_cell/cell_0/gru_cell/candidate/bias"),
    "layers left over": (TWO, THREE, KeyError,
        "missing: none; left over: rnn/multi_rnn_cell/cell_2/gru_cell/candidate/bias"),
    "pairs left over": (([rnn.GRUCell(H)],) * 2, STACKED, KeyError,
        "left over: stack_bidirectional_rnn/cell_1/bidirectional_rnn/bw/gru_cell/candidate/bias"),
    "an option left over": (rnn.LSTMCell(H), variables_of(LSTM), KeyError,
        "left over: rnn/lstm_cell/projection/kernel, rnn/lstm_cell/w_f_diag"),
    "a gate left over": (rnn.HighwayWrapper(rnn.GRUCell(D)), variables_of(
        rnn.HighwayWrapper(rnn.GRUCell(D), couple_carry_transform_gates=False)), KeyError,
        "left over: rnn/transform_b, rnn/transform_w"),
    "another cell": (rnn.CudnnCompatibleGRUCell(H), GRU, KeyError,
        r"missing: rnn/cudnn_compatible_gru_cell/candidate/hidden_projection/bias"),
    "of the same shapes": (rnn.UGRNNCell(8), variables_of(rnn.LSTMCell(H), (7,)), KeyError,
        r"missing: rnn/ugrnn_cell/bias .*, rnn/ugrnn_cell/kernel"),
    "another name": (rnn.GRUCell(H), {n.replace("gru_cell", "my_cell"): x for n, x in GRU.items()},
        KeyError, r"rnn/gru_cell/gates/bias \(there is rnn/my_cell/gates/bias"),
    "a wrapper": (rnn.GRUCell(D), variables_of(rnn.InputProjectionWrapper(rnn.GRUCell(D), D)),
        ValueError, "one cell within input_projection_wrapper; expected all cells"),
    "a gate beside it": (rnn.GRUCell(D), variables_of(rnn.HighwayWrapper(rnn.GRUCell(D))),
        KeyError, "left over: rnn/carry_b, rnn/carry_w"),
    "a learned state": (rnn.GRUCell(D), variables_of(rnn.LearnedInitialState(rnn.GRUCell(D))),
        KeyError, "left over: rnn/initial_state/state"),
    "one direction": (rnn.GRUCell(H), {f"both/{way}/{n}": x for way, cell in (
        ("fw", rnn.GRUCell(H)), ("bw", rnn.LSTMCell(H))
    ) for n, x in variables_of(cell, scope="").items()},
        ValueError, "'both/fw' are of one cell within a bidirectional run"),
    "shards side by side": (rnn.BasicRNNCell(H), {
        "rnn/basic_rnn_cell/kernel/part_0": np.ones((7, 2)),
        "rnn/basic_rnn_cell/kernel/part_1": np.ones((7, 2)), "rnn/basic_rnn_cell/bias": np.ones(H)},
        ValueError, r"part_1 of shape \(\d+, 4\), got \(14, 2\) of its shards one below the other"),
    "shards of other sizes": (rnn.BasicRNNCell(3), {
        "rnn/basic_rnn_cell/kernel/part_0": np.ones((7, 2)),
        "rnn/basic_rnn_cell/kernel/part_1": np.ones((7, 1)), "rnn/basic_rnn_cell/bias": np.ones(3)},
        ValueError, r"fit one below the other, got shapes \(7, 2\), \(7, 1\)"),
    "a run of one direction": (rnn.GRUCell(H), STACKED, ValueError,
        "got 'stack_bidirectional_rnn/cell_0/bidirectional_rnn/fw', .*; pass scope="),
    "nothing": (rnn.GRUCell(H), {}, KeyError, "in 'rnn' missing: rnn/gru_cell/candidate/bias,"),
    "a size": (rnn.GRUCell(5), GRU, ValueError,
        r"on inputs of \d features expected rnn/gru_cell/candidate/bias of shape \(5,\), got "
        r"\(4,\); .*check the sizes of the cells"),
    "one shape": (rnn.GRUCell(H), GRU | {"rnn/gru_cell/candidate/kernel": np.ones((8, H))},
        ValueError, r"features expected rnn/gru_cell/\w+/kernel of shape"),
    "a rank": (rnn.GRUCell(H), GRU | {"rnn/gru_cell/gates/bias": np.float32(1)}, ValueError,
        r"of 3 features expected rnn/gru_cell/gates/bias of shape \(8,\), got \(\)"),
    "features": (rnn.GLSTMCell(H, number_of_groups=2), variables_of(
        rnn.GLSTMCell(H, number_of_groups=2), (2,)) | {
        "rnn/glstm_cell/group0/kernel": np.ones((3, 10)),
        "rnn/glstm_cell/group1/kernel": np.ones((3, 10))}, ValueError, "expected rnn/glstm_cell"),
    "two names": (rnn.GRUCell(H), GRU | {"rnn/gru_cell/gates/weights": np.ones((7, 8))}, KeyError,
        "rnn/gru_cell/gates/kernel and rnn/gru_cell/gates/weights are names of the same variable"),
    "a forget bias": (rnn.LSTMCell(H), CUDNN, ValueError,
        r"is a CudnnLSTM's, which has no forget bias: expected cells with forget_bias=0.0, got"),
    "three cells": ((rnn.GRUCell(H),) * 3, GRU, TypeError, r"expected one cell .*got \(rnn.GRU"),
    "a cell and a list": ((rnn.GRUCell(H), [rnn.GRUCell(H)]), GRU, TypeError, "expected one cell"),
    "two cells in a scope": (rnn.GRUCell(H), GRU | {
        n.replace("gru_cell", "gru_cell_1"): x for n, x in GRU.items()}, ValueError,
        "of one cell, got 'rnn/gru_cell', 'rnn/gru_cell_1'; pass one as scope="),
    "a path": (rnn.GRUCell(H), "model.ckpt", TypeError, r"got str; checkpoint.read_checkpoint\("),
    "a class": (rnn.GRUCell, GRU, TypeError, "got the class GRUCell itself"),
    "cells that do not fit": (rnn.MultiRNNCell([rnn.GRUCell(H), rnn.IntersectionRNNCell(5)]), GRU,
        ValueError, "IntersectionRNNCell"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_variables_that_do_not_fit_are_refused(name):
    """Missing, left over, ambiguous and misshapen variables raise errors that name them."""
    cells, variables, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        tf1.import_params(cells, variables)


@pytest.mark.parametrize("case", [c for c in CASES if c not in KNOWN], ids=lambda case: case.name)
def test_cells_without_names_in_tf1_are_refused(case):
    """Cells that are not the library's have no names in TF1."""
    with pytest.raises(TypeError, match="expected cells of jax_dynrnn, whose variables have known"):
        tf1.import_params(case.cell, {})


@pytest.mark.parametrize("params, error, message", [
    ({"kernel": np.ones((7, 4)), "scale": np.ones(4)}, KeyError,
     "missing: bias; unexpected: scale"),
    ({"kernel": np.ones((7, 4)), "bias": np.ones(5)}, ValueError,
     r"expected bias of shape \(4,\) for .* on inputs of 3 features, got \(5,\)"),
])  # fmt: skip
def test_params_of_other_cells_are_not_exported(params, error, message):
    """`export_params` checks the names and shapes of the params."""
    with pytest.raises(error, match=message):
        tf1.export_params(rnn.BasicRNNCell(H), params)
