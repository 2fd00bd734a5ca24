"""Ports of TF's python/kernel_tests/rnn_test.py: what `dynamic_rnn` accepts and refuses."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import tf1_toys as toys
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
ONE_TO_FOUR = np.array([[[1.0], [2.0], [3.0], [4.0]]])


def test_lengths_must_be_a_vector():
    """TF's testInvalidSequenceLengthShape, in two of its files: lengths of [[4]] and 4."""
    with pytest.raises(ValueError, match=r"each of the 1 rows, a vector, got shape \(1, 1\)"):
        rnn.dynamic_rnn(toys.Plus1(), {}, np.ones((1, 3, 4)), [[4]])
    with pytest.raises(ValueError, match=r"each of the 3 rows, a vector, got shape \(\)"):
        rnn.static_rnn(toys.Plus1(), {}, [np.ones((3, 4))], sequence_length=4)


@pytest.mark.parametrize("make", [rnn.BasicRNNCell, rnn.GRUCell, rnn.BasicLSTMCell, rnn.LSTMCell])
def test_integers_are_refused(make):
    """TF's testInvalidDtype: integer inputs, and an integer `dtype=`, are refused."""
    cell, inputs = make(2), np.zeros((3, 4, 5), np.int32)
    params = cell.init(KEY, inputs.shape)
    with pytest.raises(TypeError, match="expected a real floating dtype, got int32"):
        rnn.dynamic_rnn(cell, params, inputs)
    with pytest.raises(TypeError, match="expected a real floating dtype, got int32"):
        rnn.dynamic_rnn(cell, params, inputs, dtype=jnp.int32)


def test_batch_size_from_the_inputs():
    """TF's testBatchSizeFromInput: known and symbolic, with and without an initial state."""
    cell, inputs = toys.Plus1(), np.zeros((3, 4, 5))
    for start in (None, np.full((3, 5), 2.0)):
        outputs, state = rnn.dynamic_rnn(cell, {}, inputs, None, start)
        assert (outputs == 1).all() and outputs.shape == (3, 4, 5)
        assert (state == (4 if start is None else 6)).all() and state.shape == (3, 5)
    (batch,) = jax.export.symbolic_shape("batch")
    unknown = jax.ShapeDtypeStruct((batch, 4, 5), jnp.float64)
    given = jax.ShapeDtypeStruct((batch, 5), jnp.float64)
    for run, arguments in [
        (lambda x: rnn.dynamic_rnn(cell, {}, x), (unknown,)),
        (lambda x, s: rnn.dynamic_rnn(cell, {}, x, None, s), (unknown, given)),
    ]:
        outputs, state = jax.export.export(jax.jit(run))(*arguments).out_avals
        assert outputs.shape == (batch, 4, 5) and state.shape == (batch, 5)


def test_a_scalar_state_is_accepted():
    """TF's testScalarStateIsAccepted: a counter of four steps."""
    outputs, state = rnn.dynamic_rnn(toys.Counter(), {}, ONE_TO_FOUR, [4])
    np.testing.assert_array_equal(outputs, ONE_TO_FOUR)
    assert state == 4 and state.dtype == jnp.int32


def test_outputs_of_two_widths_are_accepted():
    """TF's testUnbalancedOutputIsAccepted: a pair of outputs of different sizes."""
    outputs, state = rnn.dynamic_rnn(toys.UnequalOutputs(), {}, ONE_TO_FOUR, [4])
    assert isinstance(outputs, tuple) and state == 4
    np.testing.assert_array_equal(outputs[0], ONE_TO_FOUR)
    np.testing.assert_array_equal(outputs[1], [[[1, 1], [2, 2], [3, 3], [4, 4]]])


def test_a_buffer_in_the_state_is_accepted():
    """TF's testTensorArrayStateIsAccepted: a row that ends leaves its part of the buffer."""
    inputs = np.concatenate([ONE_TO_FOUR, 10 * ONE_TO_FOUR])
    outputs, (count, buffer) = rnn.dynamic_rnn(toys.Recorder(), {}, inputs, [4, 2])
    np.testing.assert_array_equal(outputs[0], ONE_TO_FOUR[0])
    assert count == 4
    assert buffer[..., 0].tolist() == [[1, 2, 3, 4], [10, 20, 0, 0]]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("make", [rnn.BasicRNNCell, rnn.LSTMCell])
def test_zero_state(make, dtype):
    """TF's testCellGetInitialState: shapes and dtypes of `zero_state`, where runs start."""
    cell = make(5)
    for batch, shape in [(50, (50, 5)), ((), (5,)), ((2, 3), (2, 3, 5))]:
        for leaf in jax.tree.leaves(cell.zero_state(batch, dtype)):
            assert leaf.shape == shape and leaf.dtype == dtype and not leaf.any()
    inputs = np.ones((4, 0, 1), dtype)
    _, state = rnn.dynamic_rnn(cell, cell.init(KEY, inputs.shape, dtype), inputs)
    close(state, cell.zero_state(4, dtype), 0)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(dtype)}


FOREIGN = {
    "simple": lambda: toys.KerasSimpleRNN(5),
    "gru": lambda: toys.Foreign(rnn.GRUCell(5)),
    "lstm": lambda: toys.Foreign(rnn.LSTMCell(5)),
    "stack": lambda: rnn.MultiRNNCell([toys.Foreign(rnn.LSTMCell(3)), toys.KerasSimpleRNN(5)]),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_cells_run_and_learn(name):
    """TF's testRNNWithKeras{SimpleRNN,GRU,LSTM,Stack}Cell, testStaticRNNWithKerasSimpleRNNCell.

    One step of gradient descent lowers a loss of the state; static runs have the same outputs.
    """
    cell = FOREIGN[name]()
    inputs = np.random.default_rng(0).normal(size=(6, 4, 10))
    params = cell.init(KEY, inputs.shape, jnp.float64)

    def dynamic(params):
        outputs, state = rnn.dynamic_rnn(cell, params, inputs, [4, 4, 4, 3, 2, 1])
        loss = (jax.tree.leaves(state)[-1] - 0.7) ** 2
        return loss.mean(), outputs

    def static(params):
        steps = list(inputs.swapaxes(0, 1))
        outputs, _ = rnn.static_rnn(cell, params, steps, sequence_length=[4, 4, 4, 3, 2, 1])
        return jnp.stack(outputs, 1)

    @jax.jit
    def descend(params):
        (before, outputs), gradient = jax.value_and_grad(dynamic, has_aux=True)(params)
        better = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        return before, dynamic(better)[0], outputs, static(params), gradient

    before, after, outputs, listed, gradient = descend(params)
    assert after < before and all(g.any() for g in jax.tree.leaves(gradient))
    assert outputs.shape == (6, 4, 5) and not outputs[5, 1:].any()
    close(listed, outputs, 1e-12)


def test_keras_weights_concatenated_are_tf1s():
    """TF's testSimpleRNNCellAndBasicRNNCellComparison: `kernel` above `recurrent_kernel`."""
    inputs = np.random.default_rng(0).normal(size=(20, 4, 10))
    keras = toys.KerasSimpleRNN(5)
    weights = keras.init(KEY, inputs.shape, jnp.float64)
    joined = jnp.concatenate([weights["kernel"], weights["recurrent_kernel"]])
    params = {"kernel": joined, "bias": weights["bias"]}
    expected = rnn.dynamic_rnn(keras, weights, inputs)
    close(rnn.dynamic_rnn(rnn.BasicRNNCell(5), params, inputs), expected, 1e-12)
