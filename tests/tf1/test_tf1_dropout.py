"""Ports of TF's DropoutWrapperTest: kernels of 0.5, inputs of 2 and 1, a state of 0.1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
HALF = jax.nn.initializers.constant(0.5)
LSTM = rnn.LSTMCell(3, kernel_initializer=HALF)
OUTPUTS, FINAL_C = [[0.751109] * 3, [0.895509] * 3], [[1.949385] * 3]
DROP_ALL = 1e-12  # the probability of keeping an element: 1e-6 in TF
near = functools.partial(np.testing.assert_allclose, atol=1e-6)


def run(*keep, key=KEY, **options):
    """Outputs of the two steps, and the final state."""
    cell = rnn.DropoutWrapper(LSTM, *keep, **options)
    inputs = np.array([[[2.0] * 3], [[1.0] * 3]])
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)
    start = rnn.LSTMStateTuple(*[np.full((1, 3), 0.1)] * 2)
    outputs, state = rnn.dynamic_rnn(cell, params, inputs, None, start, time_major=True, key=key)
    return np.asarray(outputs[:, 0]), state


def test_properties():
    """TF's testDropoutWrapperProperties and ...ZeroState: `cell`, and the inner zero state."""

    class Thirteen(rnn.BasicRNNCell):
        def zero_state(self, batch_shape=(), dtype=jnp.float32):
            return jnp.full((batch_shape, 10), 13, dtype)

    cell = Thirteen(10)
    wrapper = rnn.DropoutWrapper(cell, 0.5)
    assert wrapper.cell is cell
    assert wrapper.zero_state(2).tolist() == [[13] * 10] * 2


def test_keep_all():
    """TF's testDropoutWrapperKeepAllConstantInput: probabilities of exactly 1 drop nothing."""
    outputs, state = run(1.0, 1.0, 1.0)
    near(outputs, OUTPUTS)
    near(state.c, FINAL_C)
    near(state.h, OUTPUTS[1:])


def test_keep_no_output():
    """TF's testDropoutWrapperKeepNoOutput: outputs are 0, and the state is unchanged."""
    outputs, state = run(1.0, DROP_ALL)
    assert not outputs.any()
    near(state.c, FINAL_C)
    near(state.h, OUTPUTS[1:])


def test_keep_no_state():
    """TF's testDropoutWrapperKeepNoStateExceptLSTMCellMemory: h is 0, and c is not."""
    outputs, state = run(1.0, 1.0, DROP_ALL)
    near(outputs[0], OUTPUTS[0])
    assert np.linalg.norm(outputs[1] - OUTPUTS[1]) > 1e-4
    assert not state.h.any()
    near(state.c, [[1.713925] * 3])


def test_keep_no_input():
    """TF's testDropoutWrapperKeepNoInput: results are those of zero inputs."""
    outputs, state = run(DROP_ALL)
    for actual, undropped in [(outputs[0], OUTPUTS[0]), (state.h, OUTPUTS[1:]), (state.c, FINAL_C)]:
        assert np.linalg.norm(np.subtract(actual, undropped)) > 1e-4
    params = LSTM.init(jax.random.key(0), (1, 3), jnp.float64)
    start = rnn.LSTMStateTuple(*[np.full((1, 3), 0.1)] * 2)
    expected = rnn.dynamic_rnn(LSTM, params, np.zeros((2, 1, 3)), None, start, time_major=True)
    close((outputs[:, None], state), expected, 1e-12)


def test_seeds():
    """TF's testDropoutWrapperWithSeed: equal keys give equal results, other keys others."""
    close(run(0.5, 0.5, 0.5), run(0.5, 0.5, 0.5), 0)
    many = [run(0.5, 0.5, 0.5, key=jax.random.key(i))[0].tobytes() for i in range(8)]
    assert len(set(many)) > 4


def variational(*keep):
    """The masks of the outputs and of the final c and h, and the results, for 7 steps of 5 rows.

    There are 30 features and units, where TF has 3, so that any key drops some and keeps some.
    """
    cell = rnn.DropoutWrapper(rnn.LSTMCell(30), *keep, variational_recurrent=True)
    inputs = np.random.default_rng(23487).normal(size=(7, 5, 30))
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)
    outputs, state = rnn.dynamic_rnn(cell, params, inputs, time_major=True, key=KEY)
    return [np.abs(x) > 1e-6 for x in (outputs, *state)], (outputs, state)


def test_one_output_mask_for_all_steps():
    """TF's testDropoutWrapperRecurrentOutput: variational masks are the same at all steps."""
    (outputs, c, h), _ = variational(1.0, 0.5)
    assert (outputs == outputs[:1]).all() and 0 < outputs.mean() < 1
    assert c.all() and h.all()


def test_one_mask_for_all_steps_and_rows():
    """TF's testDropoutWrapperRecurrentStateInputAndOutput, and ...WithSeed: rows share masks."""
    (outputs, c, h), results = variational(0.5, 0.5, 0.5)
    assert (outputs == outputs[0, 0]).all() and 0 < outputs.mean() < 1
    assert (c == c[0]).all() and (h == h[0]).all() and c.all() and 0 < h.mean() < 1
    close(variational(0.5, 0.5, 0.5)[1], results, 0)
