"""Files are known by their first bytes: what the command reads, and what it refuses, and why."""

import pickle
import subprocess
import sys
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_files import printed
from weights_agree import assert_close, outputs_and_states, random_params

import jax_dynrnn as rnn
from jax_dynrnn import interop
from jax_dynrnn.interop import checkpoint
from jax_dynrnn.interop._formats.graph_nodes import Node, read_nodes
from jax_dynrnn.interop._formats.wire import field

D, H = 3, 4
LSTM, GRU = rnn.LSTMCell(H, forget_bias=0.0), rnn.CudnnCompatibleGRUCell(H)
PROJECTED = rnn.LSTMCell(H, forget_bias=0.0, num_proj=2)
MODULES = {
    "encoder.rnn": rnn.MultiRNNCell([LSTM, LSTM]),
    "decoder": (GRU, GRU),
    "tagger": ([LSTM, LSTM], [LSTM, LSTM]),
    "small": PROJECTED,
    "": rnn.BasicRNNCell(H),
}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_weights_of_pytorch(tmp_path, module, form):
    """The program for PyTorch's names has the cells of the modules, and their params."""
    from safetensors.numpy import save_file

    cells = MODULES[module]
    params = random_params(cells, jnp.float32)
    arrays = interop.torch.export_params(cells, params, prefix=module)
    given = arrays | {"head.weight": np.ones((2, H), np.float32)}
    path = tmp_path / "model"  # known by its first bytes, whatever its name
    if form == "safetensors":
        save_file(given, path)
    else:
        with open(path, "wb") as file:
            np.savez(file, **given)
    namespace = {}
    program = printed(path)
    exec(program, namespace)
    assert namespace["cells_1"] == cells and "#   head.weight [2, 4]" in program
    expected = interop.torch.import_params(cells, arrays, prefix=module)
    assert_close(namespace["params_1"], expected, 0)


def test_weights_of_pytorch_with_names_of_their_own(tmp_path):
    """Names such as `enc_w_ih`, of weights that were stored with NumPy."""
    arrays = interop.torch.export_params(GRU, random_params(GRU), single_cell=True)
    own = {name.replace("weight", "w").replace("bias", "b"): x for name, x in arrays.items()}
    np.savez(tmp_path / "g2p.npz", **{f"enc_{name}": x for name, x in own.items()})
    namespace = {}
    exec(printed(tmp_path / "g2p.npz"), namespace)
    assert namespace["cells_1"] == GRU
    assert_close(namespace["params_1"], interop.torch.import_params(GRU, arrays), 0)


def test_names_of_keras_in_an_archive(tmp_path):
    """Arrays by the names of Keras's variables; both directions of a layer are a pair."""
    params = random_params((LSTM, LSTM), jnp.float32)
    weights = interop.keras.export_params((LSTM, LSTM), params)
    names = ("kernel:0", "recurrent_kernel:0", "bias:0")
    paths = [f"both/{way}ward_lstm/{name}" for way in ("for", "back") for name in names]
    np.savez(tmp_path / "m.npz", **dict(zip(paths, weights, strict=True)))
    namespace = {}
    exec(printed(tmp_path / "m.npz"), namespace)
    assert namespace["cells_1"] == (LSTM, LSTM)
    assert_close(namespace["params_1"], params, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8", "bool"])
def test_safetensors(tmp_path, dtype):
    """Arrays equal those that the safetensors library stores."""
    from safetensors.flax import save_file

    arrays = {"a": jnp.arange(6).reshape(2, 3).astype(dtype), "b/ü": jnp.zeros((), dtype)}
    save_file(arrays, tmp_path / "m.safetensors", {"format": "pt"})
    found = checkpoint.read_safetensors(tmp_path / "m.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def torch_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))


REFUSED = {
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps({})),
        "a pickle.*never loaded.*save_file",
    ),
    "torch": (torch_zip, "torch.save, a pickle.*never loaded.*weights_only=True"),
    "tflite": (
        lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(20)),
        "TFLite.*quantised",
    ),
    "saved_model.pb": (lambda path: path.write_bytes(b"\x08\x01\x12\0"), "folder variables/"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    """The reason, and what to do; the reader of Keras's files says the same."""
    write, message = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(SystemExit, match=message):
        printed(tmp_path / name)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        interop.keras.read(tmp_path / name)


def test_a_file_of_keras_through_the_shell(tmp_path):
    """As typed: the command's output is a program, which runs."""
    with h5py.File(tmp_path / "weights", "w") as file:
        for i, shape in enumerate([(D, 4 * H), (H, 4 * H), (4 * H,)]):
            file[f"layers/lstm/cell/vars/{i}"] = np.ones(shape, np.float32)
    python = sys.executable
    command = f"{python} -m jax_dynrnn.interop weights > port.py && {python} port.py"
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)


class Own(rnn.GRUCell):
    """A cell with arithmetic of its own."""

    def activate_gate(self, x):
        return interop.keras.hard_sigmoid(x)


