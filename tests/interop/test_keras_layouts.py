"""What Keras 1 and 2 wrote, layouts of cuDNN, models in models, and what has no cells."""

import json

import h5py
import jax
import numpy as np
import pytest
from keras_files import printed
from weights_agree import assert_close

import jax_dynrnn as rnn
from jax_dynrnn import interop
from jax_dynrnn.interop import checkpoint

D, H = 3, 4
HARD = {"activation": "tanh", "recurrent_activation": "hard_sigmoid"}
X = np.random.default_rng(2).normal(size=(2, 5, D)).astype(np.float32)


def drawn(*shapes, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.normal(size=shape).astype(np.float32) for shape in shapes]


def write_model(path, version, layers, config=True, class_name="Sequential"):
    """Writes a model as Keras 1 and 2 did.

    `layers` has the class, the configuration and the arrays by name of each layer, by name.
    """
    entries = [
        {"class_name": kind, "name": name, "config": {"name": name} | options}
        for name, (kind, options, _) in layers.items()
    ]
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if config else file
        root.attrs["layer_names"] = [name.encode() for name in layers]
        if version:
            root.attrs["keras_version"] = version.encode()
        if config:
            inner = entries if class_name == "Sequential" else {"layers": entries}
            model = {"class_name": class_name, "config": inner}
            file.attrs["model_config"] = json.dumps(model).encode()
        for name, (_, _, weights) in layers.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [key.encode() for key in weights]
            for key, array in weights.items():
                group[key] = array


def keras_1(name, gates, inputs=D):
    """The arrays of a layer of Keras 1: three for each gate."""
    return {
        f"{name}_{what}_{gate}": drawn(shape, seed=10 * i + j)[0]
        for i, gate in enumerate(gates)
        for j, (what, shape) in enumerate({"W": (inputs, H), "U": (H, H), "b": (H,)}.items())
    }


def joined(arrays, name, gates):
    """The same arrays with the gates side by side, as of Keras 2."""
    return [np.concatenate([arrays[f"{name}_{what}_{g}"] for g in gates], -1) for what in "WUb"]


def test_a_model_of_keras_1(tmp_path):
    """Twelve arrays of an LSTM and nine of a GRU; options and gates have the names of Keras 1."""
    options = {"output_dim": H, "activation": "tanh", "inner_activation": "hard_sigmoid"}
    lstm, gru = keras_1("lstm_1", "icfo"), keras_1("gru_1", "zrh", H)
    layers = {
        "lstm_1": ("LSTM", options | {"return_sequences": True}, lstm),
        "gru_1": ("GRU", options | {"go_backwards": True}, gru),
    }
    # The first versions of Keras wrote none.
    for version in ("1.2.2", None):
        write_model(tmp_path / "model.h5", version, layers)
        found = interop.keras.read(tmp_path / "model.h5")
        hard = interop.keras.hard_sigmoid
        cells = {
            "lstm_1": rnn.LSTMCell(H, forget_bias=0.0, recurrent_activation=hard),
            "gru_1": rnn.GRUCell(H, recurrent_activation=hard),
        }
        assert {name: layer.cells for name, layer in found.items()} == cells
        for name, arrays, gates in (("lstm_1", lstm, "ifco"), ("gru_1", gru, "zrh")):
            expected = interop.keras.import_params(
                cells[name], joined(arrays, name, gates), recurrent_activation=hard
            )
            assert_close(found[name].params, expected, 0)
            assert list(found[name].weights) == list(arrays)
    namespace = {}
    exec(printed(tmp_path / "model.h5"), namespace)
    outputs, _ = namespace["run_2"](namespace["run_1"](X)[0])
    assert outputs.shape == (2, H)


def lstm_weights(units=H, gates=4):
    return drawn((D, gates * units), (units, gates * units), (gates * units,))


