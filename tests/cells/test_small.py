"""NAS, UGRNN, intersection, SRU, Ind and Indy, minimal and CFN cells: TF's numbers, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled, names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
THREE = jnp.asarray([[1.0] * 4, [2.0] * 4, [3.0] * 4])


def one_step(cell, x, kept=("bias",)):
    """One step with variables of 0.5 (except those in `kept`) and states of 0.1."""
    params = filled(cell.init(KEY, x.shape[1:], jnp.float64), kept=kept)
    state = jax.tree.map(lambda s: s + 0.1, cell.zero_state(len(x), jnp.float64))
    return cell(params, x, state)


def columns(numbers, width):
    return np.repeat(np.reshape(numbers, (-1, 1)), width, 1)


@pytest.mark.parametrize(
    ("num_proj", "c", "h"),
    [
        (None, [0.71579772, 0.78041625, 0.79457647], [0.57675087, 0.6189357, 0.62739348]),
        (5, [0.69855207, 0.77073824, 0.78973997], [1.69741797, 1.84003687, 1.87398517]),
    ],
)
def test_nas(num_proj, c, h):
    """TF's testNASCell and testNASCellProj."""
    output, new = one_step(rnn.NASCell(6, num_proj=num_proj), THREE)
    expected = rnn.LSTMStateTuple(columns(c, 6), columns(h, num_proj or 6))
    close((output, new), (expected.h, expected), 1e-6)


def test_ugrnn():
    """TF's testUGRNNCell: output and state."""
    expected = columns([0.13752282, 0.10545051, 0.10074195], 2)
    close(one_step(rnn.UGRNNCell(2), THREE), (expected, expected), 1e-7)


def test_intersection():
    """TF's testIntersectionRNNCell: output and state."""
    expected = columns([2.00431061, 4.00060606, 6.00008249], 2)
    state = columns([0.13752282, 0.10545051, 0.10074195], 2)
    close(one_step(rnn.IntersectionRNNCell(2, num_in_proj=2), THREE), (expected, state), 1e-6)


def test_intersection_failure():
    """TF's testIntersectionRNNCellFailure: inputs must be projected to the number of units."""
    for make in (
        lambda: rnn.IntersectionRNNCell(2).init(KEY, (4,)),
        lambda: rnn.IntersectionRNNCell(2, num_in_proj=4),
    ):
        with pytest.raises(ValueError, match="num_units=2 features, got 4; give num_in_proj=2"):
            make()


@pytest.mark.parametrize(("size", "expected"), [(2, 0.509682), (3, 0.55255556)])
def test_sru(size, expected):
    """TF's testSRUCell and testSRUCellWithDiffSize."""
    output, _ = one_step(rnn.SRUCell(2), jnp.ones((1, size)))
    np.testing.assert_allclose(output, [[expected] * 2], atol=1e-6)


def test_the_bias_of_sru_has_the_dtype_of_its_kernel():
    """TF's testSRUCellBiasType."""
    params = rnn.SRUCell(2).init(KEY, (3,), jnp.float16)
    assert params["bias"].dtype == params["kernel"].dtype == jnp.float16


@pytest.mark.parametrize(
    ("cell", "size", "expected"),
    [
        (rnn.MinimalRNNCell(2), 2, 0.18899589),
        (rnn.MinimalRNNCell(2), 3, 0.19554167),
        (rnn.CFNCell(2), 2, 0.17188203),
        (rnn.CFNCell(2), 3, 0.15535763),
    ],
)
def test_minimal_and_cfn(cell, size, expected):
    """TF's testMinimalRNNCell and testCFNCell: with kernels of 0.5 and initial biases of 1."""
    output, new = one_step(cell, jnp.ones((1, size)))
    close((output, new), (np.full((1, 2), expected),) * 2, 1e-7)


@pytest.mark.parametrize("cell", [rnn.MinimalRNNCell(2), rnn.CFNCell(2)])
def test_end_to_end(cell):
    """TF's testMinimalRNNCellEndToEnd and ...CFN...: a padded run equals direct calls."""
    inputs = np.random.default_rng(0).normal(size=(3, 2, 5))
    params = cell.init(KEY, inputs.shape, jnp.float64)
    outputs, state = rnn.dynamic_rnn(cell, params, inputs, [2, 1, 2])
    stepped = cell.zero_state(3, jnp.float64)
    first, stepped = cell(params, jnp.asarray(inputs[:, 0]), stepped)
    second, _ = cell(params, jnp.asarray(inputs[:, 1]), stepped)
    expected = np.stack([first, second], 1)
    expected[1, 1] = 0
    close((outputs, state), (expected, np.stack([second[0], first[1], second[2]])), 1e-14)


