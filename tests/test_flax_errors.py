"""Invalid arguments of Flax layers: the errors of `dynamic_rnn` are raised, not Flax's own."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from messages import says
from test_bad_inputs import ERRORS, LSTM, PARAMS, B, D, T, X, zeros

import jax_dynrnn as rnn
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
        if (call, row) != (linen_init, "10 features")  # `init` accepts any number of features
    ],
)
def test_error(call, row):
    """Each invalid argument of `test_bad_inputs` raises the same error through a layer."""
    arguments, error, fragments = ERRORS[row]
    given = {"inputs": X, "lengths": None, "state": None, "cell": LSTM, **arguments}
    cell, *positional = (given.pop(name) for name in ("cell", "inputs", "lengths", "state"))
    with says(error, *fragments):
        call(cell, *positional, **given)


@pytest.mark.parametrize("call", [linen, nnx_call])
def test_time_major(call):
    """The checks of a layer take `time_major` into account."""
    inputs = X.swapaxes(0, 1)
    assert call(LSTM, inputs, [1, 2, 3], time_major=True)[0].shape == (T, B, 4)
    with says(ValueError, r"rank 3, \[time, batch, features\].*x\[:, None\]"):
        call(LSTM, zeros(T, D), time_major=True)


@pytest.mark.parametrize("method", ["__call__", "step"])
def test_another_number_of_features(method):
    """A wrong number of features is refused in a call and in a step, deterministic or not."""
    inputs = zeros(B, T, D + 3) if method == "__call__" else zeros(B, D + 3)
    state = () if method == "__call__" else (layer(LSTM).start(B),)
    variables = {"params": {"cell": PARAMS[LSTM]}}
    for options in ({}, {"deterministic": True}):
        with says(ValueError, "made for"):
            rnnl.RNN(LSTM).apply(variables, inputs, *state, method=method, **options)
        with says(ValueError, "made for"):
            getattr(layer(LSTM), method)(inputs, *state, **options)


def test_the_state_of_a_step():
    """`step` accepts a plain tuple as state, and refuses other shapes, as a run does."""
    one, state = layer(LSTM), layer(LSTM).start(B)
    output, _ = one.step(X[:, 0], tuple(state))
    np.testing.assert_array_equal(output, one.step(X[:, 0], state)[0])
    for wrong, message in ((None, "got None"), (layer(LSTM).start(1), "states are not broadcast")):
        with says(ValueError, rf"state.*: expected .*LSTM.*{message}"):
            one.step(X[:, 0], wrong)


def test_invalid_cells_of_layers():
    """A cell instead of a list, empty lists, and a cell of Flax are refused."""
    with says(TypeError, "cells_fw: expected a list of cells, got LSTMCell"):
        rnnl.StackedBidirectional(LSTM).init(jax.random.key(0), X)
    with says(TypeError, "cells_fw: expected a list of cells, got LSTMCell"):
        rnnx.StackedBidirectional(LSTM, in_features=D, rngs=nnx.Rngs(0))
    with says(ValueError, "at least one cell each, got 0 and 0"):
        rnnl.StackedBidirectional([]).init(jax.random.key(0), X)
    with says(TypeError, "jax_dynrnn.interop.foreign adapts cells of flax"):
        rnnl.RNN(nn.LSTMCell(4)).init(jax.random.key(0), X)


GRU = rnn.GRUCell(4)
NOISY = rnn.DropoutWrapper(GRU, 0.5)
OTHER = GRU.init(jax.random.key(0), (B, T, D + 1))
RNGS = nnx.Rngs(0)


def with_params(layer, change):
    """Yields `(path of the params, call)` of a Linen and an NNX layer with changed params."""
    kind, *cells = layer
    linen_layer = getattr(rnnl, kind)(*cells)
    params = change(linen_layer.init(jax.random.key(0), X)["params"]["cell"])
    nnx_layer = getattr(rnnx, kind)(*cells, in_features=D, rngs=RNGS)
    nnx_layer.params = nnx.data(jax.tree.map(nnx.Param, params))
    yield (
        r'variables\["params"\]\["cell"\]',
        lambda **options: linen_layer.apply({"params": {"cell": params}}, X, **options),
    )
    yield "params", lambda **options: nnx_layer(X, **options)


WRONG = {
    "RNN": (("RNN", GRU), lambda params: OTHER, r'\["candidate"\]\["kernel"\]: .*made for 3$'),
    "names": (("RNN", GRU), lambda params: PARAMS[LSTM], ": .*unexpected: bias, kernel$"),
    "Bidirectional": (
        ("Bidirectional", GRU),
        lambda params: params | {"bw": OTHER},
        r'\["bw"\]\["candidate"\]\["kernel"\]: .*made for 3$',
    ),
    "no direction": (
        ("Bidirectional", GRU),
        lambda params: {"fw": params["fw"]},
        ": expected a dict of fw, bw; missing: bw; unexpected: none$",
    ),
    "StackedBidirectional": (
        ("StackedBidirectional", [GRU, GRU]),
        lambda params: params | {"cell_1": params["cell_0"]},
        r'\["cell_1"\]\["fw"\]\["candidate"\]\["kernel"\]: .*made for 2$',
    ),
}


@pytest.mark.parametrize("options", [{}, {"deterministic": True}], ids=str)
@pytest.mark.parametrize("row", WRONG)
def test_where_params_of_a_layer_are_wrong(row, options):
    """The error names the param's path in the layer, not the functions that the layer calls."""
    layer, change, where = WRONG[row]
    for params, call in with_params(layer, change):
        with says((KeyError, ValueError), f"^{params}{where}"):
            call(**options)


