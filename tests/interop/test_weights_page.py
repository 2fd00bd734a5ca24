"""The table of docs/weights.md: what each row says to type is run on a file of that kind."""

import json
import pathlib
import re
import zipfile

import h5py
import numpy as np
import pytest
from weights_agree import assert_close

import jax_dynrnn as rnn
from jax_dynrnn import interop
from jax_dynrnn.interop import checkpoint, tf1
from jax_dynrnn.interop._formats.wire import field

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "weights.md"
D, H = 3, 4
CELL = rnn.LSTMCell(H, forget_bias=0.0)


def rows():
    """The code of each row of the page's first table."""
    table = PAGE.read_text().split("| you have | code |")[1].split("\n\n")[0]
    return re.findall(r"`([^`]+)` \|$", table, re.MULTILINE)


def write_keras_files():
    """Files of Keras with one LSTM, as its versions name the arrays in them."""
    options = {"name": "lstm", "units": H, "activation": "tanh", "recurrent_activation": "sigmoid"}
    layers = [{"class_name": "LSTM", "config": options}]
    config = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
    pathlib.Path("model.json").write_text(config)
    with h5py.File("model.weights.h5", "w") as file:
        for i, array in enumerate(WEIGHTS):
            file[f"layers/lstm/cell/vars/{i}"] = array
    with zipfile.ZipFile("model.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.4.1"}')
        archive.write("model.json", "config.json")
        archive.write("model.weights.h5")
    names = [f"lstm/lstm_cell/{name}" for name in ("kernel", "recurrent_kernel", "bias")]
    with h5py.File("model.h5", "w") as file:
        file.attrs["model_config"] = config
        group = file.create_group("model_weights/lstm")
        file["model_weights"].attrs["layer_names"] = [b"lstm"]
        group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
        for name, array in zip(names, WEIGHTS, strict=True):
            group[f"{name}:0"] = array
    keys = [
        f"layer_with_weights-0/cell/{name.rpartition('/')[2]}/.ATTRIBUTES/VARIABLE_VALUE"
        for name in names
    ]
    graph = b"".join(
        field(
            1, field(2, field(1, b"VARIABLE_VALUE") + field(2, n.encode()) + field(3, k.encode()))
        )
        for n, k in zip(names, keys, strict=True)
    )
    variables = dict(zip(keys, WEIGHTS, strict=True))
    variables["_CHECKPOINTABLE_OBJECT_GRAPH"] = np.array(graph, object)
    checkpoint.write_checkpoint("weights", variables)


def write_tensorflow_files():
    """A checkpoint, alone in a folder, and a frozen graph."""
    from test_hostile_files import constant, shape_field

    variables = tf1.export_params(CELL, PARAMS)
    checkpoint.write_checkpoint("model.ckpt-1000", variables)
    pathlib.Path("folder").mkdir()
    checkpoint.write_checkpoint("folder/model", variables)
    nodes = [
        constant(name.encode(), field(1, 1) + shape_field(*x.shape) + field(4, x.tobytes()))
        for name, x in variables.items()
    ]
    pathlib.Path("frozen.pb").write_bytes(b"".join(nodes))


def write_torch_files():
    """Weights by PyTorch's names, in safetensors and in an `.npz`."""
    from safetensors.numpy import save_file

    named = interop.torch.export_params(CELL, PARAMS, prefix="encoder")
    save_file(named, "model.safetensors")
    np.savez("model.npz", **named)


draw = np.random.default_rng(0)
WEIGHTS = [
    draw.normal(size=shape).astype(np.float32) for shape in ((D, 4 * H), (H, 4 * H), (4 * H,))
]
PARAMS = interop.keras.import_params(CELL, WEIGHTS)


@pytest.mark.parametrize("code", rows())
def test_what_the_table_says_to_type(code, tmp_path, monkeypatch, load_oracle):
    """The code of a row gives the params that were written."""
    monkeypatch.chdir(tmp_path)
    write_keras_files()
    write_tensorflow_files()
    write_torch_files()
    given = {
        "cell": CELL, "checkpoint": checkpoint, "interop": interop, "np": np, "tf1": tf1,
        "weights": WEIGHTS,
    }  # fmt: skip
    if "torch.load" in code:
        torch = load_oracle("torch")
        import safetensors.torch

        named = interop.torch.export_params(CELL, PARAMS)
        torch.save({name: torch.from_numpy(x) for name, x in named.items()}, "model.pt")
        exec(code, {"safetensors": safetensors, "torch": torch})
        read = checkpoint.read_safetensors("converted.safetensors")
        given["params"] = interop.torch.import_params(CELL, read)
    else:
        exec(code, given)
    for name in ("kernel", "bias"):
        assert_close(np.asarray(given["params"][name]), PARAMS[name], 1e-6)


def test_the_table_has_all_rows():
    """The expression finds every row."""
    table = PAGE.read_text().split("| you have | code |")[1].split("\n\n")[0]
    assert len(rows()) == table.strip().count("\n") == 11