@pytest.mark.parametrize("version, function", [
    ("2.2.4", interop.keras.hard_sigmoid), ("2.2.4-tf", interop.keras.hard_sigmoid),
    ("3.4.0", jax.nn.hard_sigmoid),
])  # fmt: skip
def test_the_version_decides_what_hard_sigmoid_is(tmp_path, version, function):
    """The name in the configuration is one function in Keras 1 and 2, another in Keras 3."""
    names = ["l/kernel:0", "l/recurrent_kernel:0", "l/bias:0"]
    weights = dict(zip(names, lstm_weights(), strict=True))
    write_model(tmp_path / "m.h5", version, {"l": ("LSTM", {"units": H} | HARD, weights)})
    assert interop.keras.read(tmp_path / "m.h5")["l"].cells.recurrent_activation is function


def cudnn_of(weights, gates):
    """The layout of cuDNN's layers: the conversion of Keras, the other way round."""
    kernel, recurrent, bias = weights
    kernel = np.hstack([k.T.reshape(k.shape) for k in np.hsplit(kernel, gates)])
    recurrent = np.hstack([k.T for k in np.hsplit(recurrent, gates)])
    return [kernel, recurrent, bias.reshape(-1)]


@pytest.mark.parametrize("kind, gates", [("LSTM", 4), ("GRU", 3)])
def test_layers_of_cudnn(tmp_path, kind, gates, load_oracle):
    """`CuDNNLSTM` and `CuDNNGRU` are read as Keras reads them into its other layers."""
    load_oracle("tf_keras")
    from tf_keras.src.saving.legacy.hdf5_format import preprocess_weights_for_loading

    keras = load_oracle("tf_keras")
    weights = drawn((D, gates * H), (H, gates * H), (2 * gates * H,))
    layer = getattr(keras.layers, kind)(H)
    layer.build((None, None, D))
    converted = preprocess_weights_for_loading(layer, [*weights], "2.2.4", "tensorflow")
    layer.set_weights(converted)
    names = ["l/kernel:0", "l/recurrent_kernel:0", "l/bias:0"]
    named = dict(zip(names, weights, strict=True))
    layers = {"l": (f"CuDNN{kind}", {"units": H}, named)}
    write_model(tmp_path / "model.h5", "2.2.4", layers)
    [found] = interop.keras.read(tmp_path / "model.h5").values()
    _, state = rnn.dynamic_rnn(found.cells, found.params, X)
    expected = np.asarray(layer(X))
    assert_close(getattr(state, "h", state), expected, 1e-5)
    traced = jax.jit(lambda w: interop.keras.import_params(found.cells, w))(weights)
    assert_close(traced, jax.tree.map(np.asarray, found.params), 0)
    if kind == "GRU":
        with pytest.raises(ValueError, match="CuDNNGRU, which is CudnnCompatibleGRUCell"):
            interop.keras.import_params(rnn.GRUCell(H), weights)


def test_a_model_in_a_model(tmp_path):
    """Arrays of an inner model are in the group of the outer layer; names have both."""
    names = ["lstm/kernel:0", "lstm/recurrent_kernel:0", "lstm/bias:0"]
    weights = dict(zip(names, lstm_weights(), strict=True))
    lstm = {"class_name": "LSTM", "config": {"name": "lstm", "units": H} | HARD}
    inner = {"layers": [lstm]}
    write_model(tmp_path / "m.h5", "2.4.0", {"encoder": ("Functional", inner, weights)})
    layers = interop.keras.read(tmp_path / "m.h5")
    assert list(layers) == ["encoder/lstm"] and layers["encoder/lstm"].params["bias"].any()


