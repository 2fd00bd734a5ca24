"""Weights of Keras's layers (in JAX, float32): its layers and our runs compute the same."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from weights_agree import (
    D,
    H,
    as_there,
    assert_agrees,
    assert_close,
    differentiated,
    random_inputs,
    randomized,
)

import jax_dynrnn as rnn
from jax_dynrnn import interop

LSTM = rnn.LSTMCell(H, forget_bias=0.0)
GRU = rnn.CudnnCompatibleGRUCell(H)
TF1_GRU = rnn.GRUCell(H)
RNN = rnn.BasicRNNCell(H)
RELU = rnn.BasicRNNCell(H, activation=jax.nn.relu)
# Keras 3's function of this name; that of Keras 1 and 2 is `interop.keras.hard_sigmoid`.
HARD = {"recurrent_activation": "hard_sigmoid"}
HARD_HERE = {"recurrent_activation": jax.nn.hard_sigmoid}

CASES = {
    "lstm": ([("LSTM", {})], LSTM),
    "gru": ([("GRU", {})], GRU),
    "tf1 gru": ([("GRU", {"reset_after": False})], TF1_GRU),
    "rnn": ([("SimpleRNN", {})], RNN),
    "relu": ([("SimpleRNN", {"activation": "relu"})], RELU),
    "both": ([("both SimpleRNN", {})], (RNN, RNN)),
    "hard lstm": ([("LSTM", HARD)], dataclasses.replace(LSTM, **HARD_HERE)),
    "hard gru": ([("GRU", HARD)], dataclasses.replace(GRU, **HARD_HERE)),
    "hard tf1 gru": (
        [("GRU", HARD | {"reset_after": False})],
        dataclasses.replace(TF1_GRU, **HARD_HERE),
    ),
    "stack": ([("SimpleRNN", {})] * 2, rnn.MultiRNNCell([RNN, RNN])),
    "stack both": ([("both LSTM", {}), ("both GRU", {})], ([LSTM, GRU], [LSTM, GRU])),
}
# A warning of Keras's own code, which converts variables to arrays.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")


@pytest.fixture(scope="module")
def keras(load_oracle):
    return load_oracle("keras")


def built(keras, kind, options, features):
    options = {"return_sequences": True, "return_state": True} | options
    layer = getattr(keras.layers, kind.removeprefix("both "))(H, **options)
    if kind.startswith("both "):
        layer = keras.layers.Bidirectional(layer)
    layer.build((None, None, features))
    return layer


def run_there(layers, stack):
    """A function `(weights, x) -> (outputs, states)` of one layer or of a stack."""

    def run(weights, x):
        states = []
        for layer, w in zip(layers, weights if stack else [weights], strict=True):
            seeds = [v.value for v in layer.non_trainable_variables]
            (x, *new), _ = layer.stateless_call(w, seeds, x)
            if "lstm" in getattr(layer, "forward_layer", layer).name:  # its states are (h, c)
                new = [s for h, c in zip(new[::2], new[1::2], strict=True) for s in (c, h)]
            states += new
        return x, states

    return run


def made(keras, name):
    kinds, cells = CASES[name]
    features = [D, 2 * H if isinstance(cells, tuple) else H]
    layers = [as_there(built)(keras, *kind, n) for kind, n in zip(kinds, features, strict=False)]
    weights = randomized([[v.numpy() for v in layer.weights] for layer in layers])
    return layers, weights if len(layers) > 1 else weights[0], cells


@pytest.mark.parametrize("name", CASES)
def test_layers(keras, name):
    """Keras's layers and our cells agree, in results and gradients."""
    layers, weights, cells = made(keras, name)
    options = {"activation": jax.nn.relu} if name == "relu" else {}
    options |= HARD_HERE if name.startswith("hard") else {}
    assert_agrees(
        as_there(differentiated(run_there(layers, len(layers) > 1))),
        weights,
        functools.partial(interop.keras.import_params, **options),
        functools.partial(interop.keras.export_params, **options),
        cells,
        bound=1e-5,
    )


def test_weights_by_the_paths_of_variables(keras):
    """A dict by variable paths is imported, whatever its order."""
    (layer,), weights, cells = made(keras, "both")
    paths = [v.path for v in layer.weights]
    assert paths[0].startswith("bidirectional") and "/forward_simple_rnn" in paths[0]
    named = dict(sorted(zip(paths, weights, strict=True)))
    assert_close(
        interop.keras.import_params(cells, named), interop.keras.import_params(cells, weights), 0
    )
    stacked = tuple([cell] for cell in cells)
    params = interop.keras.import_params(stacked, [named])["cell_0"]
    assert_close(params, interop.keras.import_params(cells, weights), 0)


def test_weights_by_path_with_a_given_backward_layer(keras):
    """A backward layer that the user passed keeps its own name in the paths."""
    backward = keras.layers.GRU(H, go_backwards=True)
    layer = keras.layers.Bidirectional(keras.layers.LSTM(H), backward_layer=backward)
    as_there(layer.build)((None, None, D))
    weights = randomized([v.numpy() for v in layer.weights])
    named = {v.path: x for v, x in zip(layer.weights, weights, strict=True)}
    params = interop.keras.import_params((LSTM, GRU), dict(reversed(named.items())))
    assert_close(params, interop.keras.import_params((LSTM, GRU), weights), 0)


def test_variables_and_flat_lists_of_weights(keras):
    """Keras variables, and all arrays of a stack in one list, are imported."""
    layers, weights, cells = made(keras, "stack")
    flat = sum(weights, [])
    expected = interop.keras.import_params(cells, weights)
    assert_close(interop.keras.import_params(cells, flat), expected, 0)
    for layer, w in zip(layers, weights, strict=True):
        layer.set_weights(w)
    variables = [layer.weights for layer in layers]
    assert_close(interop.keras.import_params(cells, variables), expected, 0)


def test_a_stack_inside_of_bidirectional(keras):
    """`Bidirectional(RNN([a, b]))` is a pair of stacks, each for one direction."""
    inner = keras.layers.RNN(
        [keras.layers.LSTMCell(H), keras.layers.SimpleRNNCell(H)], return_sequences=True
    )
    layer = keras.layers.Bidirectional(inner)
    as_there(layer.build)((None, None, D))
    weights = randomized([v.numpy() for v in layer.weights])
    layer.set_weights(weights)
    cells = (rnn.MultiRNNCell([LSTM, RNN]),) * 2
    x = random_inputs(np.float32)
    params = interop.keras.import_params(cells, weights)
    outputs, _ = rnn.bidirectional_dynamic_rnn(*cells, params, x)
    assert_close(rnn.concatenate(*outputs), as_there(layer)(x), 1e-5)
    assert_close(interop.keras.export_params(cells, params), weights, 0)


def test_no_bias(keras):
    """A layer without biases is imported with zero biases, and exported without."""
    layer = as_there(built)(keras, "LSTM", {"use_bias": False}, D)
    weights = layer.get_weights()
    params = interop.keras.import_params(LSTM, weights)
    assert_close(interop.keras.export_params(LSTM, params, use_bias=False), weights, 0)
    assert len(weights) == 2 and not params["bias"].any()
    expected = as_there(layer)(random_inputs(np.float32))[0]
    assert_close(rnn.dynamic_rnn(LSTM, params, random_inputs(np.float32))[0], expected, 1e-5)
