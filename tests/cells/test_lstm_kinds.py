"""LSTMs of tf.contrib without layer norm: TF's numbers, names, equivalences, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled, names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
INPUTS = np.random.default_rng(0).normal(size=(2, 4, 6))


@pytest.mark.parametrize(
    ("norm", "use_peepholes", "c", "h"),
    [
        (False, False, [0.65937078, 0.74983585], [0.44923624, 0.49362513]),
        (False, True, [0.65937084, 0.7574988], [0.4792085, 0.53470564]),
        (True, False, [0.50125383, 0.58805949], [0.32770363, 0.37397948]),
        (True, True, [0.50125383, 0.59587258], [0.35041603, 0.40873795]),
    ],
)
def test_weight_norm(norm, use_peepholes, c, h):
    """The four cases of TF's WeightNormLSTMCellTest."""
    cell = rnn.WeightNormLSTMCell(2, norm=norm, use_peepholes=use_peepholes)
    params = filled(cell.init(KEY, (2,), jnp.float64))
    start = rnn.LSTMStateTuple(jnp.asarray([[0.0, 0.1]]), jnp.asarray([[0.2, 0.3]]))
    output, new = cell(params, jnp.ones((1, 2)), start)
    c, h = np.array([c]), np.array([h])
    close((output, new), (h, rnn.LSTMStateTuple(c, h)), 1e-6)


def test_weight_norm_params():
    """Norms have one scale per gate column; `norm=False` has none."""
    cell = rnn.WeightNormLSTMCell(4, num_proj=2, use_peepholes=True)
    expected = {
        "kernel": (5, 16), "bias": (16,), "norm_0": (16,), "norm_1": (16,),
        "projection/kernel": (4, 2), "projection/norm_0": (2,),
        "w_f_diag": (4,), "w_i_diag": (4,), "w_o_diag": (4,),
    }  # fmt: skip
    params = cell.init(KEY, (3,))
    assert names(params) == expected
    assert not np.allclose(params["norm_0"], params["norm_1"])
    without = {name for name in expected if "norm" not in name}
    assert set(names(rnn.WeightNormLSTMCell(4, norm=False, num_proj=2, use_peepholes=True)
                     .init(KEY, (3,)))) == without  # fmt: skip


