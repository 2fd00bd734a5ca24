"""The time-frequency LSTM: TF's case, names of params, equivalences, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled, names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
INPUTS = np.random.default_rng(0).normal(size=(2, 4, 7))


def test_rows_differ():
    """TF's testTimeFreqLSTMCell, with numbers.

    All weights are 1/2, all inputs of a row are equal, and all states are 0.1, so that the results
    have a simple formula. TF asserts only that different rows have different results.
    """
    cell = rnn.TimeFreqLSTMCell(8, input_size=4, feature_size=2)
    params = filled(cell.init(KEY, (4,), jnp.float64), kept=("B",))
    x = jnp.repeat(jnp.asarray([[1.0], [2.0], [3.0]]), 4, 1)
    output, state = cell(params, x, jnp.full((3, 48), 0.1))
    assert output.shape == (3, 24) and state.shape == (3, 48)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    below, row = 0.0, np.arange(1.0, 4.0)[:, None]
    for k in range(3):
        z = 0.5 * (2 * row + 8 * 0.1 + 8 * below)
        c = sigmoid(z + 1) * 0.1 + sigmoid(z) * np.tanh(z)
        below = sigmoid(z) * np.tanh(c)
        close(output[:, 8 * k : 8 * k + 8], np.repeat(below, 8, 1), 1e-14)
        close(state[:, 16 * k : 16 * k + 8], np.repeat(c, 8, 1), 1e-14)
        close(state[:, 16 * k + 8 : 16 * k + 16], np.repeat(below, 8, 1), 1e-14)
    for result in (output, state):
        assert all(float(jnp.linalg.norm(result[0] - result[i])) > 1e-6 for i in (1, 2))


def test_names_and_shapes_of_params():
    """Names and shapes are TF1's, with and without peepholes; biases start at 0."""
    cell = rnn.TimeFreqLSTMCell(4, input_size=7, feature_size=3, use_peepholes=True)
    expected = {"W_0": (11, 16), "B": (16,)}
    peepholes = dict.fromkeys(("W_F_diag", "W_I_diag", "W_O_diag"), (4,))
    assert names(cell.init(KEY, INPUTS.shape)) == expected | peepholes
    cell = rnn.TimeFreqLSTMCell(4, input_size=7, feature_size=3)
    params = cell.init(KEY, INPUTS.shape)
    assert names(params) == expected and not params["B"].any()


def test_size_of_the_state():
    """`zero_state` has the size of the state for all skips (unlike TF1)."""
    for skip, windows in ((1, 5), (2, 3), (3, 2), (4, 2), (5, 1)):
        cell = rnn.TimeFreqLSTMCell(2, input_size=7, feature_size=3, frequency_skip=skip)
        outputs, state = rnn.dynamic_rnn(cell, cell.init(KEY, INPUTS.shape), INPUTS)
        assert cell.num_shifts == windows == outputs.shape[-1] // 2 == state.shape[-1] // 4
        assert cell.zero_state(2).shape == state.shape
        close(outputs[:, -1, -2:], state[:, -2:], 0)


def test_one_window_is_an_lstm():
    """With one window, the kernel rows for the window below multiply zeros."""
    options = {"use_peepholes": True, "cell_clip": 0.3, "forget_bias": 0.5}
    cell = rnn.TimeFreqLSTMCell(4, input_size=7, feature_size=7, **options)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    of_lstm = {"kernel": params["W_0"][:11], "bias": params["B"]}
    of_lstm |= {f"w_{gate}_diag": params[f"W_{gate.upper()}_diag"] for gate in "fio"}
    outputs, state = rnn.dynamic_rnn(rnn.LSTMCell(4, **options), of_lstm, INPUTS)
    expected = outputs, jnp.concatenate(state, -1)
    close(rnn.dynamic_rnn(cell, params, INPUTS), expected, 1e-14)


def test_windows_of_one_step_equal_steps_of_an_lstm():
    """From a zero state, windows are steps of an LSTM whose forget gate is closed."""
    cell = rnn.TimeFreqLSTMCell(4, input_size=7, feature_size=3, frequency_skip=2)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    x = INPUTS[:, 0]
    windows = np.stack([x[:, k : k + 3] for k in (0, 2, 4)], 1)
    kernel = jnp.concatenate([params["W_0"][:3], params["W_0"][7:]])
    of_lstm = {"kernel": kernel, "bias": params["B"] + jnp.repeat(jnp.asarray([0, 0, -1e9, 0]), 4)}
    expected, _ = rnn.dynamic_rnn(rnn.BasicLSTMCell(4), of_lstm, windows)
    output, _ = cell(params, x, cell.zero_state(2, jnp.float64))
    close(output, expected.reshape(2, 12), 1e-14)


def test_sizes_are_checked():
    """Invalid window sizes, skips and clips, and inputs of another size, are refused."""
    with pytest.raises(ValueError, match="feature_size.*at most input_size=7, got 8"):
        rnn.TimeFreqLSTMCell(4, input_size=7, feature_size=8)
    with pytest.raises(ValueError, match="frequency_skip should be a positive int, got 0"):
        rnn.TimeFreqLSTMCell(4, input_size=7, feature_size=3, frequency_skip=0)
    with pytest.raises(ValueError, match="cell_clip >= 0"):
        rnn.TimeFreqLSTMCell(4, input_size=7, feature_size=3, cell_clip=-1.0)
    cell = rnn.TimeFreqLSTMCell(4, input_size=7, feature_size=3)
    for run in (
        lambda: cell.init(KEY, (2, 4, 6)),
        lambda: cell(cell.init(KEY, (7,)), jnp.ones(6, jnp.float32), cell.zero_state()),
    ):
        with pytest.raises(ValueError, match="input_size=7.*input_size features, got 6"):
            run()
