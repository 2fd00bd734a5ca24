"""Ports of RNNTest, of the tests of containers, and of state savers in TF's rnn_cell_test.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tf1_toys as toys
from laws import close

import jax_dynrnn as rnn

B, T, D = 2, 8, 5
ROW = np.random.default_rng(23489).normal(size=(B, D))
STEPS = [ROW] * T  # TF feeds one placeholder to all steps
MOVING = list(np.random.default_rng(1).normal(size=(T, B, D)))


def test_every_step_is_run():
    """TF's testRNN: outputs are inputs + 1, and the state counts to 8."""
    outputs, state = rnn.static_rnn(toys.Plus1(), {}, MOVING)
    assert isinstance(outputs, list)
    close(outputs, [x + 1 for x in MOVING], 0)
    assert (state == T).all() and state.shape == (B, D)


def test_all_inputs_dropped():
    """TF's testDropout: if all inputs are dropped, a cell that adds 1 returns ones."""
    cell = rnn.DropoutWrapper(toys.Plus1(), input_keep_prob=1e-12)
    whole, _ = rnn.static_rnn(cell, {}, STEPS)
    dropped, state = rnn.static_rnn(cell, {}, STEPS, key=jax.random.key(0))
    close(whole, [ROW + 1] * T, 0)
    assert (np.array(dropped) == 1).all() and (state == T).all()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_end_at_their_lengths(dtype):
    """TF's testDynamicCalculation: with lengths 2 and 3 of 8 steps."""
    lengths = np.array([2, 3], dtype)
    outputs, state = rnn.static_rnn(toys.Plus1(), {}, STEPS, sequence_length=lengths)
    close(outputs[:2], [ROW + 1] * 2, 0)
    np.testing.assert_array_equal(outputs[2], [np.zeros(D), ROW[1] + 1])
    assert not np.array(outputs[3:]).any()
    np.testing.assert_array_equal(state, [[2] * D, [3] * D])


def containers(cell, steps, lengths):
    """`{name: (outputs, state)}` by array, list and state saver; and a bidirectional run."""
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *steps)
    outputs, state = rnn.dynamic_rnn(cell, {}, stacked, lengths, time_major=True)
    outputs = [jax.tree.map(lambda y, t=t: y[t], outputs) for t in range(len(steps))]
    saver = dict(zip(("h", "c"), cell.zero_state(B, jnp.float64), strict=True))
    *saved, saver = rnn.static_state_saving_rnn(
        cell, {}, steps, saver, ("h", "c"), sequence_length=lengths
    )
    close((saver["h"], saver["c"]), saved[1], 0)
    both = rnn.static_bidirectional_rnn(
        cell, cell, {"fw": {}, "bw": {}}, steps, sequence_length=lengths
    )
    return {
        "dynamic": (outputs, state),
        "static": rnn.static_rnn(cell, {}, steps, sequence_length=lengths),
        "saving": tuple(saved),
    }, both


@pytest.mark.parametrize(
    ("cell", "shapes"), [(toys.Plus1OfThreeAxes(), (3, 4, 5)), (toys.Plus1OfPairs(), ((5,), (5,)))]
)
def test_all_containers_agree(cell, shapes):
    """TF's testMultiDimensionalLSTMAllRNNContainers and testNestedIOLSTMAllRNNContainers.

    Lengths are 4 and 6 of 8. Both directions are concatenated on axis 1 for all ranks.
    """
    random, lengths = np.random.default_rng(0), [4, 6]

    def is_shape(s):
        return isinstance(s[0], int)

    def draw():
        return jax.tree.map(lambda s: random.normal(size=(B, *s)), shapes, is_leaf=is_shape)

    steps = [draw() for _ in range(T)]
    one_way, (both, fw, bw) = containers(cell, steps, lengths)

    def output(x, t):
        going = (t < np.array(lengths)).reshape(B, *(1,) * (x.ndim - 1))
        return np.where(going, x + 1, 0)

    expected = [jax.tree.map(lambda x, t=t: output(x, t), step) for t, step in enumerate(steps)]
    for outputs, state in one_way.values():
        close(outputs, expected, 0)
        for leaf in state:
            assert all((leaf[row] == n).all() for row, n in enumerate(lengths))
    close((fw, bw), (one_way["static"][1],) * 2, 0)
    twice = [jax.tree.map(lambda y: np.concatenate([y, y], 1), step) for step in expected]
    close(both, twice, 0)


def lstms(*units):
    cells = [rnn.LSTMCell(n) for n in units]
    cell = cells[0] if len(cells) == 1 else rnn.MultiRNNCell(cells)
    return cell, cell.init(jax.random.key(0), (B, D), jnp.float64)


@pytest.mark.parametrize(
    ("units", "names"),
    [
        ((3,), ("c", "m")),
        ((3, 4, 5, 6), (("c0", "m0"), ("c1", "m1"), ("c2", "m2"), ("c3", "m3"))),
    ],
)
def test_the_state_of_an_lstm_is_saved(units, names):
    """TF's testNoProjNoSharding{Tuple,NestedTuple}StateSaver: 2 leaves, and 4 x 2.

    The saved state is the final one, and the next chunk starts from it.
    """
    cell, params = lstms(*units)
    flat = jax.tree.leaves(names)
    zeros = jax.tree.leaves(cell.zero_state(B, jnp.float64))
    saver = {**dict(zip(flat, zeros, strict=True)), "other": 7}
    first, state, half = rnn.static_state_saving_rnn(cell, params, MOVING[:3], saver, names)
    assert all(not saver[name].any() for name in flat)  # the given saver is not changed
    assert half["other"] == 7 and set(half) == set(saver)
    close([half[name] for name in flat], jax.tree.leaves(state), 0)
    rest, state, end = rnn.static_state_saving_rnn(cell, params, MOVING[3:], half, names)
    close([end[name] for name in flat], jax.tree.leaves(state), 0)
    outputs, whole = rnn.static_rnn(cell, params, MOVING)
    close((first + rest, state), (outputs, whole), 1e-12)
    assert outputs[0].shape == (B, units[-1])


def test_one_array_is_saved():
    """TF's testNoProjNoShardingSimpleStateSaver: a state of one leaf, under one name."""
    cell = rnn.GRUCell(3)
    params = cell.init(jax.random.key(0), (B, D), jnp.float64)
    start = np.full((B, 3), 0.3)
    outputs, state, saver = rnn.static_state_saving_rnn(
        cell, params, MOVING, {"save_lstm": start}, "save_lstm", sequence_length=[8, 0]
    )
    close((saver["save_lstm"], state[1]), (state, start[1]), 0)
    close(outputs[-1][0], state[0], 1e-12)