def test_without_a_configuration(tmp_path):
    """Weights alone are read; `config` and the command's --config say what the layers are."""
    names = ["l/kernel:0", "l/recurrent_kernel:0", "l/bias:0"]
    weights = dict(zip(names, lstm_weights(), strict=True))
    layers = {"l": ("LSTM", {"units": H, "go_backwards": True} | HARD, weights)}
    write_model(tmp_path / "w.h5", "2.2.4", layers, config=False)
    [layer] = interop.keras.read(tmp_path / "w.h5").values()
    assert layer.cells is None and list(layer.weights) == names
    program = printed(tmp_path / "w.h5")
    assert "cells_1 = rnn.LSTMCell(4, forget_bias=0.0)" in program
    assert "recurrent_activation is interop.keras.hard_sigmoid by default" in program
    exec(program, {})
    entry = {"class_name": "LSTM", "config": {"name": "l"} | layers["l"][1]}
    config = {"class_name": "Sequential", "config": {"layers": [entry]}, "keras_version": "2.2.4"}
    (tmp_path / "w.json").write_text(json.dumps(config))
    [layer] = interop.keras.read(tmp_path / "w.h5", tmp_path / "w.json").values()
    assert layer.cells.recurrent_activation is interop.keras.hard_sigmoid
    assert interop.keras.read(tmp_path / "w.h5", config)["l"].cells == layer.cells
    program = printed(tmp_path / "w.h5", "--config", tmp_path / "w.json")
    assert "reverse=True" in program and "hard_sigmoid" in program


@pytest.mark.parametrize("options, problem", [
    ({"activation": "mine", "recurrent_activation": "sigmoid"}, "its activation is 'mine'"),
    ({"activation": "tanh"}, "its inner_activation is 'missing'"),
    (HARD | {"units": None}, "expected a number of units"),
])  # fmt: skip
def test_layers_that_have_no_cells(tmp_path, options, problem):
    """A layer with a function of its own has arrays and the reason, and the program says so."""
    names = ["l/kernel:0", "l/recurrent_kernel:0", "l/bias:0"]
    weights = dict(zip(names, lstm_weights(), strict=True))
    write_model(tmp_path / "m.h5", "2.2.4", {"l": ("LSTM", {"units": H} | options, weights)})
    [layer] = interop.keras.read(tmp_path / "m.h5").values()
    assert layer.cells is None and problem in layer.problem and len(layer.weights) == 3
    assert f"left out, since {problem}" in printed(tmp_path / "m.h5")


def test_arrays_that_do_not_fit_the_configuration(tmp_path):
    """A configuration with other sizes than the arrays is an error that names the layer."""
    names = ["l/kernel:0", "l/recurrent_kernel:0", "l/bias:0"]
    weights = dict(zip(names, lstm_weights(), strict=True))
    write_model(tmp_path / "m.h5", "2.2.4", {"l": ("LSTM", {"units": 5} | HARD, weights)})
    with pytest.raises(checkpoint.CheckpointError, match="layer 'l': weights: expected"):
        interop.keras.read(tmp_path / "m.h5")


def test_links_to_other_files_are_refused(tmp_path):
    """HDF5 can name arrays in other files, which are not opened."""
    names = ["kernel", "recurrent_kernel"]
    for link in (h5py.ExternalLink("/etc/passwd", "/"), h5py.SoftLink("/missing")):
        with h5py.File(tmp_path / "m.h5", "w") as file:
            file.attrs["layer_names"] = [b"l"]
            group = file.create_group("l")
            group.attrs["weight_names"] = [name.encode() for name in names]
            group["kernel"] = link
        with pytest.raises(checkpoint.CheckpointError):
            interop.keras.read(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = [b"l"]
        group = file.create_group("l")
        group.attrs["weight_names"] = [b"kernel"]
        group.create_dataset("kernel", (4,), "f4", external=[("other", 0, 16)])
    with pytest.raises(checkpoint.CheckpointError, match="got a link to another"):
        interop.keras.read(tmp_path / "m.h5")


def test_h5py_is_needed_only_for_hdf5(tmp_path, monkeypatch):
    """Without h5py, the error says what to install."""
    write_model(tmp_path / "m.h5", "2.2.4", {})
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    message = r"pip install h5py, or pip install 'jax_dynrnn\[keras\]'"
    with pytest.raises(ImportError, match=message):
        interop.keras.read(tmp_path / "m.h5")
    with pytest.raises(SystemExit, match="pip install h5py"):
        printed(tmp_path / "m.h5")
