"""Convolutional LSTMs: TF's numbers, names of params, equivalences, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled, names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
KINDS = {1: rnn.Conv1DLSTMCell, 2: rnn.Conv2DLSTMCell, 3: rnn.Conv3DLSTMCell}


def check_tfs_numbers(ndims):
    """Asserts TF's numbers for images (and `c`) of 2 pixels a side that are all 1, or all 2."""
    cell = KINDS[ndims](input_shape=(*[2] * ndims, 1), output_channels=1, kernel_shape=[3] * ndims)
    params = filled(cell.init(KEY, cell.input_shape, jnp.float64), 0.5**ndims)
    params["biases"] = jnp.zeros(4)
    images = jnp.broadcast_to(jnp.asarray([1.0, 2.0]).reshape(2, *[1] * ndims, 1),
                              (2, *cell.input_shape))  # fmt: skip
    start = rnn.LSTMStateTuple(images, jnp.zeros_like(images))
    output, state = cell(params, images, start)
    for actual, expected in [
        (output, [0.6529865603, 0.8736877431]),
        (state.h, [0.6529865603, 0.8736877431]),
        (state.c, [1.4375670191, 2.7542609292]),
    ]:
        expected = np.reshape(expected, (2, *[1] * ndims, 1))
        close(actual, np.broadcast_to(expected, actual.shape), 1e-7)


def test_1d():
    """TF's testConv1DLSTMCell."""
    check_tfs_numbers(1)


def test_2d():
    """TF's testConv2DLSTMCell."""
    check_tfs_numbers(2)


def test_3d():
    """TF's testConv3DLSTMCell."""
    check_tfs_numbers(3)


def test_names_shapes_and_initial_values_of_params():
    """Params have TF1's names; kernels are Glorot uniform; `use_bias=False` has no biases."""
    options = {"input_shape": (5, 6, 3), "output_channels": 4, "kernel_shape": (3, 2)}
    cell = rnn.ConvLSTMCell(2, **options)
    params = cell.init(KEY, (None, None, 5, 6, 3))
    assert names(params) == {"kernel": (3, 2, 7, 16), "biases": (16,)}
    assert not params["biases"].any()
    limit = np.sqrt(6 / (6 * (7 + 16)))  # Glorot's fans include the kernel's window
    assert 0.95 * limit < float(jnp.abs(params["kernel"]).max()) <= limit
    without = rnn.ConvLSTMCell(2, **options, use_bias=False)
    assert names(without.init(KEY, (5, 6, 3))) == {"kernel": (3, 2, 7, 16)}


def test_initializers():
    """`recurrent_initializer` fills the rows for `h`, each gate separately."""
    cell = rnn.Conv1DLSTMCell(
        input_shape=(5, 3),
        output_channels=4,
        kernel_shape=(1,),
        kernel_initializer=jax.nn.initializers.constant(3.0),
        recurrent_initializer=jax.nn.initializers.orthogonal(),
        bias_initializer=jax.nn.initializers.ones,
    )
    params = cell.init(KEY, (5, 3))
    assert (params["kernel"][:, :3] == 3).all() and (params["biases"] == 1).all()
    gates = np.split(params["kernel"][0, 3:], 4, axis=-1)
    for gate in gates:
        np.testing.assert_allclose(gate.T @ gate, np.eye(4), atol=1e-5)
    assert not np.allclose(gates[0], gates[1])


def test_conv_lstm_cell_of_n_dimensions():
    """`ConvLSTMCell(1)` equals `Conv1DLSTMCell`, and an LSTM if images have one pixel."""
    images = np.random.default_rng(0).normal(size=(2, 4, 1, 3))
    options = {"input_shape": (1, 3), "output_channels": 2, "kernel_shape": (1,)}
    cell, same = rnn.ConvLSTMCell(1, **options), rnn.Conv1DLSTMCell(**options)
    params = cell.init(KEY, images.shape, jnp.float64)
    results = rnn.dynamic_rnn(cell, params, images)
    close(rnn.dynamic_rnn(same, params, images), results, 0)
    of_lstm = {"kernel": params["kernel"][0], "bias": params["biases"]}
    expected = rnn.dynamic_rnn(rnn.BasicLSTMCell(2), of_lstm, images[:, :, 0])
    close(jax.tree.map(lambda x: x[..., 0, :], results), expected, 1e-14)


def test_skip_connection():
    """Inputs are appended to the outputs only, not to the state (unlike TF1)."""
    images = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    options = {"input_shape": [5, 3], "output_channels": 2, "kernel_shape": [3]}
    cell = rnn.Conv1DLSTMCell(**options)
    params = cell.init(KEY, images.shape, jnp.float64)
    plain, state = rnn.dynamic_rnn(cell, params, images, [4, 2])
    cell = rnn.Conv1DLSTMCell(**options, skip_connection=True)
    outputs, same = rnn.dynamic_rnn(cell, params, images, [4, 2])
    valid = (np.arange(4) < [[4], [2]])[..., None, None]
    close(outputs, np.concatenate([plain, np.where(valid, images, 0)], -1), 0)
    close(same, state, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input_shape": (5,)}, r"input_shape to be 2 positive ints.*conv_ndims is 1, got \(5,\)"),
        ({"input_shape": 5}, "input_shape to be 2 positive ints.*got 5"),
        ({"kernel_shape": (3, 3)}, "kernel_shape to be 1 positive ints, for each dimension"),
        ({"kernel_shape": (0,)}, "kernel_shape to be 1 positive ints"),
        ({"output_channels": 0}, "output_channels should be a positive int, got 0"),
    ],
)
def test_sizes_are_checked(changed, message):
    """Invalid sizes are refused by the constructor."""
    options = {"input_shape": (5, 3), "output_channels": 4, "kernel_shape": (3,)}
    with pytest.raises(ValueError, match=message):
        rnn.Conv1DLSTMCell(**options | changed)
    with pytest.raises(ValueError, match="conv_ndims of 1, 2 or 3, got 4"):
        rnn.ConvLSTMCell(4, **options)


def test_inputs_of_another_shape_are_refused():
    """A run refuses inputs that do not have the `input_shape` of the cell."""
    cell = rnn.Conv1DLSTMCell(input_shape=(5, 3), output_channels=4, kernel_shape=(3,))
    params = cell.init(KEY, (5, 3))
    for shape in ((2, 4, 6, 3), (2, 4, 5, 2)):
        with pytest.raises(ValueError, match=r"expected inputs .*input_shape=\(5, 3\), got shape"):
            rnn.dynamic_rnn(cell, params, np.ones(shape, np.float32))
