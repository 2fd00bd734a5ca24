"""The configuration that comes with weights is checked against the cells."""

import importlib

import jax
import numpy as np
import pytest
from weights_agree import as_there, assert_close

import jax_dynrnn as rnn
from jax_dynrnn import interop

D, H = 3, 2
HARD = interop.keras.hard_sigmoid
LSTM = rnn.LSTMCell(H, forget_bias=0.0)
CONV = {"input_shape": (4, D), "output_channels": H, "kernel_shape": (3,), "forget_bias": 0.0}
SAME = {
    "the default of the cell": ("LSTM", {}, rnn.LSTMCell(H)),
    "tanh, by another name": ("GRU", {}, rnn.CudnnCompatibleGRUCell(H, activation=jax.lax.tanh)),
    "reset before": ("GRU", {"reset_after": False}, rnn.GRUCell(H)),
    "relu": ("SimpleRNN", {"activation": "relu"}, rnn.BasicRNNCell(H, activation=jax.nn.relu)),
    "both": ("Bidirectional(LSTM)", {}, (LSTM, LSTM)),
    "wrapped": ("LSTM", {"use_bias": False}, rnn.DropoutWrapper(LSTM, 0.5)),
    "images": ("ConvLSTM1D", {"padding": "same"}, rnn.Conv1DLSTMCell(**CONV)),
}
OTHER = {
    "relu": ("LSTM", {"activation": "relu"}, LSTM, "activation .*relu, not .*tanh"),
    "gates": (
        "LSTM",
        {"recurrent_activation": "hard_sigmoid"},
        LSTM,
        "recurrent_activation .*hard_sigmoid, not .*sigmoid",
    ),
    "gates of Keras 1": (
        "LSTM",
        {},
        rnn.LSTMCell(H, recurrent_activation=HARD),
        "sigmoid, not .*interop.keras.hard_sigmoid",
    ),
    "units": ("GRU", {}, rnn.CudnnCompatibleGRUCell(5), "units 2, not 5"),
    "reset before": (
        "GRU",
        {"reset_after": False, "use_bias": False},
        rnn.CudnnCompatibleGRUCell(H),
        "reset_after False, not True",
    ),
    "reset after": ("GRU", {"use_bias": False}, rnn.GRUCell(H), "reset_after True, not False"),
    "class": ("SimpleRNN", {}, LSTM, "class rnn, not lstm"),
    "one direction": ("LSTM", {}, (LSTM, LSTM), "1 cells, not 2"),
    "two directions": ("Bidirectional(LSTM)", {}, LSTM, "2 cells, not 1"),
    "no bias": (
        "ConvLSTM1D",
        {"padding": "same"},
        rnn.Conv1DLSTMCell(**CONV, use_bias=False),
        "use_bias True, not False",
    ),
    "padding": ("ConvLSTM1D", {}, rnn.Conv1DLSTMCell(**CONV), "its padding is 'valid'"),
    "strides": (
        "ConvLSTM1D",
        {"padding": "same", "strides": 2},
        rnn.Conv1DLSTMCell(**CONV),
        "its strides is",
    ),
    "images with relu": (
        "ConvLSTM1D",
        {"padding": "same", "activation": "relu"},
        rnn.Conv1DLSTMCell(**CONV),
        "its activation is 'relu', and the cell's is tanh",
    ),
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def built(framework, kind, options):
    """A layer of Keras with weights."""
    keras = importlib.import_module(framework)
    name = kind.removeprefix("Bidirectional(").rstrip(")")
    kernel = {"kernel_size": 3} if name.startswith("Conv") else {}
    if name.startswith("Conv"):
        # Those of `tf_keras` have another default.
        options = {"recurrent_activation": "sigmoid"} | options
    layer = getattr(keras.layers, name)(H, **kernel, **options)
    layer = keras.layers.Bidirectional(layer) if "(" in kind else layer
    layer.build((None, 5, 4, D) if kernel else (None, 5, D))
    return layer


def read(layer, folder):
    """The same layer in a file, as `read` returns it."""
    keras = importlib.import_module(type(layer).__module__.partition(".")[0])
    shape = (5, 4, D) if "conv" in layer.name else (5, D)
    model = keras.Sequential([keras.layers.Input(shape), layer])
    model.save(folder / "model.keras")
    return interop.keras.read(folder / "model.keras")[layer.name]


@pytest.mark.parametrize("name", SAME)
def test_what_agrees(name, tmp_path, load_oracle):
    """A layer is imported as its arrays are, also with functions that the call does not name."""
    load_oracle("keras")
    kind, options, cells = SAME[name]
    layer = as_there(built)("keras", kind, options)
    functions = {"activation": jax.nn.relu} if name == "relu" else {}
    expected = interop.keras.import_params(cells, layer.get_weights(), **functions)
    assert_close(interop.keras.import_params(cells, layer), expected, 0)
    assert_close(interop.keras.import_params(cells, as_there(read)(layer, tmp_path)), expected, 0)


@pytest.mark.parametrize("framework", ["keras", "tf_keras"])
@pytest.mark.parametrize("name", OTHER)
def test_what_disagrees(name, framework, load_oracle):
    """A layer with another configuration than the cell is refused, with both."""
    load_oracle(framework)
    kind, options, cells, message = OTHER[name]
    layer = as_there(built)(framework, kind, options)
    with pytest.raises(ValueError, match=message):
        interop.keras.import_params(cells, layer)


def test_layers_that_were_read(tmp_path, load_oracle):
    """What `read` returns is checked too, and so is each layer of a stack."""
    load_oracle("keras")
    layer = as_there(read)(as_there(built)("keras", "LSTM", {"activation": "relu"}), tmp_path)
    with pytest.raises(ValueError, match="activation .*relu, not .*tanh"):
        interop.keras.import_params(LSTM, layer)
    relu = rnn.LSTMCell(H, forget_bias=0.0, activation=jax.nn.relu)
    upper = layer._replace(
        weights={n: x[-H:] if x.ndim > 1 else x for n, x in layer.weights.items()}
    )
    params = interop.keras.import_params(rnn.MultiRNNCell([relu, relu]), [layer, upper])
    assert_close(params["cell_0"], layer.params, 0)
    with pytest.raises(ValueError, match="activation .*relu, not .*tanh"):
        interop.keras.import_params(rnn.MultiRNNCell([relu, LSTM]), [layer, upper])
    with pytest.raises(ValueError, match="has no cells here: mine"):
        interop.keras.import_params(LSTM, layer._replace(cells=None, problem="mine"))
    arrays = interop.keras.import_params(LSTM, layer._replace(class_name=""))
    assert np.shape(arrays["kernel"]) == (D + H, 4 * H)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell"])
def test_modules_of_torch(name, load_oracle):
    """A module of PyTorch has a configuration, which a `state_dict` lacks: it is refused."""
    torch = load_oracle("torch")
    with pytest.raises(TypeError, match=r"the state_dict\(\) of a module, got " + name):
        interop.torch.import_params(LSTM, getattr(torch.nn, name)(D, H))
