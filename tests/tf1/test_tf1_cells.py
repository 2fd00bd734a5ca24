"""Ports of RNNCellTest in TF's rnn_cell_test.py; more are in tests/test_cells.py."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)


def halves(cell, features, dtype):
    """Params of a stack with kernels of 0.5 and initial biases, as in TF's tests."""
    half = jax.nn.initializers.constant(0.5)
    cells = [type(c)(c.num_units, kernel_initializer=half) for c in cell.cells]
    return rnn.MultiRNNCell(cells).init(KEY, (1, features), dtype)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_basic_lstm(dtype):
    """TF's testBasicLSTMCell: numbers in two dtypes, with TF's tolerance."""
    cell = rnn.MultiRNNCell([rnn.BasicLSTMCell(2)] * 2)
    start = jax.tree.map(lambda x: x + 0.1, cell.zero_state(1, dtype))
    output, state = cell(halves(cell, 2, dtype), jnp.ones((1, 2), dtype), start)
    expected = [0.689, 0.689, 0.448, 0.448, 0.398, 0.398, 0.240, 0.240]
    np.testing.assert_allclose(np.concatenate(jax.tree.leaves(state), 1)[0], expected, 1e-2)
    np.testing.assert_allclose(output[0], [0.240, 0.240], 1e-2)
    assert {x.dtype for x in jax.tree.leaves((output, state))} == {jnp.dtype(dtype)}


def test_sizes_that_do_not_fit():
    """TF's testBasicLSTMCellDimension0Error and ...StateSizeError: states of other sizes."""
    cell, inputs = rnn.BasicLSTMCell(2), jnp.ones((3, 4))
    params = cell.init(KEY, inputs.shape, inputs.dtype)
    with pytest.raises((TypeError, ValueError), match=r"\(3, 2\).*\(2, 2\)"):
        cell(params, inputs, cell.zero_state(2, inputs.dtype))
    with pytest.raises(ValueError, match=r"state\.c: expected shape \(3, 2\).* got \(3, 3\)"):
        cell(params, inputs, rnn.BasicLSTMCell(3).zero_state(3, inputs.dtype))
    for state in (cell.zero_state(2), rnn.BasicLSTMCell(3).zero_state(3)):
        shape = r"\(2, 2\)" if len(state.c) == 2 else r"\(3, 3\)"
        with pytest.raises(ValueError, match=rf"state\.c: expected shape \(3, 2\).*got {shape}"):
            rnn.dynamic_rnn(cell, params, np.ones((3, 1, 4)), None, state)


def test_states_are_state_tuples():
    """TF's testBasicLSTMCellStateTupleType: plain tuples are accepted, state tuples returned."""
    cell = rnn.MultiRNNCell([rnn.BasicLSTMCell(2)] * 2)
    params = cell.init(KEY, (1, 2))
    zero = cell.zero_state(1)
    plain = tuple(tuple(state) for state in zero)
    inputs = np.ones((1, 1, 2), np.float32)
    results = [rnn.dynamic_rnn(cell, params, inputs, None, state) for state in (zero, plain)]
    close(results[1], results[0], 0)  # `close` compares the structure too
    _, state = cell(params, inputs[0], zero)
    for states in (zero, state, results[1][1]):
        assert type(states) is tuple
        assert [type(s) for s in states] == [rnn.LSTMStateTuple] * 2


def test_the_state_of_a_stack_is_a_tuple():
    """TF's testMultiRNNCellWithStateTuple: one joined array is refused."""
    cell = rnn.MultiRNNCell([rnn.GRUCell(2)] * 2)
    params = cell.init(KEY, (1, 2))
    joined = np.zeros((1, 4), np.float32)
    with pytest.raises(ValueError, match=r"expected tuple of 2 \(\[1, 2\], \[1, 2\]\).*\[1, 4\]"):
        rnn.dynamic_rnn(cell, params, np.ones((1, 1, 2)), None, joined)
    with pytest.raises(ValueError, match=r"expected tuple of 2 .*got \[1, 4\]"):
        cell(params, np.ones((1, 2), np.float32), joined)


def test_lstm_with_a_projection():
    """TF's testLSTMCell: three different rows have three different outputs and states."""
    half = jax.nn.initializers.constant(0.5)
    cell = rnn.LSTMCell(8, num_proj=6, forget_bias=1.0, kernel_initializer=half)
    inputs = jnp.array([[1.0, 1], [2, 2], [3, 3]])
    params = cell.init(KEY, inputs.shape, inputs.dtype)
    start = jax.tree.map(lambda x: x + 0.1, cell.zero_state(3, inputs.dtype))
    output, state = cell(params, inputs, start)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for row in range(3):  # all kernels are 0.5, so that all units of a row are equal
        gate = 0.5 * (2 * (row + 1) + 6 * 0.1)
        c = sigmoid(gate + 1) * 0.1 + sigmoid(gate) * np.tanh(gate)
        np.testing.assert_allclose(state.c[row], [c] * 8, rtol=1e-12)
        np.testing.assert_allclose(output[row], [4 * sigmoid(gate) * np.tanh(c)] * 6, rtol=1e-12)
    close(state.h, output, 0)


WRAPPERS = {
    "dropout": rnn.DropoutWrapper,
    "residual": rnn.ResidualWrapper,
    "multi": lambda cell: rnn.MultiRNNCell([cell]),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_have_the_params_of_their_cell(name):
    """TF's testWrapperCheckpointing: saved params of a cell are those of its wrapper."""
    cell = rnn.BasicRNNCell(1)
    params = {**cell.init(KEY, (1, 1), jnp.float64), "bias": jnp.array([40.0])}
    restored = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, params)))
    restored = {"cell_0": restored} if name == "multi" else restored
    wrapper = WRAPPERS[name](cell)
    start = wrapper.init(KEY, (1, 1), jnp.float64)
    assert jax.tree.structure(start) == jax.tree.structure(restored)
    output, _ = wrapper(restored, jnp.zeros((1, 1)), wrapper.zero_state(1, jnp.float64))
    np.testing.assert_allclose(output, [[np.tanh(40.0)]])


@pytest.mark.parametrize("sliced", [False, True])
def test_residual(sliced):
    """TF's testResidualWrapper and ...WithSlice: inputs of 1 are added to outputs, not states."""
    half = jax.nn.initializers.constant(0.5)
    cell = rnn.GRUCell(3, kernel_initializer=half, bias_initializer=half)
    inputs, state = jnp.ones((1, 5 if sliced else 3)), jnp.full((1, 3), 0.1)
    params = cell.init(KEY, inputs.shape, inputs.dtype)
    residual_fn = (lambda x, y: x[:, :3] + y) if sliced else None
    output, new = cell(params, inputs, state)
    added, same = rnn.ResidualWrapper(cell, residual_fn=residual_fn)(params, inputs, state)
    np.testing.assert_allclose(added, output + 1, rtol=1e-12)
    np.testing.assert_array_equal(same, new)
