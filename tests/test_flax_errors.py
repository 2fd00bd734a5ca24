"""Bad data through the layers: the errors of `dynamic_rnn`, before Flax's own."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from test_bad_inputs import ERRORS, LSTM, PARAMS, B, D, T, X, zeros

from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx

ABOUT_DATA = [row for row, (arguments, *_) in ERRORS.items() if "params" not in arguments]


def linen(cell, *arguments, **options):
    return rnnl.RNN(cell).apply({"params": {"cell": PARAMS[cell]}}, *arguments, **options)


def linen_init(cell, *arguments, **options):
    return rnnl.RNN(cell).init(jax.random.key(0), *arguments, **options)


@functools.cache
def layer(cell):
    return rnnx.RNN(cell, in_features=D, rngs=nnx.Rngs(0))


def nnx_call(cell, *arguments, **options):
    return layer(cell)(*arguments, **options)


@pytest.mark.parametrize(
    ("call", "row"),
    [
        (call, row)
        for call in (linen, linen_init, nnx_call)
        for row in ABOUT_DATA
        if (call, row) != (linen_init, "10 features")  # it makes params for any number of them
    ],
)
def test_error(call, row):
    arguments, error, fragments = ERRORS[row]
    given = {"inputs": X, "lengths": None, "state": None, "cell": LSTM, **arguments}
    cell, *positional = (given.pop(name) for name in ("cell", "inputs", "lengths", "state"))
    with pytest.raises(error) as caught:
        call(cell, *positional, **given)
    for fragment in fragments:
        caught.match(fragment)


@pytest.mark.parametrize("call", [linen, nnx_call])
def test_time_major(call):
    """What is checked first knows which axis is which."""
    inputs = X.swapaxes(0, 1)
    assert call(LSTM, inputs, [1, 2, 3], time_major=True)[0].shape == (T, B, 4)
    with pytest.raises(ValueError, match=r"rank 3, \[time, batch, features\].*x\[:, None\]"):
        call(LSTM, zeros(T, D), time_major=True)


@pytest.mark.parametrize("method", ["__call__", "step"])
def test_another_number_of_features(method):
    """In a call and in a step, with and without a search for what draws."""
    inputs = zeros(B, T, D + 3) if method == "__call__" else zeros(B, D + 3)
    state = () if method == "__call__" else (layer(LSTM).start(B),)
    variables = {"params": {"cell": PARAMS[LSTM]}}
    for options in ({}, {"deterministic": True}):
        with pytest.raises(ValueError, match="made for"):
            rnnl.RNN(LSTM).apply(variables, inputs, *state, method=method, **options)
        with pytest.raises(ValueError, match="made for"):
            getattr(layer(LSTM), method)(inputs, *state, **options)


def test_the_state_of_a_step():
    """It is as a run's: a tuple will do, another shape will not."""
    one, state = layer(LSTM), layer(LSTM).start(B)
    output, _ = one.step(X[:, 0], tuple(state))
    np.testing.assert_array_equal(output, one.step(X[:, 0], state)[0])
    for wrong, message in ((None, "got None"), (layer(LSTM).start(1), "states are not broadcast")):
        with pytest.raises(ValueError, match=rf"state.*: expected .*LSTM.*{message}"):
            one.step(X[:, 0], wrong)


def test_layers_of_what_is_no_list():
    with pytest.raises(TypeError, match="cells_fw: expected a list of cells, got LSTMCell"):
        rnnl.StackedBidirectional(LSTM).init(jax.random.key(0), X)
    with pytest.raises(TypeError, match="cells_fw: expected a list of cells, got LSTMCell"):
        rnnx.StackedBidirectional(LSTM, in_features=D, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="at least one cell each, got 0 and 0"):
        rnnl.StackedBidirectional([]).init(jax.random.key(0), X)
    with pytest.raises(TypeError, match="jax_dynrnn.interop.foreign makes cells of those of flax"):
        rnnl.RNN(nn.LSTMCell(4)).init(jax.random.key(0), X)
