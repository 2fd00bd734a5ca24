"""Invalid arguments of `raw_rnn`: the error says what was expected and what was received."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from messages import says

import jax_dynrnn as rnn

B, D = 3, 4
GRU = rnn.GRUCell(D)
PARAMS = GRU.init(jax.random.key(0), (B, D), jnp.float64)
X, STATE, FLAGS = jnp.ones((B, D)), jnp.zeros((B, D)), jnp.zeros(B, bool)
FIRST = (FLAGS, X, STATE, None, jnp.zeros(2))
LATER = (FLAGS, X, STATE, STATE, jnp.zeros(2))
FIVE = r"expected it to return \(finished, next_input, next_cell_state, emit_output"

# row: (what the first call of `loop_fn` returns, what later calls return, options, error, fragments
# of the message); a dict replaces items of FIRST or LATER by index
ERRORS = {
    "four": (FIRST[:4], LATER, {}, TypeError, [FIVE, "got tuple of 4"]),
    "later six": (FIRST, (*LATER, 0), {}, TypeError, [FIVE, "got tuple of 6"]),
    "nothing": (None, LATER, {}, TypeError, [FIVE, "got NoneType"]),
    "no input": ({1: ()}, {}, {}, ValueError, ["first next_input of at least one", "got none"]),
    "input of one row": (
        {1: jnp.ones(D)},
        {},
        {},
        ValueError,
        [r"next_input to be \[batch\] and 1 axes", "GRUCell", r"got shape \(4,\)"],
    ),
    "inputs of two batches": (
        {1: {"a": X, "b": X[1:]}},
        {},
        {},
        ValueError,
        [r"next_input\['b'\] to be \[batch\]", r"got shape \(2, 4\)"],
    ),
    "flag": (
        {0: jnp.asarray(False)},
        {},
        {},
        ValueError,
        [r"finished to be bool of shape \(3,\), one flag a row", r"got bool of shape \(\)"],
    ),
    "later integer flags": (
        {},
        {0: jnp.zeros(B, jnp.int32)},
        {},
        ValueError,
        [r"bool of shape \(3,\)", r"got int32 of shape \(3,\)"],
    ),
    "no state": ({2: None}, {}, {}, ValueError, [r"expected \[3, 4\] for GRUCell", "got None"]),
    "state of another size": (
        {2: STATE[:, 1:]},
        {},
        {},
        ValueError,
        [r"expected shape \(3, 4\) for GRUCell", r"got \(3, 3\)"],
    ),
    "later state of another dtype": (
        {},
        {2: STATE.astype(jnp.float32)},
        {},
        TypeError,
        [r"next_cell_state of float64\[3, 4\], as in the first", r"got float32\[3, 4\]"],
    ),
    "later state of another structure": (
        {},
        {2: (STATE,)},
        {},
        TypeError,
        [r"next_cell_state as in the first call, \[3, 4\], got tuple of 1 \(\[3, 4\]\)"],
    ),
    "later input of another shape": (
        {},
        {1: X[:, 1:]},
        {},
        TypeError,
        [r"next_input of float64\[3, 4\]", r"got float64\[3, 3\]"],
    ),
    "later emission of another shape": (
        {3: jnp.zeros(2)},
        {},
        {},
        TypeError,
        [r"emit_output of float64\[3, 2\]", r"got float64\[3, 4\]"],
    ),
    "emission with the batch axis": (
        {3: STATE},
        {},
        {},
        TypeError,
        [r"emit_output of float64\[3, 3, 4\]", r"got float64\[3, 4\]"],
    ),
    "later no emission": (
        {},
        {3: None},
        {},
        TypeError,
        [r"emit_output as in the first call, \[3, 4\], got None"],
    ),
    "later loop state": (
        {},
        {4: jnp.zeros(3)},
        {},
        TypeError,
        [r"next_loop_state of float64\[2\]", r"got float64\[3\]"],
    ),
    "loop state from nothing": (
        {4: None},
        {},
        {},
        TypeError,
        [r"next_loop_state as in the first call, None, got \["],
    ),
    "no maximum": (
        {},
        {},
        {"maximum_iterations": None},
        ValueError,
        ["maximum_iterations: expected an int >= 0", "got None"],
    ),
    "negative maximum": (
        {},
        {},
        {"maximum_iterations": -1},
        ValueError,
        ["maximum_iterations: expected an int >= 0", "got -1"],
    ),
    "keys": (
        {},
        {},
        {"key": jax.random.split(jax.random.key(0))},
        ValueError,
        ["expected one key", r"got shape \(2,\)"],
    ),
    "params": ({}, {}, {"params": {}}, KeyError, ["gates/kernel", "missing: .*unexpected: none"]),
    "no cell": ({}, {}, {"cell": 3}, TypeError, ["expected a cell", "got int"]),
}


def changed(returned, changes):
    if not isinstance(changes, dict):
        return changes
    return tuple(changes.get(i, x) for i, x in enumerate(returned))


@pytest.mark.parametrize("row", ERRORS)
def test_error(row):
    """Each invalid return value of `loop_fn`, or option, raises its error."""
    first, later, options, error, fragments = ERRORS[row]

    def loop_fn(time, output, state, loop_state):
        return changed(FIRST, first) if output is None else changed(LATER, later)

    options = {"cell": GRU, "params": PARAMS, "maximum_iterations": 4, **options}
    with says(error, *fragments):
        rnn.raw_rnn(options.pop("cell"), options.pop("params"), loop_fn, **options)


TABLE = np.ones((7, D))


def test_numpy_tables():
    """A tracer cannot index a NumPy array in a callback: the error suggests `jnp.asarray`."""
    fragments = ["expected functions and arrays of JAX", r"jnp\.asarray\(table\)"]

    def loop_fn(time, output, state, loop_state):
        x = TABLE[jnp.full(B, time)]
        return jnp.full(B, time > 1), x, STATE if output is None else state, output, None

    with says(TypeError, "^loop_fn: ", *fragments):
        rnn.raw_rnn(GRU, PARAMS, loop_fn, maximum_iterations=2)
    given = {"start": 0, "end": 0, "initial_state": STATE, "maximum_iterations": 2}

    def logits(output):
        return output

    with says(TypeError, "^embed: ", *fragments):
        rnn.greedy_decode(GRU, PARAMS, lambda ids: TABLE[ids], logits, **given)
    with says(TypeError, "^embed: ", *fragments):
        rnn.beam_search(GRU, PARAMS, lambda ids: TABLE[ids], logits, beam_width=2, **given)
    with says(TypeError, "^logits: ", *fragments):
        rnn.greedy_decode(GRU, PARAMS, lambda ids: X, lambda y: np.log(y), **given)
    with says(
        TypeError, r"^loop_fn: expected a function .*the order .*raw_rnn\(cell, params, loop"
    ):
        rnn.raw_rnn(GRU, PARAMS, X, maximum_iterations=2)
