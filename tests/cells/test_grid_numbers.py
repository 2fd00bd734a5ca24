"""Grid LSTMs give the numbers of TF's own tests."""

import jax
import jax.numpy as jnp
import numpy as np
from filled import filled
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
SAME = np.repeat([[1.0], [2.0], [3.0]], 4, 1)  # TF's inputs
RISING = SAME + [0.0, 0.1, 0.2, 0.3]

# TF's numbers for one of two units, which are equal.
COUPLED_OUTPUT = [
    [0.416383, 0.403238, 0.524020, 0.565425, 0.557865, 0.609699],
    [0.627331, 0.622393, 0.688342, 0.708078, 0.694245, 0.715171],
    [0.711050, 0.709197, 0.736533, 0.744264, 0.737390, 0.745250],
]
COUPLED_STATE = [
    [0.625556, 0.416383, 0.759134, 0.524020, 0.798795, 0.557865],
    [0.875488, 0.627331, 0.936432, 0.688342, 0.941961, 0.694245],
    [0.957327, 0.711050, 0.979522, 0.736533, 0.980245, 0.737390],
]
FORWARD_OUTPUT = [
    [0.464130, 0.419165, 0.593283, 0.738350, 0.661638, 0.866774],
    [0.669636, 0.628966, 0.736057, 0.895927, 0.755559, 0.954359],
    [0.751109, 0.711716, 0.778357, 0.940779, 0.784530, 0.980604],
]
FORWARD_STATE = [
    [0.710660, 0.464130, 0.877293, 0.593283, 0.958505, 0.661638],
    [0.967579, 0.669636, 1.038811, 0.736057, 1.058201, 0.755559],
    [1.053842, 0.751109, 1.079919, 0.778357, 1.085620, 0.784530],
]
BACKWARD_OUTPUT = [
    [0.520789, 0.476968, 0.604341, 0.760207, 0.635773, 0.850218],
    [0.692621, 0.652363, 0.737517, 0.899558, 0.745984, 0.946840],
    [0.759940, 0.720652, 0.778552, 0.941606, 0.781035, 0.977731],
]
BACKWARD_STATE = [
    [0.785405, 0.520789, 0.890836, 0.604341, 0.928512, 0.635773],
    [0.993088, 0.692621, 1.040288, 0.737517, 1.048773, 0.745984],
    [1.062455, 0.759940, 1.080101, 0.778552, 1.082402, 0.781035],
]
OFFSET_OUTPUT = [
    [0.322645, 0.276068, 0.584654, 0.690292, 0.640446, 0.840071],
    [0.493625, 0.449236, 0.730828, 0.865996, 0.749429, 0.944958],
    [0.608587, 0.566683, 0.777345, 0.925820, 0.782597, 0.976858],
]
OFFSET_STATE = [
    [0.516575, 0.322645, 0.866628, 0.584654, 0.934002, 0.640446],
    [0.749836, 0.493625, 1.033488, 0.730828, 1.052186, 0.749429],
    [0.895999, 0.608587, 1.078978, 0.777345, 1.083843, 0.782597],
]


def step_from_a_tenth(cell, params, inputs):
    """One step from states of 0.1, as in TF's tests: the output, and the concatenated states."""
    shape = (len(inputs), cell.num_units)
    start = cell.state_tuple_type(*(jnp.full(shape, 0.1) for _ in cell.state_tuple_type._fields))
    output, state = cell(params, jnp.asarray(inputs), start)
    assert type(state) is cell.state_tuple_type
    return output, jnp.concatenate(state, -1)


def halves(cell):
    """Params of 0.5, except biases."""
    return filled(cell.init(KEY, (4,), jnp.float64), kept=("B_",))


def units(numbers, count=2):
    """Repeats the numbers of each unit."""
    return np.repeat(np.concatenate(numbers, 1), count, 1)


def test_coupled():
    """TF's testGridLstmCellWithCoupledInputForgetGates: output and state."""
    cell = rnn.GridLSTMCell(
        2, feature_size=2, num_frequency_blocks=[3], couple_input_forget_gates=True
    )
    expected = units([COUPLED_OUTPUT]), units([COUPLED_STATE])
    close(step_from_a_tenth(cell, halves(cell), SAME), expected, 1e-6)


def test_more_units():
    """TF's testGridLSTMCell: rows differ; 8 units with a quarter of the weights equal 2."""
    cell = rnn.GridLSTMCell(
        8, feature_size=2, num_frequency_blocks=[3], couple_input_forget_gates=True
    )
    params = halves(cell)
    for result in step_from_a_tenth(cell, params, SAME):
        assert all(float(jnp.linalg.norm(result[0] - result[i])) > 1e-6 for i in (1, 2))
    quarter = jnp.where(jnp.arange(18) < 2, 1.0, 0.25)[:, None]
    params |= {name: params[name] * quarter for name in ("W_f_0_0", "W_t_0_0")}
    expected = units([COUPLED_OUTPUT], 8), units([COUPLED_STATE], 8)
    close(step_from_a_tenth(cell, params, SAME), expected, 1e-6)


def test_both_directions():
    """TF's testBidirectionGridLSTMCell: output and state."""
    cell = rnn.BidirectionalGridLSTMCell(
        2, feature_size=2, num_frequency_blocks=[3], share_time_frequency_weights=True
    )
    expected = units([FORWARD_OUTPUT, BACKWARD_OUTPUT]), units([FORWARD_STATE, BACKWARD_STATE])
    close(step_from_a_tenth(cell, halves(cell), RISING), expected, 1e-6)


def test_an_offset_of_the_second_direction():
    """TF's testBidirectionGridLSTMCellWithSliceOffset: output and state."""
    cell = rnn.BidirectionalGridLSTMCell(
        2,
        feature_size=2,
        num_frequency_blocks=[3],
        share_time_frequency_weights=True,
        backward_slice_offset=1,
    )
    expected = units([FORWARD_OUTPUT, OFFSET_OUTPUT]), units([FORWARD_STATE, OFFSET_STATE])
    close(step_from_a_tenth(cell, halves(cell), RISING), expected, 1e-6)