def test_weight_norm_of_zeros_is_finite():
    """As in TensorFlow, norms are at least 1e-6, so that gradients of zero columns are finite."""
    cell = rnn.WeightNormLSTMCell(4)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    params["kernel"] = jnp.zeros_like(params["kernel"])
    gradient = jax.grad(lambda p: rnn.dynamic_rnn(cell, p, INPUTS)[0].sum())(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_coupled():
    """TF's testCoupledInputForgetGateLSTMCell: output and state."""
    cell = rnn.CoupledInputForgetGateLSTMCell(2)
    params = filled(cell.init(KEY, (4,), jnp.float64), kept=("B",))
    inputs = jnp.asarray([[1.0] * 4, [2.0] * 4, [3.0] * 4])
    start = rnn.LSTMStateTuple(*(jnp.full((3, 2), 0.1),) * 2)
    output, new = cell(params, inputs, start)
    h = np.repeat([[0.121753], [0.103349], [0.100178]], 2, 1)
    c = np.repeat([[0.137523], [0.105450], [0.100742]], 2, 1)
    close((output, new), (h, rnn.LSTMStateTuple(c, h)), 1e-6)


def test_coupled_params():
    """Params have TF1's names, with peepholes, projection and layer norm, and without."""
    options = {"use_peepholes": True, "num_proj": 2, "layer_norm": True}
    params = rnn.CoupledInputForgetGateLSTMCell(4, **options).init(KEY, (3,))
    norms = ("transform", "forget", "output", "state")
    assert names(params) == {
        "W_0": (5, 12), "B": (12,), "W_F_diag": (4,), "W_O_diag": (4,), "W_P_0": (4, 2),
    } | {f"{name}/{part}": (4,) for name in norms for part in ("gamma", "beta")}  # fmt: skip
    assert names(rnn.CoupledInputForgetGateLSTMCell(4).init(KEY, (3,))) == {
        "W_0": (7, 12),
        "B": (12,),
    }


def test_one_group_is_an_lstm():
    """TF's testGLSTMCell, first half: one group equals an LSTM, with and without a projection."""
    for num_proj in (None, 2):
        lstm, grouped = rnn.LSTMCell(4, num_proj=num_proj), rnn.GLSTMCell(4, num_proj=num_proj)
        params = lstm.init(KEY, INPUTS.shape, jnp.float64)
        params["bias"] = jnp.arange(16.0) / 10
        of_group = {"group0": {"kernel": params["kernel"]}}
        of_group |= dict(zip(("bias_i", "bias_j", "bias_f", "bias_o"),
                             jnp.split(params["bias"], 4), strict=True))  # fmt: skip
        of_group |= {name: params[name] for name in ("projection",) if num_proj}
        expected = rnn.dynamic_rnn(lstm, params, INPUTS)
        close(rnn.dynamic_rnn(grouped, of_group, INPUTS), expected, 1e-14)


def test_groups_are_lstms():
    """TF's testGLSTMCell, second half: each group equals an LSTM on its part of the inputs."""
    grouped, small = rnn.GLSTMCell(4, number_of_groups=2), rnn.LSTMCell(2)
    params = grouped.init(KEY, INPUTS.shape, jnp.float64)
    outputs, state = rnn.dynamic_rnn(grouped, params, INPUTS)
    for k in range(2):
        own = {"kernel": params[f"group{k}"]["kernel"], "bias": jnp.zeros(8)}
        units, features = slice(2 * k, 2 * k + 2), slice(3 * k, 3 * k + 3)
        expected = rnn.dynamic_rnn(small, own, INPUTS[..., features])
        actual = outputs[..., units], rnn.LSTMStateTuple(*(x[:, units] for x in state))
        close(actual, expected, 1e-14)


def test_the_candidate_of_a_group_is_a_tanh():
    """As in TF1, `activation` applies to the cell state only, not to the candidate."""
    cell = rnn.GLSTMCell(1, activation=lambda x: 10 * x, forget_bias=0.0)
    params = filled(cell.init(KEY, (1,), jnp.float64), 1.0)
    _, (c, h) = cell(params, jnp.ones((1, 1)), cell.zero_state(1, jnp.float64))
    sigmoid = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(c, sigmoid * np.tanh(1.0))
    np.testing.assert_allclose(h, sigmoid * 10 * c)


def test_groups_must_divide():
    """TF's testGLSTMCellFailure: units, projection and inputs must be multiples of the groups."""
    for make in (
        lambda: rnn.GLSTMCell(2, number_of_groups=3),
        lambda: rnn.GLSTMCell(3, number_of_groups=3, num_proj=2),
        lambda: rnn.GLSTMCell(3, number_of_groups=3).init(KEY, (2,)),
    ):
        with pytest.raises(ValueError, match="a multiple of number_of_groups=3, got 2"):
            make()


def test_lstm_block_cell_equals_lstm_cell():
    """With `use_peephole`, and a clip that is off if it is 0 or less (unlike in `LSTMCell`)."""
    assert rnn.LSTMBlockCell(4, cell_clip=0) == rnn.LSTMBlockCell(4, cell_clip=-1.0)
    cell = rnn.LSTMBlockCell(4, use_peephole=True, cell_clip=0.1, forget_bias=0.5)
    lstm = rnn.LSTMCell(4, use_peepholes=True, cell_clip=0.1, forget_bias=0.5)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    assert names(params) == names(lstm.init(KEY, INPUTS.shape))
    expected = rnn.dynamic_rnn(lstm, params, INPUTS)
    close(rnn.dynamic_rnn(cell, params, INPUTS), expected, 0)
    assert np.abs(expected[1].c).max() == 0.1
    unclipped = rnn.dynamic_rnn(rnn.LSTMBlockCell(4, cell_clip=0), _kernel_and_bias(params), INPUTS)
    close(unclipped, rnn.dynamic_rnn(rnn.LSTMCell(4), _kernel_and_bias(params), INPUTS), 0)


def _kernel_and_bias(params):
    return {name: params[name] for name in ("kernel", "bias")}


def test_options_are_checked():
    """All LSTMs check clips and projections."""
    for make in (rnn.LayerNormLSTMCell, rnn.WeightNormLSTMCell):
        with pytest.raises(ValueError, match=f"{make.__name__}: expected cell_clip >= 0"):
            make(4, cell_clip=-1.0)
    for make in (rnn.LayerNormLSTMCell, rnn.CoupledInputForgetGateLSTMCell):
        with pytest.raises(ValueError, match=f"{make.__name__}: proj_clip=1.0 needs a projection"):
            make(4, proj_clip=1.0)
