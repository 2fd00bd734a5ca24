"""A file that this library writes loads in Keras 3 and in `tf_keras`."""

import importlib

import numpy as np
import pytest
from weights_agree import H, T, as_there, assert_close, random_inputs, random_params

import jax_dynrnn as rnn
from jax_dynrnn import interop

LSTM = rnn.LSTMCell(H, forget_bias=0.0)
GRU = rnn.CudnnCompatibleGRUCell(H)
CELLS = {"one": LSTM, "both": (GRU, GRU)}
# Warnings of Keras's own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("framework", ["keras", "tf_keras"])
def test_keras_loads_what_is_written(framework, tmp_path, load_oracle):
    """The model computes what we do; a layer that is not in the file keeps its weights."""
    load_oracle(framework)
    keras = importlib.import_module(framework)
    x = random_inputs(np.float32)
    layers = [
        keras.layers.Input((T, x.shape[-1])),
        keras.layers.LSTM(H, return_sequences=True, name="one"),
        keras.layers.Bidirectional(keras.layers.GRU(H, return_sequences=True), name="both"),
        keras.layers.Dense(2, name="head"),
    ]
    model = as_there(keras.Sequential)(layers)
    head = model.get_layer("head").get_weights()
    params = {
        "one": random_params(LSTM, np.float32, features=x.shape[-1]),
        "both": random_params((GRU, GRU), np.float32, features=H),
    }
    written = {n: interop.keras.export_params(CELLS[n], params[n]) for n in CELLS}
    interop.keras.write_weights(tmp_path / "port.h5", written)
    as_there(lambda path: model.load_weights(path, by_name=True))(str(tmp_path / "port.h5"))

    outputs, _ = rnn.dynamic_rnn(LSTM, params["one"], x)
    outputs, _ = rnn.bidirectional_dynamic_rnn(GRU, GRU, params["both"], outputs)
    expected = np.asarray(rnn.concatenate(*outputs)) @ head[0] + head[1]
    assert_close([np.asarray(as_there(model)(x))], [expected], 1e-5)
    assert_close(model.get_layer("head").get_weights(), head, 0)
    layers = interop.keras.read(tmp_path / "port.h5")
    assert_close([*layers["both"].weights.values()], written["both"], 0)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="ends in .h5, not in .weights.h5"):
        interop.keras.write_weights(tmp_path / "port.weights.h5", {})
    with pytest.raises(TypeError, match="a dict of a list of arrays"):
        interop.keras.write_weights(tmp_path / "port.h5", [np.ones(3)])