def test_indy_cells_with_diagonal_kernels_are_gated_cells():
    """TF's testIndyGRUCell and testIndyLSTMCell: each unit equals a GRU or LSTM of one unit."""
    inputs = np.random.default_rng(0).normal(size=(2, 4, 3))
    indy = rnn.IndyLSTMCell(2)
    params = indy.init(KEY, inputs.shape, jnp.float64)
    outputs, _ = rnn.dynamic_rnn(indy, params, inputs)
    w, u = params["kernel_w"].reshape(3, 4, 2), params["kernel_u"].reshape(1, 4, 2)
    for unit in range(2):
        kernel = jnp.concatenate([w[..., unit], u[..., unit]])
        own = {"kernel": kernel, "bias": jnp.zeros(4)}
        expected, _ = rnn.dynamic_rnn(rnn.LSTMCell(1), own, inputs)
        close(outputs[..., unit : unit + 1], expected, 1e-14)
    indy = rnn.IndyGRUCell(2)
    params = indy.init(KEY, inputs.shape, jnp.float64)
    outputs, _ = rnn.dynamic_rnn(indy, params, inputs)
    gates, candidate = params["gates"], params["candidate"]
    w, u = gates["kernel_w"].reshape(3, 2, 2), gates["kernel_u"].reshape(1, 2, 2)
    for unit in range(2):
        only = slice(unit, unit + 1)
        kernel = jnp.concatenate([candidate["kernel"][:, only], candidate["kernel_u"][:, only]])
        own = {
            "gates": {"kernel": jnp.concatenate([w[..., unit], u[..., unit]]), "bias": jnp.ones(2)},
            "candidate": {"kernel": kernel, "bias": jnp.zeros(1)},
        }
        expected, _ = rnn.dynamic_rnn(rnn.GRUCell(1), own, inputs)
        close(outputs[..., only], expected, 1e-14)


def test_ind_rnn():
    """TF's testIndRNNCell, with numbers: each unit depends on its own state only."""
    cell = rnn.IndRNNCell(2)
    params = {
        "kernel_w": jnp.asarray([[1.0, 2.0]]),
        "kernel_u": jnp.asarray([[0.5, -0.5]]),
        "bias": jnp.asarray([0.1, 0.2]),
    }
    output, new = cell(params, jnp.ones((1, 1)), jnp.asarray([[0.4, 0.6]]))
    close((output, new), (np.tanh([[1.3, 1.9]]),) * 2, 1e-15)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (
            rnn.NASCell(4, num_proj=2, use_bias=True),
            {
                "kernel": (3, 32),
                "recurrent_kernel": (2, 32),
                "bias": (32,),
                "projection_weights": (4, 2),
            },
        ),
        (rnn.NASCell(4), {"kernel": (3, 32), "recurrent_kernel": (4, 32)}),
        (rnn.UGRNNCell(4), {"kernel": (7, 8), "bias": (8,)}),
        (
            rnn.IntersectionRNNCell(4, num_in_proj=4),
            {
                "kernel": (8, 16),
                "bias": (16,),
                "in_projection/kernel": (3, 4),
                "in_projection/bias": (4,),
            },
        ),
        (rnn.IntersectionRNNCell(3, num_in_proj=3), {"kernel": (6, 12), "bias": (12,)}),
        (rnn.SRUCell(4), {"kernel": (3, 16), "bias": (8,)}),
        (rnn.IndRNNCell(4), {"kernel_w": (3, 4), "kernel_u": (1, 4), "bias": (4,)}),
        (
            rnn.IndyGRUCell(4),
            {
                "gates/kernel_w": (3, 8),
                "gates/kernel_u": (1, 8),
                "gates/bias": (8,),
                "candidate/kernel": (3, 4),
                "candidate/kernel_u": (1, 4),
                "candidate/bias": (4,),
            },
        ),
        (rnn.IndyLSTMCell(4), {"kernel_w": (3, 16), "kernel_u": (1, 16), "bias": (16,)}),
        (rnn.MinimalRNNCell(4), {"kernel": (11, 4), "bias": (4,)}),
        (rnn.CFNCell(4), {"kernel": (3, 12), "recurrent_kernel": (4, 8), "bias": (8,)}),
    ],
    ids=lambda x: type(x).__name__,
)
def test_names_shapes_and_biases_of_params(cell, expected):
    """Params have TF1's names, and biases of 1 where TF1 has them."""
    params = cell.init(KEY, (3,))
    assert names(params) == expected
    if isinstance(cell, rnn.MinimalRNNCell | rnn.CFNCell):
        assert (params["bias"] == 1).all()
    if isinstance(cell, rnn.IndyGRUCell):
        assert (params["gates"]["bias"] == 1).all() and not params["candidate"]["bias"].any()


def test_initial_recurrent_weights_of_indy_cells():
    """They are uniform between -1 and 1."""
    u = rnn.IndyLSTMCell(200).init(KEY, (3,))["kernel_u"]
    assert float(u.min()) < -0.9 and float(u.max()) > 0.9 and float(jnp.abs(u).max()) <= 1


@pytest.mark.parametrize(
    "make",
    [rnn.NASCell, rnn.UGRNNCell, rnn.IntersectionRNNCell, rnn.MinimalRNNCell, rnn.CFNCell],
)
def test_recurrent_initializer(make):
    """`recurrent_initializer` fills the rows for the state only, each gate separately."""
    ortho = jax.nn.initializers.orthogonal()
    params = make(4, recurrent_initializer=ortho).init(KEY, (4,))
    rest = make(4).init(KEY, (4,))
    kernel = params.get("recurrent_kernel", params["kernel"][-4:])
    for gate in np.split(kernel, kernel.shape[1] // 4, 1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(4), atol=1e-5)
    inputs = slice(None) if "recurrent_kernel" in params else slice(-4)
    assert (params["kernel"][inputs] == rest["kernel"][inputs]).all()
