"""TF1's variables are converted to params and back, under the names of every cell and version."""

import jax.numpy as jnp
import numpy as np
import pytest
from tf1_params import KNOWN, D, H, assert_equal, drawn, params_of, variables_of

import jax_dynrnn as rnn
from jax_dynrnn._check_cell import by_name
from jax_dynrnn.interop import tf1
from jax_dynrnn.interop._tf1.names import canonical
from jax_dynrnn.interop._tf1.recognise import recognised
from jax_dynrnn.interop._tf1.table import CanonicalWeights


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.name)
def test_round_trip(case):
    """Exported params are imported unchanged, with other variables of a checkpoint beside them."""
    params = params_of(case)
    variables = tf1.export_params(case.cell, params, "model/run")
    noise = {"global_step": 7, "beta1_power": 0.9, "dense/kernel": np.ones((2, 3))}
    noise |= {"model/run/labels": np.array([b"a"], object), "model/run/Const": np.float32(1)}
    noise |= {f"{name}/Adam": value for name, value in variables.items()}
    noise |= {f"{name}/ExponentialMovingAverage": 0 * x for name, x in variables.items()}
    imported = tf1.import_params(case.cell, variables | noise)
    assert_equal(imported, params)
    assert_equal(tf1.export_params(case.cell, imported, "model/run"), variables)


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.name)
def test_names_are_unique(case):
    """No two variables of a cell have the same canonical name, and none has an empty one."""
    variables = tf1.export_params(case.cell, params_of(case))
    names = {canonical(name)[0] for name in variables}
    assert len(names) == len(variables) and all(names)


def test_bidirectional_runs_and_stacks_of_them():
    """Params of both directions are exported under TF1's scopes, and imported from them."""
    lists = [rnn.GRUCell(2), rnn.LSTMCell(3, num_proj=2)], [rnn.LSTMCell(2), rnn.GRUCell(2)]
    pair = lists[0][0], rnn.MultiRNNCell(lists[1])
    for cells, init, scope in (
        (pair, rnn.init_bidirectional, "bidirectional_rnn/"),
        (lists, rnn.init_stack_bidirectional, "stack_bidirectional_rnn/cell_"),
    ):
        params = drawn(lambda key, shape: init(key, *cells, shape))  # noqa: B023
        variables = tf1.export_params(cells, params)
        assert all(name.startswith(scope) for name in variables)
        assert_equal(tf1.import_params(cells, variables), params)


ADDED = rnn.ResidualWrapper(rnn.LSTMCell(D))
CONNECTED = {
    "stack": rnn.MultiRNNCell([ADDED, rnn.GRUCell(H)]),
    "highway": rnn.MultiRNNCell([rnn.HighwayWrapper(rnn.GRUCell(D)), ADDED]),
    "around_a_stack": rnn.OutputProjectionWrapper(
        rnn.ResidualWrapper(
            rnn.MultiRNNCell([rnn.GRUCell(H), rnn.DropoutWrapper(ADDED.cell, 0.5)])
        ),
        2,
    ),
    "intersection": rnn.OutputProjectionWrapper(
        rnn.ResidualWrapper(rnn.IntersectionRNNCell(D, num_in_proj=D)), 2
    ),
    "attention": rnn.AttentionCellWrapper(ADDED, 2, attn_size=H),
    "directions": ([ADDED, rnn.GRUCell(2)], [rnn.GRUCell(H), rnn.GRUCell(2)]),
}


@pytest.mark.parametrize("name", CONNECTED)
def test_residual_connections_determine_the_number_of_features(name):
    """Cells that add outputs to their inputs have as many features as outputs."""
    cells = CONNECTED[name]
    init = getattr(cells, "init", lambda *x: rnn.init_stack_bidirectional(x[0], *cells, x[1]))
    params = drawn(init)
    assert_equal(tf1.import_params(cells, tf1.export_params(cells, params)), params)


def test_params_keep_their_dtype():
    """Variables in bfloat16 are imported as bfloat16."""
    variables = variables_of(rnn.BasicRNNCell(H))
    variables = {name: x.astype(jnp.bfloat16) for name, x in variables.items()}
    params = tf1.import_params(rnn.BasicRNNCell(H), variables)
    assert params["kernel"].dtype == params["bias"].dtype == jnp.bfloat16