@pytest.mark.parametrize(
    ("kind", "cells"),
    [("RNN", NOISY), ("Bidirectional", NOISY), ("StackedBidirectional", [GRU, NOISY])],
)
def test_missing_random_stream(kind, cells):
    """Without a stream, the error names the cells that draw and the options that help."""
    fragments = [
        r"^(GRUCell.* and )?DropoutWrapper\(.*\): draws",
        "'dropout'",
        "deterministic=True",
    ]
    layer = getattr(rnnl, kind)(cells)
    variables = layer.init(jax.random.key(0), X)
    with says(ValueError, *fragments):
        layer.apply(variables, X)
    layer = getattr(rnnx, kind)(cells, in_features=D, rngs=nnx.Rngs(params=0))
    with says(ValueError, *fragments):
        layer(X)


@pytest.mark.parametrize("call", [linen, nnx_call])
def test_a_traced_option(call):
    """Traced options of a layer are refused."""
    with says(ValueError, "^unroll: expected an int >= 1, got a traced .*static_argnames"):
        jax.jit(lambda n: call(LSTM, X, unroll=n))(2)
    with says(TypeError, "^time_major: expected True or False, got a traced .*static_argnames"):
        jax.jit(lambda flag: call(LSTM, X, time_major=flag))(True)


def test_invalid_dtypes_of_start_and_step():
    """`start` and `step` check their `dtype=`."""
    for call in (
        layer(LSTM).start,
        lambda n, dtype: layer(LSTM).step(X[:, 0], layer(LSTM).start(B), dtype=dtype),
    ):
        with says(TypeError, "^dtype: expected a real floating dtype, got 'bf16'; did you mean"):
            call(B, dtype="bf16")


def test_missing_params_of_a_layer():
    """The error says that the layer's params are missing, and which variables there are."""
    for variables, there in (({}, "nothing"), ({"params": PARAMS[LSTM]}, "bias, kernel")):
        with says(KeyError, rf"expected the params that RNN.init made, got none; .* has {there}$"):
            rnnl.RNN(LSTM).apply(variables, X)


def test_invalid_merge_fn_and_deterministic():
    """`merge_fn` must be callable, and `deterministic` a bool."""
    for make in (
        rnnl.Bidirectional,
        functools.partial(rnnx.Bidirectional, in_features=D, rngs=RNGS),
    ):
        with says(TypeError, "^merge_fn: expected a function of both outputs, .*got 'sum'"):
            made = make(GRU, merge_fn="sum")
            made.init(jax.random.key(0), X)
    for call in (linen, nnx_call):
        with says(TypeError, "^deterministic: expected True or False, got 'no'"):
            call(LSTM, X, deterministic="no")


def test_invalid_arguments_of_a_step():
    """Whole sequences in `step`, and swapped arguments of an `RNNCell`, are refused."""
    one = layer(LSTM)
    with says(ValueError, r"^state\.c: .*leading axes \(3, 5\).*dynamic_rnn runs them all"):
        one.step(X, one.start(B))
    cell = rnnx.RNNCell(LSTM, in_features=D, rngs=RNGS)
    with says(ValueError, r"^state: expected LSTMStateTuple\(.*, got \[3, 2\]$"):
        cell(X[:, 0], one.start(B))
