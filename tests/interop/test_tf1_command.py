"""`python -m jax_dynrnn.interop` prints code that converts the variables of a model to params."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from tf1_params import KNOWN, assert_equal, drawn, params_of

import jax_dynrnn as rnn
from jax_dynrnn.interop import __main__ as command
from jax_dynrnn.interop import checkpoint, tf1
from jax_dynrnn.interop._tf1.recognise import recognised
from jax_dynrnn.interop._tf1.table import CanonicalWeights

NOT_INFERRED = {
    rnn.AttentionCellWrapper, rnn.BidirectionalGridLSTMCell, rnn.Conv1DLSTMCell,
    rnn.Conv2DLSTMCell, rnn.Conv3DLSTMCell, rnn.ConvLSTMCell, rnn.GridLSTMCell, rnn.NTMCell,
    rnn.TimeFreqLSTMCell,
}  # fmt: skip
"""Cells whose sizes (attention length, images, windows, heads) cannot be inferred."""


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.name)
def test_every_cell_is_recognised(case):
    """Cells are recognised with the sizes and options that their variables determine."""
    variables = tf1.export_params(case.cell, params_of(case), "model/run")
    [(scope, cells)] = recognised(CanonicalWeights(variables))
    if type(case.cell) in NOT_INFERRED:
        assert cells is type(case.cell) and scope.startswith("model/run/")
        return
    assert scope == "model/run"
    params = tf1.import_params(cells, variables)
    exported = tf1.export_params(cells, params, "model/run")
    expected = {n.replace("/basic_lstm_", "/lstm_"): x for n, x in variables.items()}
    assert_equal(exported, expected)


ENCODER = [rnn.GRUCell(2), rnn.LSTMCell(3, num_proj=2)], [rnn.LSTMCell(2), rnn.GRUCell(2)]
DECODER = rnn.MultiRNNCell([
    rnn.AttentionWrapper(rnn.GRUCell(3), rnn.LuongAttention(3, scale=True, memory_size=4)),
    rnn.GRUCell(3),
])  # fmt: skip
TAGGER = rnn.GRUCell(2), rnn.BasicRNNCell(2)
WORDS = rnn.EmbeddingWrapper(rnn.HighwayWrapper(rnn.GRUCell(4)), 7, 4)


def model():
    """Params and cells of several runs, and their variables, with other ones of a checkpoint."""
    params = {
        "encoder": drawn(lambda key, x: rnn.init_stack_bidirectional(key, *ENCODER, x)),
        "net/decoder": drawn(DECODER.init, (5,)),
        "tagger": drawn(lambda key, x: rnn.init_bidirectional(key, *TAGGER, x), (6,)),
        "": drawn(WORDS.init, ()),
    }
    cells = {"encoder": ENCODER, "net/decoder": DECODER, "tagger": TAGGER, "": WORDS}
    variables = {}
    for scope in params:
        variables |= tf1.export_params(cells[scope], params[scope], scope)
    noise = {"beta1_power": np.float32(0.9), "global_step": np.int64(3)}
    noise |= {f"{name}/Adam": np.zeros_like(x) for name, x in variables.items()}
    conv = rnn.ConvLSTMCell(1, input_shape=[3, 1], output_channels=2, kernel_shape=[3])
    noise |= tf1.export_params(conv, drawn(conv.init, (3, 1)), "video/rnn")
    return params, cells, variables | noise


def printed(capsys, *arguments):
    command.main([str(argument) for argument in arguments])
    listed, code = capsys.readouterr().out.split("\nimport jax\n", 1)
    assert all(line.startswith("# ") for line in listed.splitlines())
    return listed.replace("# ", "", 1).replace("\n# ", "\n"), "import jax\n" + code


@pytest.mark.parametrize("name", ["model.npz", "model.ckpt"])
def test_the_printed_code_runs(name, tmp_path, capsys):
    """The printed program imports the params of all recognised cells."""
    params, cells, variables = model()
    write = checkpoint.write_checkpoint if name == "model.ckpt" else (
        lambda path, given: np.savez(path, **given)
    )  # fmt: skip
    write(tmp_path / name, variables)
    listed, code = printed(capsys, tmp_path / name)
    assert {line.split()[0]: line.split()[-1] for line in listed.splitlines()} == {
        name: checkpoint.kind(name) for name in variables
    }
    found = {}
    exec(code, found)
    assert found["cells"] == cells
    for scope, own in params.items():
        assert_equal(found["params"][scope], own)
    assert "# takes 5 features" in code and "# takes 6 features" in code and "# takes ids" in code
    assert "# video/rnn/conv_lstm_cell: ConvLSTMCell, whose sizes cannot all be inferred" in code


def test_only_one_scope(tmp_path, capsys):
    """With `--scope` only one cell is printed, with a memory layer from outside of the scope."""
    params, cells, variables = model()
    np.savez(tmp_path / "model.npz", **variables)
    listed, code = printed(capsys, tmp_path / "model.npz", "--scope", "net/decoder/")
    assert all(line.startswith("net/decoder/multi_rnn_cell/") for line in listed.splitlines())
    found = {}
    exec(code, found)
    assert found["cells"] == {"net/decoder": DECODER}
    assert_equal(found["params"]["net/decoder"], params["net/decoder"])


def test_averages_and_cells_that_do_not_fit(tmp_path, capsys):
    """The code says how to load moving averages, and which variables a cell lacks."""
    variables = tf1.export_params(rnn.GRUCell(2), drawn(rnn.GRUCell(2).init))
    variables |= {f"{name}/ExponentialMovingAverage": 0.5 * x for name, x in variables.items()}
    variables["bad/gru_cell/gates/bias"] = np.ones(4, np.float32)
    np.savez(tmp_path / "model.npz", **variables)
    _, code = printed(capsys, tmp_path / "model.npz")
    assert "# bad: rnn.GRUCell(2) does not fit: " in code
    assert "missing: bad/gru_cell/candidate/bias" in code
    found = {}
    exec(code, found)
    averages = checkpoint.moving_averages(found["variables"])
    assert "# the averages of the weights: variables = checkpoint.moving_averages(var" in code
    assert_equal(
        tf1.import_params(found["cells"]["rnn"], averages),
        jax.tree.map(lambda x: 0.5 * x, found["params"]["rnn"]),
    )


def test_a_variable_that_cannot_be_read(tmp_path, capsys):
    """A damaged variable is listed with its error, and other cells are recognised."""
    params = drawn(rnn.GRUCell(2).init)
    variables = tf1.export_params(rnn.GRUCell(2), params) | {"dense/kernel": np.ones((2, 3))}
    checkpoint.write_checkpoint(tmp_path / "model", variables)
    path = tmp_path / "model.data-00000-of-00001"
    data = path.read_bytes()
    place = data.index(variables["dense/kernel"].tobytes())
    path.write_bytes(data[:place] + b"?" + data[place + 1 :])
    listed, code = printed(capsys, tmp_path / "model")
    [line] = [line for line in listed.splitlines() if line.startswith("dense/kernel ")]
    assert "weight: " in line and "corrupt" in line
    found = {}
    exec(code, found)
    assert_equal(found["params"]["rnn"], params)


def test_a_stack_with_one_recognised_layer():
    """If sizes of one layer are unknown, the other layers are recognised one by one."""
    cell = rnn.MultiRNNCell([rnn.GRUCell(2), rnn.AttentionCellWrapper(rnn.GRUCell(2), 3)])
    variables = tf1.export_params(cell, drawn(cell.init))
    assert recognised(CanonicalWeights(variables)) == [
        ("rnn/multi_rnn_cell/cell_0", rnn.GRUCell(2)),
        ("rnn/multi_rnn_cell/cell_1/attention_cell_wrapper", rnn.AttentionCellWrapper),
    ]


@pytest.mark.parametrize("cells", [
    rnn.MultiRNNCell([rnn.LSTMCell(2, forget_bias=0.0)] * 2),
    ([rnn.LSTMCell(2, forget_bias=0.0)] * 2,) * 2,
], ids=["one_way", "both_ways"])  # fmt: skip
def test_variables_of_a_cudnn_lstm(cells):
    """Variables saved by CudnnLSTM are recognised as LSTMs with `forget_bias=0.0`."""
    init = cells.init if isinstance(cells, rnn.MultiRNNCell) else (
        lambda key, x: rnn.init_stack_bidirectional(key, *cells, x)
    )  # fmt: skip
    variables = tf1.export_params(cells, drawn(init), "cudnn_lstm/rnn")
    variables = {n.replace("/lstm_", "/cudnn_compatible_lstm_"): x for n, x in variables.items()}
    assert recognised(CanonicalWeights(variables)) == [("cudnn_lstm/rnn", cells)]


def test_the_second_cell_of_a_scope():
    """TF1 numbers a second cell in a scope: it is recognised under its own scope."""
    one, two = rnn.GRUCell(2), rnn.LSTMCell(3, use_peepholes=True)
    variables = tf1.export_params(two, drawn(two.init), "decoder")
    variables = {n.replace("lstm_cell", "basic_lstm_cell_1"): x for n, x in variables.items()}
    variables |= tf1.export_params(one, drawn(one.init), "decoder")
    found = recognised(CanonicalWeights(variables))
    assert found == [("decoder", one), ("decoder/basic_lstm_cell_1", two)]
    params = tf1.import_params(two, variables, "decoder/basic_lstm_cell_1")
    assert_equal(params, drawn(two.init))


def test_nothing_to_list(tmp_path):
    """A file without variables, and a scope without any, are errors."""
    np.savez(tmp_path / "none.npz")
    with pytest.raises(SystemExit, match="there are no variables in it"):
        command.main([str(tmp_path / "none.npz")])
    np.savez(tmp_path / "dense.npz", **{"dense/kernel": np.ones((2, 3)), "step": np.ones(())})
    with pytest.raises(SystemExit, match="got --scope rnn; there are dense, step"):
        command.main([str(tmp_path / "dense.npz"), "--scope", "rnn"])


def test_no_cells(tmp_path, capsys):
    """A file without cells is listed, and the code says that none was recognised."""
    np.savez(tmp_path / "dense.npz", **{"dense/kernel": np.ones((2, 3))})
    listed, code = printed(capsys, tmp_path / "dense.npz")
    assert listed.startswith("dense/kernel  [2, 3]  float64  weight")
    assert code.endswith("# no cells were recognised by their names\n")
    exec(code, {})


def test_a_single_array_is_refused(tmp_path):
    """A file with one array instead of an archive is refused."""
    with open(tmp_path / "kernel.npz", "wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(SystemExit, match="arrays by name, as np.savez writes them, got one array"):
        command.main([str(tmp_path / "kernel.npz")])


@pytest.mark.parametrize("name, content, message", [
    ("model.ckpt", None, "model.ckpt"),
    ("model.npz", b"PK\3\4 no zip", "model.npz: "),
    ("model.pb", b"no graph", "model.pb: "),
])  # fmt: skip
def test_unreadable_files(name, content, message, tmp_path):
    """Missing and damaged files of each format exit with an error that names them."""
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content:
        np.savez(tmp_path / name, **content)
    with pytest.raises(SystemExit, match=message):
        command.main([str(tmp_path / name)])


def test_a_frozen_graph(tmp_path, capsys, load_oracle):
    """The cells of a frozen graph are recognised beside other constants in their scopes."""
    load_oracle("tensorflow")
    import tensorflow as tf
    import tf1_graphs

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        x = tf.constant(tf1_graphs.INPUTS, tf.float32)
        cell = tf1_graphs.CELLS.BasicLSTMCell(3)
        v1.nn.dynamic_rnn(cell, x, tf1_graphs.LENGTHS, dtype=tf.float32)
        cells = [tf1_graphs.CELLS.GRUCell(2), tf1_graphs.CELLS.BasicLSTMCell(2)]
        steps = tf.unstack(x, axis=1)
        outputs = v1.nn.static_rnn(
            tf1_graphs.CELLS.MultiRNNCell(cells), steps, dtype=tf.float32, scope="static"
        )[0]
        session.run(v1.global_variables_initializer())
        frozen = v1.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), [outputs[-1].op.name, "rnn/transpose_1"]
        )
        expected = {v.op.name: v.eval() for v in v1.global_variables()}
    (tmp_path / "frozen.pb").write_bytes(frozen.SerializeToString())
    listed, code = printed(capsys, tmp_path / "frozen.pb")
    kinds = {line.split()[0]: line.split()[-1] for line in listed.splitlines()}
    others = {name for name, kind in kinds.items() if kind == "weight"} - set(expected)
    assert set(kinds.values()) == {"weight", "constant"} and others == {"Const"}  # the inputs
    found = {}
    exec(code, found)
    assert set(found["variables"]) > set(expected)
    cells = {
        "rnn": rnn.LSTMCell(3), "static": rnn.MultiRNNCell([rnn.GRUCell(2), rnn.LSTMCell(2)])
    }  # fmt: skip
    assert found["cells"] == cells
    for scope, own in found["params"].items():
        for name, value in tf1.export_params(cells[scope], own, scope).items():
            name = name if name in expected else name.replace("lstm_cell", "basic_lstm_cell")
            np.testing.assert_array_equal(value, expected[name])


def test_what_is_left_out_is_listed(tmp_path, capsys):
    """Weights of no printed cell are comments by scope, and rows of a state are offered as such."""
    cell = rnn.LSTMCell(4)
    variables = tf1.export_params(cell, drawn(cell.init), "encoder/rnn")
    variables |= {
        "embed/table": np.ones((9, 5)), "dense/kernel": np.ones((4, 2)), "dense/bias": np.ones(4),
        "encoder/first_c": np.ones((1, 4)), "first_h": np.ones(4),
        "dense/kernel/Adam": np.ones((4, 2)), "global_step": np.int64(3),
    }  # fmt: skip
    np.savez(tmp_path / "model.npz", **variables)
    _, code = printed(capsys, tmp_path / "model.npz")
    assert code.partition("# What this program leaves out, in variables:\n")[2].splitlines() == [
        "#   dense: bias [4]; kernel [4, 2]",
        "#   embed: table [9, 5]",
        "#   encoder: first_c [1, 4], perhaps of an rnn.LearnedInitialState",
        "#   in no scope: first_h [4], perhaps of an rnn.LearnedInitialState",
    ]
    _, code = printed(capsys, tmp_path / "model.npz", "--scope", "encoder")
    assert code.partition("in variables:\n")[2].startswith("#   encoder: first_c")
    assert "dense" not in code


def test_a_closed_pipe_is_no_error(tmp_path):
    """`| head -1` ends the command without an error."""
    cell = rnn.LSTMCell(4)
    variables = tf1.export_params(cell, drawn(cell.init))
    variables |= {f"layer_{i}/{'x' * 200}": np.ones(1) for i in range(1000)}
    np.savez(tmp_path / "model.npz", **variables)
    run = f"{sys.executable} -m jax_dynrnn.interop {tmp_path / 'model.npz'} | head -1"
    done = subprocess.run(run, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("# ") and done.stderr == ""


def test_an_error_names_the_file_once(tmp_path):
    path = tmp_path / "model.pb"
    path.write_bytes(b"no graph")
    with pytest.raises(SystemExit) as error:
        command.main([str(path)])
    assert str(error.value).count(str(path)) == 1