# Names of other versions


LSTM = rnn.LSTMCell(H, use_peepholes=True, num_proj=2)
STACK = rnn.MultiRNNCell([rnn.BasicLSTMCell(H), rnn.BasicLSTMCell(H)])
OLD = {
    "nas_1.1": (rnn.NASCell(H, use_bias=True), {
        "RNN/nas_rnn/weights": "kernel",
        "RNN/nas_rnn/recurrent_weights": "recurrent_kernel",
        "RNN/nas_rnn/bias": "bias",
    }),
    "gru_1.1": (rnn.GRUCell(H), {
        "rnn/gru_cell/gates/weights": "gates/kernel",
        "rnn/gru_cell/gates/biases": "gates/bias",
        "rnn/gru_cell/candidate/weights": "candidate/kernel",
        "rnn/gru_cell/candidate/biases": "candidate/bias",
    }),
    "lstm_1.1": (LSTM, {
        "rnn/lstm_cell/weights": "kernel",
        "rnn/lstm_cell/biases": "bias",
        "rnn/lstm_cell/w_f_diag": "w_f_diag",
        "rnn/lstm_cell/w_i_diag": "w_i_diag",
        "rnn/lstm_cell/w_o_diag": "w_o_diag",
        "rnn/lstm_cell/projection/weights": "projection/kernel",
    }),
    "lstm_0.12": (LSTM, {
        "Net/RNN/LSTMCell/W_0": "kernel",
        "Net/RNN/LSTMCell/B": "bias",
        "Net/RNN/LSTMCell/W_F_diag": "w_f_diag",
        "Net/RNN/LSTMCell/W_I_diag": "w_i_diag",
        "Net/RNN/LSTMCell/W_O_diag": "w_o_diag",
        "Net/RNN/LSTMCell/W_P_0": "projection/kernel",
    }),
    "stack_0.12": (STACK, {
        f"RNN/MultiRNNCell/Cell{i}/BasicLSTMCell/Linear/{old}:0": f"cell_{i}/{new}"
        for i in range(2)
        for old, new in (("Matrix", "kernel"), ("Bias", "bias"))
    }),
    "gru_0.12": (rnn.GRUCell(H), {
        f"BiRNN/FW/GRUCell/{gate}/Linear/{old}": f"{gate.lower()}/{new}"
        for gate in ("Gates", "Candidate")
        for old, new in (("Matrix", "kernel"), ("Bias", "bias"))
    }),
    "gru_block": (rnn.GRUBlockCell(H), {
        "rnn/gru_cell/w_ru": "gates/kernel",
        "rnn/gru_cell/b_ru": "gates/bias",
        "rnn/gru_cell/w_c": "candidate/kernel",
        "rnn/gru_cell/b_c": "candidate/bias",
    }),
    "fused": (rnn.LSTMBlockCell(H), {
        "lstm_fused_cell/kernel": "kernel", "lstm_fused_cell/bias": "bias",
    }),
    "cudnn_lstm": (rnn.MultiRNNCell([rnn.LSTMCell(H, forget_bias=0.0)]), {
        f"cudnn_lstm/rnn/multi_rnn_cell/cell_0/cudnn_compatible_lstm_cell/{name}": f"cell_0/{name}"
        for name in ("kernel", "bias")
    }),
    "cudnn_gru": (rnn.MultiRNNCell([rnn.CudnnCompatibleGRUCell(H)]), {
        f"cudnn_gru/rnn/multi_rnn_cell/cell_0/cudnn_compatible_gru_cell/{name}": f"cell_0/{name}"
        for name in (
            "gates/kernel", "gates/bias",
            "candidate/input_projection/kernel", "candidate/input_projection/bias",
            "candidate/hidden_projection/kernel", "candidate/hidden_projection/bias",
        )
    }),
    "attention_cell_1.1": (rnn.AttentionCellWrapper(rnn.BasicRNNCell(H), 2), {
        f"rnn/attention_cell_wrapper/{old}": new for old, new in {
            "weights": "kernel", "biases": "bias",
            "attention/weights": "attention/kernel", "attention/biases": "attention/bias",
            "attention/attn_w": "attention/attn_w", "attention/attn_v": "attention/attn_v",
            "attn_output_projection/weights": "attn_output_projection/kernel",
            "attn_output_projection/biases": "attn_output_projection/bias",
            "basic_rnn_cell/weights": "cell/kernel", "basic_rnn_cell/biases": "cell/bias",
        }.items()
    }),
    "phased_1.1": (rnn.PhasedLSTMCell(H), {
        f"rnn/phased_lstm_cell/{layer}/{old}": f"{layer}/{new}"
        for layer in ("mask_gates", "new_input", "output_gate")
        for old, new in (("weights", "kernel"), ("biases", "bias"))
    } | {f"rnn/phased_lstm_cell/{name}": name for name in ("period", "phase", "ratio_on")}),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_names_of_other_versions(name):
    """Old names of variables are recognised."""
    cell, renamed = OLD[name]
    shape = ((1,), (D,)) if name.startswith("phased") else (D,)
    params = drawn(cell.init, shape)
    arrays = by_name(params)
    assert set(renamed.values()) == set(arrays)
    variables = {old: arrays[new] for old, new in renamed.items()}
    assert_equal(tf1.import_params(cell, variables), params)


def test_names_of_a_static_stack():
    """Static bidirectional stacks lack the scope `bidirectional_rnn` of each layer."""
    cells = [rnn.GRUCell(H), rnn.GRUCell(H)]
    params = drawn(lambda key, x: rnn.init_stack_bidirectional(key, cells, cells, x))
    variables = tf1.export_params((cells, cells), params)
    static = {name.replace("bidirectional_rnn/fw", "fw").replace("bidirectional_rnn/bw", "bw"): x
              for name, x in variables.items()}  # fmt: skip
    assert "stack_bidirectional_rnn/cell_1/bw/gru_cell/gates/bias" in static
    assert_equal(tf1.import_params((cells, cells), static), params)
    one = tf1.import_params(cells[0], static, "stack_bidirectional_rnn/cell_0/fw")
    assert_equal(one, params["cell_0"]["fw"])


def test_names_of_objects():
    """Names of `tf.train.Checkpoint`, where the scope is the attribute that holds the cell."""
    params = drawn(rnn.LSTMCell(H).init)
    of_value = "/.ATTRIBUTES/VARIABLE_VALUE"
    variables = {f"model/encoder/{name}{of_value}": x for name, x in params.items()}
    variables[f"model/encoder/kernel/.OPTIMIZER_SLOT/opt/m{of_value}"] = params["kernel"]
    assert_equal(tf1.import_params(rnn.LSTMCell(H), variables, "model/encoder"), params)


def test_old_names_become_new_ones():
    """Names of TF 1.1 are exported as those of 1.15, and names of 1.15 stay the same."""
    cell, renamed = OLD["lstm_1.1"]
    arrays = by_name(drawn(cell.init))
    old = {name: np.asarray(arrays[new]) for name, new in renamed.items()}
    new = tf1.export_params(cell, tf1.import_params(cell, old | {"a": 10.0}))
    assert_equal(new, {f"rnn/lstm_cell/{path}": arrays[path] for path in arrays})
    assert_equal(tf1.export_params(cell, tf1.import_params(cell, new | {"a": 10.0})), new)


@pytest.mark.parametrize("name, cell, inputs", [
    ("W_{}", rnn.CoupledInputForgetGateLSTMCell(H), D),
    ("W_P_{}", rnn.CoupledInputForgetGateLSTMCell(H, num_proj=4), D),
    ("W_{}", rnn.TimeFreqLSTMCell(2, input_size=4, feature_size=4), 4),
    ("bwd/W_t_0_{}", rnn.BidirectionalGridLSTMCell(
        2, feature_size=2, num_frequency_blocks=[2]), D),
    ("gates/kernel/part_{}", rnn.GRUCell(H), 12),
], ids=["coupled", "projection", "time_freq", "grid", "partitioned"])  # fmt: skip
def test_shards(name, cell, inputs):
    """Twelve shards are concatenated in numerical order: W_10 comes after W_9."""
    params = drawn(cell.init, (inputs,))
    variables = tf1.export_params(cell, params)
    whole = next(n for n in variables if n.endswith(name.format(0).removesuffix("/part_0")))
    scope = whole[: -len(name.format(0).removesuffix("/part_0"))]
    shards = np.array_split(variables.pop(whole), 12)
    variables |= {scope + name.format(i): shard for i, shard in enumerate(shards)}
    assert_equal(tf1.import_params(cell, variables), params)
    del variables[scope + name.format(5)]
    with pytest.raises(KeyError, match="expected shards 0 to 11 of"):
        tf1.import_params(cell, variables)


# Attention


def decoder(kernel=8):
    mechanism = rnn.BahdanauAttention(H, memory_size=6)
    return rnn.AttentionWrapper(rnn.GRUCell(H), mechanism, attention_layer_size=kernel)


def test_memory_layers_of_several_mechanisms():
    """Memory layers are numbered in the order of the mechanisms."""
    luong, bahdanau = rnn.LuongAttention(H, memory_size=6), rnn.BahdanauAttention(H, memory_size=5)
    cell = rnn.AttentionWrapper(rnn.GRUCell(H), [luong, bahdanau, bahdanau])
    params = drawn(cell.init)
    variables = tf1.export_params(cell, params, "model/decoder")
    for number, of in (("", "luong_attention"), ("_1", "bahdanau_attention"),
                       ("_2", "bahdanau_attention_1")):  # fmt: skip
        np.testing.assert_array_equal(
            variables[f"model/memory_layer{number}/kernel"], params[of]["memory_layer"]["kernel"]
        )
    assert_equal(tf1.import_params(cell, dict(reversed(variables.items()))), params)


def test_the_nearest_memory_layer():
    """Of several memory layers, a decoder takes the one in the nearest scope."""
    both = {way: variables_of(decoder(), scope=f"{way}/decoder") for way in ("there", "back")}
    variables = both["there"] | {n: 2 * x for n, x in both["back"].items()}
    params = tf1.import_params(decoder(), variables, "back")
    np.testing.assert_array_equal(
        params["bahdanau_attention"]["memory_layer"]["kernel"],
        variables["back/memory_layer/kernel"],
    )
    variables["memory_layer/kernel"] = variables.pop("back/memory_layer/kernel")
    tf1.import_params(decoder(), variables, "back")
    variables["memory_layer_1/kernel"] = variables.pop("there/memory_layer/kernel")
    with pytest.raises(ValueError, match=(
        "expected 1 memory_layer for 'back/decoder', got memory_layer/kernel, "
        "memory_layer_1/kernel, which are equally near"
    )):  # fmt: skip
        tf1.import_params(decoder(), variables, "back")


def test_a_memory_in_the_params_is_not_exported():
    """`export_params` ignores a memory that `attend` added to the params."""
    params = drawn(decoder().init)
    attended = decoder().attend(params, jnp.ones((2, 7, 6)), [7, 4])
    assert_equal(tf1.export_params(decoder(), attended), tf1.export_params(decoder(), params))


BESIDE = {
    "att/W_1": (3, 3), "att/W_2": (3, 3), "att/w": (3,), "att/weights": (3,), "x/matrix_1": (2,),
    "emb/part_1": (2,), "Encoder/v": (2,), "encoder/v": (2,), "embedding": (9, 5),
    "embedding/proj/kernel": (5, 5), "rnn/gru_cell/gates/kernel/train_op": (7, 8),
    "rnn/gru_cell/gates/kernel/train_op_1": (7, 8),
}  # fmt: skip


def test_variables_beside_the_cells_are_ignored():
    """Other variables are ignored, even with names that resemble scopes, slots or params."""
    cell = rnn.GRUCell(4)
    params = drawn(cell.init)
    variables = tf1.export_params(cell, params) | {n: np.ones(s) for n, s in BESIDE.items()}
    assert_equal(tf1.import_params(cell, variables), params)
    assert recognised(CanonicalWeights(variables)) == [("rnn", cell)]
