"""Runs over lists of steps beyond TF's own test cases: options and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from laws import close

import jax_dynrnn as rnn

T, B, D = 4, 3, 2
STEPS = list(np.random.default_rng(0).normal(size=(T, B, D)))
INPUTS = np.stack(STEPS)
GRU, LSTM = rnn.GRUCell(D), rnn.LSTMCell(3)
PARAMS = {cell: cell.init(jax.random.key(0), (B, D), jnp.float64) for cell in (GRU, LSTM)}
BOTH = {"fw": PARAMS[GRU], "bw": PARAMS[GRU]}
STATE = np.full((B, D), 0.3)


def test_options_are_passed_on():
    """Static runs pass states, dtype and key on, in one direction and in both."""
    cell, key = rnn.DropoutWrapper(GRU, 0.5), jax.random.key(1)
    options = {"dtype": jnp.float32, "key": key}
    given = PARAMS[GRU], tuple(STEPS), STATE.astype(np.float32)
    outputs, state = rnn.static_rnn(cell, *given, sequence_length=(4, 0, 2), **options)
    stacked, expected = rnn.dynamic_rnn(
        cell, given[0], INPUTS, [4, 0, 2], given[2], time_major=True, **options
    )
    close((outputs, state), (list(stacked), expected), 0)
    assert outputs[0].dtype == state.dtype == jnp.float32
    states = given[2], 2 * given[2]
    outputs, *states_of_both = rnn.static_bidirectional_rnn(
        cell, cell, BOTH, STEPS, *states, sequence_length=[4, 0, 2], **options
    )
    (fw, bw), expected = rnn.bidirectional_dynamic_rnn(
        cell, cell, BOTH, INPUTS, [4, 0, 2], *states, time_major=True, **options
    )
    close((outputs, states_of_both), (list(np.concatenate([fw, bw], 2)), list(expected)), 0)
    assert (states_of_both[1][1] == 2 * given[2][1]).all()


def test_a_bidirectional_stack_over_a_list():
    """`stack_bidirectional_rnn` equals `stack_bidirectional_dynamic_rnn`."""
    cells = [GRU, rnn.BasicRNNCell(3)]
    params = rnn.init_stack_bidirectional(jax.random.key(0), cells, cells, (B, D), jnp.float64)
    outputs, *states = rnn.stack_bidirectional_rnn(
        cells, cells, params, STEPS, sequence_length=[4, 0, 2]
    )
    expected, *expected_states = rnn.stack_bidirectional_dynamic_rnn(
        cells, cells, params, INPUTS, [4, 0, 2], time_major=True
    )
    close((outputs, states), (list(expected), expected_states), 0)


def test_static_state_saving_rnn_passes_options_on():
    """Lengths, dtype and key are passed on, and the final state is saved."""
    saver = {"h": STATE.astype(np.float32)}
    cell = rnn.DropoutWrapper(GRU, 0.5)
    options = {"sequence_length": [4, 0, 2], "dtype": jnp.float32, "key": jax.random.key(1)}
    *actual, saved = rnn.static_state_saving_rnn(cell, PARAMS[GRU], STEPS, saver, "h", **options)
    close(tuple(actual), rnn.static_rnn(cell, PARAMS[GRU], STEPS, saver["h"], **options), 0)
    close(saved, {"h": actual[1]}, 0)


def test_saving_the_state_of_a_cell_that_attends():
    """The names match the leaves of the start state, whose shape depends on the memory."""
    cell = rnn.AttentionWrapper(GRU, rnn.LuongAttention(D, memory_size=3))
    params = cell.init(jax.random.key(0), (B, D), jnp.float64)
    params = cell.attend(params, np.random.default_rng(1).normal(size=(B, 5, 3)))
    start = cell.start(params, (B,), jnp.float64)
    names = ("state", "attention", "time", "alignments")
    saver = dict(zip(names, start, strict=True))
    *actual, saved = rnn.static_state_saving_rnn(cell, params, STEPS, saver, names)
    close(tuple(actual), rnn.static_rnn(cell, params, STEPS, start), 0)
    assert saved == dict(zip(names, actual[1], strict=True)) and int(saved["time"]) == T


def saving(names, saver=None, cell=LSTM, inputs=STEPS, params=None):
    zeros = np.zeros((B, 3))
    saver = {"c": zeros, "h": zeros} if saver is None else saver
    params = PARAMS[cell] if params is None else params
    return rnn.static_state_saving_rnn(cell, params, inputs, saver, names)


UNLIKE = [STEPS[0], STEPS[1][:, :1]]
PAIRS = [(STEPS[0], STEPS[0]), STEPS[1]]
LISTED = r"inputs: expected a list of steps, got ndarray; dynamic_rnn takes one array"

# row: (call, error, fragments that its message must contain)
ERRORS = {
    "array": (lambda: rnn.static_rnn(GRU, PARAMS[GRU], INPUTS), TypeError, [LISTED]),
    "array in both directions": (
        lambda: rnn.static_bidirectional_rnn(GRU, GRU, BOTH, INPUTS),
        TypeError,
        [LISTED],
    ),
    "array in a stack": (
        lambda: rnn.stack_bidirectional_rnn([GRU], [GRU], {"cell_0": BOTH}, INPUTS),
        TypeError,
        [LISTED],
    ),
    "array, saving": (lambda: saving(("c", "h"), inputs=INPUTS), TypeError, [LISTED]),
    "no steps": (
        lambda: rnn.static_rnn(GRU, PARAMS[GRU], []),
        ValueError,
        ["expected at least one step, got an empty list"],
    ),
    "steps of two shapes": (
        lambda: rnn.static_rnn(GRU, PARAMS[GRU], UNLIKE),
        ValueError,
        [r"expected steps of one structure and shape, got \[3, 2\], \[3, 1\]"],
    ),
    "steps of two structures": (
        lambda: rnn.static_rnn(GRU, PARAMS[GRU], PAIRS),
        ValueError,
        [r"structure and shape, got tuple of 2 \(\[3, 2\], \[3, \d\]\), \[3, \d\]"],
    ),
    "lengths": (
        lambda: rnn.static_rnn(GRU, PARAMS[GRU], STEPS, sequence_length=[5, 0, 0]),
        ValueError,
        [r"\[0, 4\], the number of time steps, got 5 in row 0"],
    ),
    "one name for two arrays": (
        lambda: saving("c"),
        ValueError,
        ["state_name: expected a name for each array of the state, 2 in ", "got 'c'"],
    ),
    "two names for one array": (
        lambda: saving(("c", "h"), cell=GRU),
        ValueError,
        [r"array of the state, 1 in \[1, 2\]", r"got \('c', 'h'\)"],
    ),
    "one name twice": (
        lambda: saving(("c", "c")),
        ValueError,
        [r"state_name: expected different names, got \('c', 'c'\)"],
    ),
    "a name in a tuple for an array": (
        lambda: saving(("h",), cell=GRU),
        ValueError,
        [r"1 in \[1, 2\]", r"got \('h',\)"],
    ),
    "a name that is not there": (
        lambda: saving(("c", "m")),
        KeyError,
        [r"state_saver: expected \['c', 'm'\], missing: \['m'\]"],
    ),
    "params of another cell": (
        lambda: saving("h", cell=rnn.LearnedInitialState(GRU), params=PARAMS[LSTM]),
        KeyError,
        ["params: expected those of LearnedInitialState", "missing: cell/"],
    ),
    "scalar outputs side by side": (
        lambda: rnn.static_bidirectional_rnn(
            toys.Scalar(), toys.Scalar(), {"fw": {}, "bw": {}}, STEPS
        ),
        ValueError,
        [r"expected outputs with a feature axis, .*got shape \(4, 3\)"],
    ),
    "a saved state of another shape": (
        lambda: saving(("c", "h"), {"c": np.zeros((B, 3)), "h": np.zeros((B, 4))}),
        ValueError,
        [r"state_saver\.h: expected shape \(3, 3\)", r"got \(3, 4\)"],
    ),
}


@pytest.mark.parametrize("row", ERRORS)
def test_error(row):
    """Invalid lists of steps, names and saved states are refused."""
    run, error, fragments = ERRORS[row]
    with pytest.raises(error) as caught:
        run()
    for fragment in fragments:
        caught.match(fragment)
