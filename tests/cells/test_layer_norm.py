"""LSTMs with layer normalisation: TF's numbers, names of params, dropout of candidates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled, names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
BASIC, FULL = rnn.LayerNormBasicLSTMCell, rnn.LayerNormLSTMCell
GATES = ("input", "transform", "forget", "output", "state")


def state(*numbers):
    """A state of one row: the first half of the numbers is c, the second h."""
    return rnn.LSTMStateTuple(*(jnp.asarray([x]) for x in np.reshape(numbers, (2, -1))))


@pytest.mark.parametrize("cell", [BASIC(2), FULL(2, layer_norm=True)], ids=["basic", "full"])
def test_two_layers(cell):
    """TF's testBasicLSTMCell, ...WithStateTuple and ...WithStateTupleLayerNorm."""
    stack = rnn.MultiRNNCell([cell, cell])
    params = filled(stack.init(KEY, (2,), jnp.float64), kept=("bias", "gamma", "beta"))
    start = state(0.0, 0.1, 0.2, 0.3), state(0.4, 0.5, 0.6, 0.7)
    output, states = stack(params, jnp.ones((1, 2)), start)
    h, c = np.array([[-0.38079708, 0.38079708]]), np.array([[-1.0, 1.0]])
    close((output, states), (h, (rnn.LSTMStateTuple(c, h),) * 2), 1e-5)


def test_inputs_of_another_size():
    """TF's testBasicLSTMCell, second half: inputs of another size than the state."""
    params = filled(BASIC(2).init(KEY, (3,), jnp.float64), kept=("gamma", "beta"))
    output, new = BASIC(2)(params, jnp.ones((1, 3)), state(0.0, 0.1, 0.2, 0.3))
    h, c = np.array([[-0.38079708, 0.38079708]]), np.array([[-1.0, 1.0]])
    close((output, new), (h, rnn.LSTMStateTuple(c, h)), 1e-5)


def test_without_norm():
    """TF's testBasicLSTMCellWithoutNorm: with kernels and biases of 0.5."""
    cell = BASIC(2, layer_norm=False)
    stack = rnn.MultiRNNCell([cell, cell])
    params = filled(stack.init(KEY, (2,), jnp.float64), kept=())
    start = state(0.0, 0.1, 0.2, 0.3), state(0.4, 0.5, 0.6, 0.7)
    output, states = stack(params, jnp.ones((1, 2)), start)
    h = np.array([[[0.56668288, 0.60858738]], [[0.70230919, 0.72581059]]])
    c = np.array([[[0.8020075, 0.89599884]], [[1.17500675, 1.26892781]]])
    expected = tuple(rnn.LSTMStateTuple(*pair) for pair in zip(c, h, strict=True))
    close((output, states), (h[1], expected), 1e-5)
    params = filled(cell.init(KEY, (3,), jnp.float64), kept=())
    output, new = cell(params, jnp.ones((1, 3)), state(0.0, 0.1, 0.2, 0.3))
    h, c = np.array([[0.64121795, 0.68166804]]), np.array([[0.88477188, 0.98103917]])
    close((output, new), (h, rnn.LSTMStateTuple(c, h)), 1e-5)


def test_candidates_are_dropped():
    """TF's testBasicLSTMCellWithDropout, with more units: each `c` has one of two values."""
    cell, units = BASIC(50, layer_norm=False, dropout_keep_prob=0.5), 50
    params = filled(cell.init(KEY, (5,), jnp.float64), 1.0, kept=())
    params["kernel"] = params["kernel"].at[10:].set(0.0)  # TF has 5 inputs and 5 units
    ones = jnp.ones((1, units))
    output, (c, h) = cell(params, jnp.ones((1, 5)), rnn.LSTMStateTuple(ones, ones), key=KEY)
    assert (output == h).all()
    low = np.abs(c - 0.999983298578) < 1e-4
    assert (low | (np.abs(c - 2.9998924946) < 1e-4)).all() and 5 < low.sum() < 45
    np.testing.assert_allclose(h, np.where(low, 0.761552567265, 0.995008519604), atol=1e-4)


