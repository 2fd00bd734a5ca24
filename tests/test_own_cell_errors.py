"""Errors of user-defined cells, and of direct calls of a cell with invalid arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from flax import nnx
from messages import says

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx

B, T, D = 2, 3, 4
X = jnp.ones((B, T, D), jnp.float32)
KEY = jax.random.key(0)


class Fine(rnn.Cell):
    """A correct cell: it returns its inputs; its state is their sum."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*toys.batch_of(batch_shape), D), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        return inputs, state + inputs


def mine(**methods):
    """A cell of a class `Mine` that overrides methods of `Fine`."""
    return toys.config(type("Mine", (Fine,), methods))()


def step(returns):
    """Methods of a cell whose step returns `returns(x, state)`."""
    return {"__call__": lambda self, params, x, state, *, key=None: returns(x, state)}


def numpy_state(batch_shape, dtype):
    return np.zeros((*toys.batch_of(batch_shape), D), dtype)


PAIR = r"^Mine\(\): a step must return \(output, new_state\)"
GIVEN = r"^Mine\(\): a step must return the state it was given"
SWAPPED = r"return \(output, new_state\), not Flax's \(new_state, output\)"
SIGNATURE = r"^Mine\.{0}: expected {0}\({1}, got {0}\("

# row: (methods of the cell, fragments that the message must contain)
STEPS = {
    "only the state": (step(lambda x, s: s), [PAIR, "the new state alone"]),
    "nothing": (step(lambda x, s: None), [PAIR, "None: does it end without a return?"]),
    "a triple": (step(lambda x, s: (x, s, s)), [PAIR, "tuple of 3"]),
    "a number as output": (
        step(lambda x, s: (0.0, s)),
        [f"{PAIR} of arrays", "float 0.0 in output; jnp.full"],
    ),
    "a number inside": (step(lambda x, s: ({"a": 1}, s)), [r"int 1 in output\['a'\]"]),
    "a number as state": (step(lambda x, s: (x, 0.0)), ["float 0.0 in state"]),
    "no state": (step(lambda x, s: (x, None)), [GIVEN, "got None$"]),
    "another structure": (step(lambda x, s: (x, (s, s))), [GIVEN, "got tuple of 2"]),
    "the order of Flax": (step(lambda x, s: (s, jnp.ones((2, 7)))), [GIVEN, SWAPPED]),
    "the order of Flax, nested": (step(lambda x, s: (s, (x, x))), [GIVEN, SWAPPED]),
    "a generator": (
        {"__call__": lambda self, params, x, state, *, key=None: (yield x)},
        [PAIR, "a generator: it has a yield in it"],
    ),
    "NumPy's functions": (
        step(lambda x, s: (np.tanh(x), s)),
        [r"^Mine\.__call__: expected functions and arrays of JAX", r"jnp\.asarray\(table\)"],
    ),
    "a call without key": (
        {"__call__": lambda self, params, x, state: (x, state)},
        [
            SIGNATURE.format("__call__", r"params, inputs, state, \*, key=None\)"),
            r"got __call__\(params, x, state\)$",
        ],
    ),
    "a step without key": (
        {"__call__": rnn.Cell.__call__, "step": lambda self, params, x, state: (x, state)},
        [
            SIGNATURE.format("step", r"params, projected, state, \*, key=None\)"),
            r"got step\(params, x, state\)$",
        ],
    ),
    "project without params": (
        {
            "__call__": rnn.Cell.__call__,
            "project": lambda self, x: x,
            "step": lambda self, params, x, state, *, key=None: (x, state),
        },
        [SIGNATURE.format("project", r"params, inputs\)")],
    ),
    "prepare without key": (
        {"prepare": lambda self, params: params},
        [SIGNATURE.format("prepare", r"params, \*, key=None, batch_shape\)")],
    ),
    "start without a batch": (
        {"start": lambda self, params: numpy_state(B, np.float32)},
        [SIGNATURE.format("start", r"params, batch_shape, dtype\)")],
    ),
    "a state without dtype": (
        {"zero_state": lambda self, batch_shape=(): numpy_state(batch_shape, np.float32)},
        [SIGNATURE.format("zero_state", r"batch_shape=\(\), dtype=jnp.float32\)")],
    ),
    "a state without a batch": (
        {"zero_state": lambda self: numpy_state(B, np.float32)},
        [SIGNATURE.format("zero_state", r"batch_shape=\(\), dtype=jnp.float32\)")],
    ),
    "init of a key alone": (
        {"init": lambda self, key: {}},
        [SIGNATURE.format("init", r"key, input_shape, dtype=jnp.float32\)")],
    ),
}


