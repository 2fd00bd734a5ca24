"""The phased LSTM: TF's numbers, names, gradients, dtypes of times, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled, names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
SHAPES = ((2, 4, 1), (2, 4, 3))


def test_tf1s_numbers():
    """TF's testPhasedLSTMCell.

    TF drew periods and phases at random and did not print them. A unit has one of each: they are
    computed from its `c` at two of TF's three times, and all other numbers must agree.
    """
    c = np.array([[0.00072015, 0.00036633], [0.00083481, 0.00047266], [0.00085111, 0.00053054]])
    h = np.array([[0.0005159, 0.00026243], [0.00062958, 0.00035646], [0.00064732, 0.00040351]])
    cell, time = rnn.PhasedLSTMCell(2), np.array([[1.0], [2.0], [3.0]])
    params = filled(cell.init(KEY, ((3, 1), (3, 4)), jnp.float64))
    x = time * np.ones((3, 4))
    start = cell.zero_state(3, jnp.float64)
    always_open = dict(ratio_on=jnp.ones(2), period=jnp.full(2, 2.0), phase=time[0] * jnp.ones(2))
    _, opened = cell(params | always_open, (jnp.full((3, 1), 2.0), x), start)
    phi = c / opened.c / cell.leak  # the gate is closed except for the leak: k = leak * phi
    period = 1 / (phi[1] - phi[0])
    phase = 1 - phi[0] * period
    ratio_on = jnp.full(2, 0.1)
    found = {"period": jnp.asarray(period), "phase": jnp.asarray(phase), "ratio_on": ratio_on}
    output, state = cell(params | found, (time, x), start)
    close((output, state), (h, rnn.LSTMStateTuple(c, h)), 3e-8)


@pytest.mark.parametrize("use_peepholes", [False, True])
def test_names_and_shapes_of_params(use_peepholes):
    """With peepholes, the kernels of the gates have additional rows for `c`."""
    cell = rnn.PhasedLSTMCell(4, use_peepholes=use_peepholes)
    rows = 3 + 4 + 4 * use_peepholes
    assert names(cell.init(KEY, SHAPES)) == {
        "mask_gates/kernel": (rows, 8), "mask_gates/bias": (8,),
        "new_input/kernel": (7, 4), "new_input/bias": (4,),
        "output_gate/kernel": (rows, 4), "output_gate/bias": (4,),
        "period": (4,), "phase": (4,), "ratio_on": (4,),
    }  # fmt: skip


def test_initial_values():
    """The logarithm of the period is uniform, and so is the phase within the period."""
    cell = rnn.PhasedLSTMCell(4000, ratio_on=0.3, period_init_min=2.0, period_init_max=50.0)
    params = cell.init(KEY, ((1,), (1,)), jnp.float64)
    position = np.log(params["period"] / 2.0) / np.log(25.0)
    for uniform in (position, params["phase"] / params["period"]):
        histogram = np.histogram(uniform, 10, (0.0, 1.0))[0]
        assert histogram.sum() == 4000 and np.abs(histogram - 400).max() < 100
    assert (params["ratio_on"] == 0.3).all() and not params["mask_gates"]["bias"].any()


def test_openness():
    """The time gate opens, closes and leaks, as `c` shows if all other gates are constant."""
    cell = rnn.PhasedLSTMCell(1, leak=0.1, ratio_on=0.5)
    params = filled(cell.init(KEY, ((1,), (1,)), jnp.float64), 0.0, kept=())
    params |= {"period": jnp.full(1, 8.0), "phase": jnp.full(1, 3.0), "ratio_on": jnp.full(1, 0.5)}
    params["new_input"]["bias"] = jnp.full(1, 100.0)  # i = 1/2, tanh = 1: the candidate is 1/2
    time = jnp.asarray([3.0, 4.0, 5.0, 6.0, 7.0, 9.0, 3.0 - 1.0, 11.0 + 1.0])[:, None]
    _, state = cell(params, (time, jnp.zeros((8, 1))), cell.zero_state(8, jnp.float64))
    expected = [0.0, 0.5, 1.0, 0.5, 0.05, 0.075, 0.0875, 0.5]
    close(2 * state.c[:, 0], np.array(expected), 1e-15)


def run(cell, params, time):
    x = np.random.default_rng(1).normal(size=(2, 4, 3))
    outputs, state = rnn.dynamic_rnn(cell, params, (time, x), [4, 3])
    return (outputs**2).sum() + state.c.sum()


def params_with_period_8(cell):
    """Params with a period of 8, exact in binary, which contains all of `TIMES`."""
    params = cell.init(KEY, SHAPES, jnp.float64)
    phase = jnp.asarray([0.5, 0.75, 1.0, 0.25])
    ratio_on = jnp.asarray([0.3, 0.8, 0.6, 0.9])
    return params | {"period": jnp.full(4, 8.0), "phase": phase, "ratio_on": ratio_on}


TIMES = np.array([[1.25, 2.0, 4.75, 6.0], [1.5, 3.25, 3.5, 5.0]])[..., None]


@pytest.mark.parametrize("use_peepholes", [False, True])
def test_gradients(use_peepholes):
    """In the first period, all gradients are derivatives: of times, periods, phases and weights."""
    cell = rnn.PhasedLSTMCell(4, use_peepholes=use_peepholes, leak=0.1)
    given = (params_with_period_8(cell), jnp.asarray(TIMES))
    gradients = jax.jit(jax.grad(lambda given: run(cell, *given)))(given)
    leaves, structure = jax.tree.flatten(given)
    value = jax.jit(lambda leaves: run(cell, *structure.unflatten(leaves)))
    random, step = np.random.default_rng(0), 1e-6
    for i, gradient in enumerate(jax.tree.leaves(gradients)):
        direction = random.normal(size=gradient.shape)
        moved = [[*leaves[:i], leaves[i] + s * step * direction, *leaves[i + 1 :]] for s in (1, -1)]
        measured = float(value(moved[0]) - value(moved[1])) / (2 * step)
        predicted = float((gradient * direction).sum())
        assert abs(predicted) > 1e-4 and abs(measured - predicted) <= 1e-7 * (1 + abs(predicted))


def test_gradients_ignore_the_number_of_past_periods():
    """As in TF1, gradients three periods later are the same, even those of the period."""
    cell = rnn.PhasedLSTMCell(4, leak=0.1)
    gradient = jax.jit(jax.grad(lambda params, time: run(cell, params, time), (0, 1)))
    params = params_with_period_8(cell)
    close(gradient(params, TIMES + 24), gradient(params, TIMES), 1e-15)


def test_trainable_ratio_on():
    """`trainable_ratio_on=False` makes the gradient of `ratio_on` 0, and changes no other."""
    cell = rnn.PhasedLSTMCell(4, leak=0.1, trainable_ratio_on=False)
    params = params_with_period_8(cell)
    gradients = jax.grad(lambda p: run(cell, p, TIMES))(params)
    trained = rnn.PhasedLSTMCell(4, leak=0.1)
    expected = jax.grad(lambda p: run(trained, p, TIMES))(params)
    assert not gradients.pop("ratio_on").any() and expected.pop("ratio_on").any()
    close(gradients, expected, 1e-15)


def test_times_of_other_dtypes():
    """A step computes phases in the dtype of its time; a run casts floating times, not integers."""
    cell = rnn.PhasedLSTMCell(4, leak=0.1)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params_with_period_8(cell))
    late, x = 2.0**24 + TIMES[:, 0], jnp.ones((2, 3), jnp.float32)
    state = cell.zero_state(2)
    exact, _ = cell(params, (jnp.asarray(TIMES[:, 0]), x), state)
    assert exact.dtype == jnp.float32
    close(cell(params, (jnp.asarray(late), x), state)[0], exact, 1e-6)
    rounded, _ = cell(params, (jnp.asarray(late, jnp.float32), x), state)
    assert float(jnp.abs(rounded - exact).max()) > 1e-2

    x, time = jnp.ones((2, 4, 3)), jnp.asarray([[1001, 1002, 1005, 1006]] * 2)[..., None]
    exact, _ = rnn.dynamic_rnn(cell, params, (time, x), dtype=jnp.float32)

    def error(time):
        return float(
            jnp.abs(
                rnn.dynamic_rnn(cell, params, (time, x), dtype=jnp.bfloat16)[0].astype(jnp.float32)
                - exact
            ).max()
        )

    assert error(time) < 0.01 < 0.05 < error(time.astype(jnp.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio_on": 0.0}, r"ratio_on to be a float in \(0, 1\], got 0.0"),
        ({"leak": -0.1}, r"leak in \[0, 1\], got -0.1"),
        ({"period_init_min": 0.0}, "0 < period_init_min <= period_init_max, got 0.0 and 1000.0"),
        ({"period_init_max": 0.5}, "0 < period_init_min <= period_init_max, got 1.0 and 0.5"),
    ],
)
def test_options_are_checked(options, message):
    """Ratios, leaks and periods out of range are refused."""
    with pytest.raises(ValueError, match=message):
        rnn.PhasedLSTMCell(4, **options)


def test_inputs_are_times_and_features():
    """Inputs that are not a pair of times `[..., 1]` and features are refused."""
    cell = rnn.PhasedLSTMCell(4)
    params = cell.init(KEY, SHAPES)
    for inputs in (np.ones(SHAPES[1]), (np.ones(SHAPES[1]), np.ones(SHAPES[1]))):
        with pytest.raises(ValueError, match=r"expected inputs \(time, x\) of shapes"):
            rnn.dynamic_rnn(cell, params, jax.tree.map(jnp.float32, inputs))