def test_without_a_key_nothing_is_dropped():
    """Dropout of candidates is off without a key, and changes results with one."""
    inputs = np.random.default_rng(0).normal(size=(2, 4, 3))
    params = BASIC(4).init(KEY, inputs.shape, jnp.float64)
    dropped = BASIC(4, dropout_keep_prob=0.5)
    plain = rnn.dynamic_rnn(BASIC(4), params, inputs)
    close(rnn.dynamic_rnn(dropped, params, inputs), plain, 0)
    assert not np.allclose(rnn.dynamic_rnn(dropped, params, inputs, key=KEY)[0], plain[0])


def test_without_norm_the_full_cell_is_an_lstm():
    """With TF1's default `layer_norm=False`, `LayerNormLSTMCell` equals `LSTMCell`."""
    options = {"use_peepholes": True, "cell_clip": 0.3, "num_proj": 2, "forget_bias": 0.5}
    inputs = np.random.default_rng(0).normal(size=(2, 4, 3))
    lstm = rnn.LSTMCell(4, **options)
    params = lstm.init(KEY, inputs.shape, jnp.float64)
    assert names(FULL(4, **options).init(KEY, inputs.shape)) == names(params)
    expected = rnn.dynamic_rnn(lstm, params, inputs)
    close(rnn.dynamic_rnn(FULL(4, **options), params, inputs), expected, 0)


def test_names_and_initial_values_of_params():
    """Params have TF1's names; gains and shifts start at `norm_gain` and `norm_shift`."""
    norms = {f"{name}/{part}": (4,) for name in GATES for part in ("gamma", "beta")}
    basic = BASIC(4, norm_gain=2.0, norm_shift=0.5).init(KEY, (3,))
    assert names(basic) == {"kernel": (7, 16)} | norms
    assert (basic["state"]["gamma"] == 2).all() and (basic["input"]["beta"] == 0.5).all()
    bare = BASIC(4, layer_norm=False).init(KEY, (3,))
    assert names(bare) == {"kernel": (7, 16), "bias": (16,)}
    assert len(np.unique(bare["bias"])) == 16  # drawn, not zeros, as in TF1
    full = FULL(4, layer_norm=True, num_proj=2, use_peepholes=True).init(KEY, (3,))
    assert names(full) == norms | {
        "kernel": (5, 16), "bias": (16,), "projection/kernel": (4, 2),
        "w_f_diag": (4,), "w_i_diag": (4,), "w_o_diag": (4,),
    }  # fmt: skip


def test_the_bias_of_a_normalised_cell_is_unused():
    """It exists because TF1's checkpoints have it; its gradient is 0."""
    cell, inputs = FULL(4, layer_norm=True), np.ones((2, 3, 3))
    params = cell.init(KEY, inputs.shape, jnp.float64)
    gradient = jax.grad(lambda p: rnn.dynamic_rnn(cell, p, inputs)[0].sum())(params)
    assert not gradient["bias"].any() and gradient["kernel"].any()


def test_float16_has_another_epsilon():
    """In float16 the epsilon of the layer norm is 1e-3, as in TF1, else 1e-12."""
    cell = BASIC(2)
    for dtype, epsilon in ((jnp.float32, 1e-12), (jnp.float16, 1e-3)):
        params = filled(cell.init(KEY, (1,), dtype), 0.0, kept=("gamma", "beta"))
        params["kernel"] = params["kernel"].at[0, 2].set(0.02)  # the candidate of unit 0
        _, new = cell(params, jnp.ones((1, 1), dtype), cell.zero_state(1, dtype))
        candidate = 0.01 / np.sqrt(0.01**2 + epsilon)
        memory = 0.5 * np.tanh(candidate)  # of unit 0; unit 1 has the opposite sign
        expected = memory / np.sqrt(memory**2 + epsilon)
        np.testing.assert_allclose(new.c, [[expected, -expected]], rtol=5e-3)


@pytest.mark.parametrize(
    ("value", "error"), [(0.0, ValueError), (1.5, ValueError), ("a", TypeError)]
)
def test_probabilities_are_checked(value, error):
    """`dropout_keep_prob` must be a number in (0, 1]."""
    with pytest.raises(
        error, match=r"LayerNormBasicLSTMCell: expected dropout_keep_prob .*\(0, 1\]"
    ):
        BASIC(4, dropout_keep_prob=value)