def by_raw_rnn(cell):
    def loop_fn(time, output, state, loop_state):
        state = jnp.zeros((B, D), jnp.float32) if output is None else state
        return jnp.full(B, time >= T), X[:, 0], state, output, None

    return rnn.raw_rnn(cell, {}, loop_fn, maximum_iterations=2)


def stacked(cell):
    params = {"cell_0": {}, "cell_1": {}}
    return rnn.dynamic_rnn(rnn.MultiRNNCell([cell, mine()]), params, X)


def of_layer(cell):
    return rnnx.RNN(cell, in_features=D, rngs=nnx.Rngs(0))


WAYS = {
    "dynamic_rnn": lambda cell: rnn.dynamic_rnn(cell, {}, X, [3, 2]),
    "scan": lambda cell: rnn.dynamic_rnn(cell, {}, X, implementation="scan"),
    "raw_rnn": by_raw_rnn,
    "static_rnn": lambda cell: rnn.static_rnn(cell, {}, [X[:, 0]]),
    "MultiRNNCell": stacked,
    "EmitState": lambda cell: rnn.dynamic_rnn(rnn.EmitState(cell), {}, X),
    "ResidualWrapper": lambda cell: rnn.dynamic_rnn(rnn.ResidualWrapper(cell), {}, X),
    "ZoneoutWrapper": lambda cell: rnn.dynamic_rnn(
        rnn.ZoneoutWrapper(cell, state_keep_prob=0.5), {}, X
    ),
    "linen": lambda cell: rnnl.RNN(cell).init(KEY, X),
    "nnx": lambda cell: of_layer(cell)(X),
    "step of a layer": lambda cell: of_layer(cell).step(X[:, 0], jnp.zeros((B, D), jnp.float32)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", STEPS)
def test_a_broken_cell(row, way):
    """A broken method raises the same error, whichever function, wrapper or layer runs it."""
    methods, fragments = STEPS[row]
    with says(TypeError, *fragments):
        WAYS[way](mine(**methods))


@pytest.mark.parametrize("row", ["only the state", "a number as output", "a call without key"])
def test_a_broken_cell_inside_of_a_wrapper_called_directly(row):
    """A direct call of a wrapper checks the step of the inner cell."""
    methods, fragments = STEPS[row]
    with says(TypeError, *fragments):
        rnn.EmitState(mine(**methods))({}, X[:, 0], jnp.zeros((B, D), jnp.float32))


def test_a_broken_foreign_cell():
    """The error names the class of an object with the three methods but no base class."""

    class Foreign:
        init, zero_state = Fine.init, Fine.zero_state

        def __call__(self, params, inputs, state):
            return inputs, state

    with says(TypeError, r"^Foreign\.__call__: expected __call__\(params, inputs, state, \*, key"):
        rnn.dynamic_rnn(Foreign(), {}, X)


def test_a_step_may_return_a_list_as_its_pair():
    """`[output, state]` is accepted like a tuple."""
    outputs, state = rnn.dynamic_rnn(mine(**step(lambda x, s: [x, s + x])), {}, X)
    np.testing.assert_array_equal(outputs, X)
    np.testing.assert_array_equal(state, X.sum(1))


def test_errors_of_a_step_are_noted_with_its_arguments():
    """A note says how the step was called: its arguments may be in another order."""
    methods = {"__call__": lambda self, params, state, x, *, key=None: (state["a"], x)}
    with pytest.raises(TypeError) as caught:
        rnn.dynamic_rnn(mine(**methods), {}, X)
    assert caught.value.__notes__[0].startswith("Mine was called as __call__(params, inputs, state")


@toys.config
class Staged(rnn.MatmulCell):
    """A `MatmulCell` whose `pointwise` returns an invalid value, chosen by `returns`."""

    returns: str = ""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {"w": jnp.ones((input_shape[-1], D), dtype), "r": jnp.ones((D, D), dtype)}

    zero_state = Fine.zero_state

    def project(self, params, inputs):
        return inputs @ params["w"]

    def hidden(self, state):
        return state

    def recurrent_kernel(self, params):
        return params["r"]

    def pointwise(self, params, projected, recurred, state):
        new = jnp.tanh(projected + recurred)
        return {"state": new, "triple": (new, new, new), "number": (1.0, new)}[self.returns]


@toys.config
class Yielding(Staged):
    """A `StagedCell` whose `stages` yields an invalid value, or returns a tuple."""

    def stages(self, params, projected, state):
        if self.returns == "tuple":
            return projected, state
        return self._stages(state)

    def _stages(self, state):
        yield state
        return state, state


@pytest.mark.parametrize("engine", [None, "scan", "blocked"])
@pytest.mark.parametrize(
    ("cell", "fragment"),
    [
        (Staged("state"), r"\(output, new_state\), got the new state alone, \[2, 4\]"),
        (Staged("triple"), "got tuple of 3"),
        (Staged("number"), "got float 1.0 in output"),
        (Yielding("yield"), r"each yield to be a tuple \(x, kernel\), got"),
        (Yielding("tuple"), "stages: expected a generator, .* got tuple"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_broken_staged_cell(cell, fragment, engine):
    """Invalid `stages` and `pointwise` raise the same error with every engine."""
    params = cell.init(KEY, X.shape)
    with says(TypeError, fragment):
        rnn.dynamic_rnn(cell, params, X, implementation=engine)


LSTM, GRU = rnn.LSTMCell(D), rnn.GRUCell(D)
STACK = rnn.MultiRNNCell([LSTM, GRU])
FEATURES = jnp.ones((B, 3), jnp.float32)


@functools.cache
def params_of(cell):
    return cell.init(KEY, FEATURES.shape)


ORDER = r"the order of arguments is cell\(params, inputs, state\)$"
DIRECT_CALLS = {
    "Flax's order": (
        lambda cell, p, x, s: cell(p, s, x),
        ValueError,
        ["^state.*: expected", ORDER],
    ),
    "params last": (lambda cell, p, x, s: cell(x, s, p), TypeError, ["^params: ", ORDER]),
    "params in the middle": (lambda cell, p, x, s: cell(x, p, s), TypeError, ["^params: ", ORDER]),
    "TF1's order": (
        lambda cell, p, x, s: cell(x, s),
        TypeError,
        [r"missing state", r"params .* come before inputs; got an array of shape \(2, 3\)"],
    ),
    "a key by place": (
        lambda cell, p, x, s: cell(p, x, s, KEY),
        TypeError,
        [r"at most 3 without a name .*\(params, inputs, state\), got 4; .* by name: key"],
    ),
    "a whole sequence": (
        lambda cell, p, x, s: cell(p, jnp.ones((B, T, 3), jnp.float32), s),
        ValueError,
        ["^state", r"leading axes \(2, 3\)", "dynamic_rnn runs them all"],
    ),
    "no state": (lambda cell, p, x, s: cell(p, x, None), ValueError, ["^state: ", "got None"]),
    "a list": (
        lambda cell, p, x, s: cell(p, x, [s, s, s]),
        ValueError,
        ["^state: ", "got list of 3"],
    ),
    "another batch": (
        lambda cell, p, x, s: cell(p, x, cell.zero_state(1)),
        ValueError,
        ["^state.*: ", "not broadcast"],
    ),
    "params of a layer": (
        lambda cell, p, x, s: cell({"params": p}, x, s),
        KeyError,
        ["^params: expected those of", "missing: ", "unexpected: params/", ORDER],
    ),
    "other features": (
        lambda cell, p, x, s: cell(p, x[:, :2], s),
        ValueError,
        [r'^params\[.*"\]: expected shape', "the inputs have 2 features, .* made for 3"],
    ),
}


@pytest.mark.parametrize("cell", [LSTM, GRU, STACK], ids=lambda cell: type(cell).__name__)
@pytest.mark.parametrize("row", DIRECT_CALLS)
def test_a_cell_called_directly(row, cell):
    """Invalid arguments of `cell(params, inputs, state)` are refused with advice."""
    call, error, fragments = DIRECT_CALLS[row]
    with says(error, *fragments):
        call(cell, params_of(cell), FEATURES, cell.zero_state(B))


@pytest.mark.parametrize("leading", [(), (B,), (B, T)])
def test_a_plain_tuple_is_the_state_of_an_lstm(leading):
    """A direct call accepts a plain tuple as state, for one row, a batch, or two batch axes."""
    x, state = jnp.ones((*leading, 3), jnp.float32), LSTM.zero_state(leading)
    output, new = LSTM(params_of(LSTM), x, tuple(state))
    assert isinstance(new, rnn.LSTMStateTuple)
    np.testing.assert_array_equal(output, LSTM(params_of(LSTM), x, state)[0])


def test_a_cell_called_directly_under_vmap():
    """Under `jit` and `vmap` the checks use the shapes of one row, without a batch axis."""
    state = LSTM.zero_state(B)
    expected = LSTM(params_of(LSTM), FEATURES, state)[0]
    mapped = jax.jit(jax.vmap(LSTM, (None, 0, 0)))
    np.testing.assert_allclose(mapped(params_of(LSTM), FEATURES, state)[0], expected, rtol=1e-6)
    with says(ValueError, r"^state\.c: expected shape \(4,\)"):
        jax.vmap(LSTM, (None, 0, None))(params_of(LSTM), FEATURES, state)