class OtherParams(rnn.GRUCell):
    """A cell with params of its own."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {"w": jnp.ones(3, dtype)}


def test_subclasses():
    """A subclass that changes arithmetic is converted as its parent, one with other params not."""
    params = random_params(rnn.GRUCell(H))
    weights = interop.keras.export_params(rnn.GRUCell(H), params)
    assert_close(interop.keras.import_params(Own(H), weights), params, 0)
    with pytest.raises(ValueError, match="has no counterpart"):
        interop.keras.import_params(OtherParams(H), weights)


def test_a_learned_initial_state_with_a_batch_axis():
    """`[1, H]`, as models of TensorFlow store it, is the state `[H]`."""
    cell = rnn.LearnedInitialState(rnn.GRUCell(H))
    variables = interop.tf1.export_params(cell, random_params(cell, jnp.float32))
    (name,) = (name for name in variables if "initial_state" in name)
    wide = variables | {name: variables[name][None]}
    expected = interop.tf1.import_params(cell, variables)
    assert_close(interop.tf1.import_params(cell, wide), expected, 0)
    with pytest.raises(ValueError, match="initial_state"):
        interop.tf1.import_params(cell, variables | {name: np.ones((2, H), np.float32)})


def test_sizes_decide_between_scopes():
    """Of two runs of the same kind, the one with the cell's sizes is imported."""
    small, large = rnn.GRUCell(2), rnn.GRUCell(5)
    params = {cell: random_params(cell, jnp.float32) for cell in (small, large)}
    variables = interop.tf1.export_params(small, params[small], "a/rnn")
    variables |= interop.tf1.export_params(large, params[large], "b/rnn")
    for cell in (small, large):
        assert_close(interop.tf1.import_params(cell, variables), params[cell], 1e-6)
    with pytest.raises(ValueError, match="in none of which all fit"):
        interop.tf1.import_params(rnn.GRUCell(3), variables)


def test_a_folder_with_one_checkpoint(tmp_path):
    """Without a state file, the only checkpoint of a folder is it; of two, neither."""
    checkpoint.write_checkpoint(tmp_path / "model", {"w": np.ones(2)})
    assert list(checkpoint.read_checkpoint(tmp_path)) == ["w"]
    checkpoint.write_checkpoint(tmp_path / "other", {"w": np.ones(2)})
    with pytest.raises(FileNotFoundError, match="there are"):
        checkpoint.read_checkpoint(tmp_path)


OPTIONS = {"forget_bias": 0.7, "use_peepholes": True, "cell_clip": 3.0, "num_proj": 2}
OPTIONS |= {"proj_clip": 1.5}
EXPECTED = {
    "a": rnn.LSTMCell(3, activation=jax.nn.relu, **OPTIONS),
    "b": rnn.MultiRNNCell([
        rnn.LSTMCell(2, forget_bias=0.25, activation=jax.nn.soft_sign),
        rnn.GRUCell(2, activation=jax.nn.elu),
    ]),
    "c": rnn.BasicRNNCell(2, activation=jax.nn.relu),
}  # fmt: skip
"""What a graph of TensorFlow shows of the cells in it, by scope."""


@pytest.fixture(scope="module")
def graphs(load_oracle, tmp_path_factory):
    """A folder with a checkpoint, its `.meta` and a frozen graph, and the outputs of the graph."""
    tf = load_oracle("tensorflow")
    from tensorflow_run import CELLS

    v1, folder = tf.compat.v1, tmp_path_factory.mktemp("graphs")
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph, v1.Session() as session:
            x = tf.constant(np.ones((2, 4, 3), np.float32))
            lower = CELLS.BasicLSTMCell(2, forget_bias=0.25, activation=tf.nn.softsign)
            cells = {
                "a": CELLS.LSTMCell(3, activation=tf.nn.relu, **OPTIONS),
                "b": CELLS.MultiRNNCell([lower, CELLS.GRUCell(2, activation=tf.nn.elu)]),
                "c": CELLS.BasicRNNCell(2, activation=tf.nn.relu),
            }
            for scope, cell in cells.items():
                x, _ = v1.nn.dynamic_rnn(cell, x, dtype=tf.float32, scope=scope)
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(folder / "model"))
            frozen = v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), [x.op.name]
            )
            (folder / "frozen.pb").write_bytes(frozen.SerializeToString())
            return folder, session.run(x)
    finally:
        v1.enable_control_flow_v2()


@pytest.mark.parametrize("form", ["frozen.pb", "frozen", "model", "model.meta"])
def test_options_from_a_graph(graphs, form):
    """Forget bias, clips and activations come from a frozen graph, or the `.meta` file."""
    folder, results = graphs
    # A graph is known by its first bytes, whatever its name.
    (folder / "frozen").write_bytes((folder / "frozen.pb").read_bytes())
    program, found = printed(folder / form), {}
    exec(program, found)
    assert found["cells"] == EXPECTED and "are those of the graph" in program
    outputs = np.ones((2, 4, 3), np.float32)
    for scope, cell in EXPECTED.items():
        outputs, _ = outputs_and_states(cell, found["params"][scope], outputs)
    np.testing.assert_allclose(outputs, results, rtol=1e-5, atol=1e-5)


def test_a_damaged_graph_beside_a_checkpoint(tmp_path):
    """The checkpoint is read all the same, and the program says why the graph is not used."""
    cell = rnn.GRUCell(2)
    variables = interop.tf1.export_params(cell, random_params(cell, jnp.float32))
    checkpoint.write_checkpoint(tmp_path / "model", variables)
    (tmp_path / "model.meta").write_bytes(b"\x12\x05damag")
    program = printed(tmp_path / "model")
    assert "# the graph is not used: " in program and "rnn.GRUCell(2)" in program


def test_a_constant_that_is_no_number(tmp_path):
    """Constants of graphs that cannot be read are ignored where options are looked for."""
    (tmp_path / "g.pb").write_bytes(field(1, field(1, b"x") + field(2, b"Const")))
    assert read_nodes(tmp_path / "g.pb", ("Const",)) == {"x": Node("Const", ())}
