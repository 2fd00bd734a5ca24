"""Cells alone: names and initial values of params, TF1's numbers, single steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, H, is_shape, perturbed
from laws import close, weighted_sum

import jax_dynrnn as rnn

KEY = jax.random.key(0)


def names(params):
    """The paths and shapes of params: `{"gates/kernel": (7, 8)}`."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (rnn.BasicRNNCell(4), {"kernel": (7, 4), "bias": (4,)}),
        (
            rnn.GRUCell(4),
            {
                "gates/kernel": (7, 8),
                "gates/bias": (8,),
                "candidate/kernel": (7, 4),
                "candidate/bias": (4,),
            },
        ),
        (
            rnn.CudnnCompatibleGRUCell(4),
            {
                "gates/kernel": (7, 8),
                "gates/bias": (8,),
                "candidate/input_projection/kernel": (3, 4),
                "candidate/input_projection/bias": (4,),
                "candidate/hidden_projection/kernel": (4, 4),
                "candidate/hidden_projection/bias": (4,),
            },
        ),
        (rnn.BasicLSTMCell(4), {"kernel": (7, 16), "bias": (16,)}),
        (
            rnn.LSTMCell(4, use_peepholes=True, num_proj=2),
            {
                "kernel": (5, 16),
                "bias": (16,),
                "w_f_diag": (4,),
                "w_i_diag": (4,),
                "w_o_diag": (4,),
                "projection/kernel": (4, 2),
            },
        ),
        (
            rnn.MultiRNNCell([rnn.BasicRNNCell(4), rnn.ResidualWrapper(rnn.BasicRNNCell(4))]),
            {
                "cell_0/kernel": (7, 4),
                "cell_0/bias": (4,),
                "cell_1/kernel": (8, 4),
                "cell_1/bias": (4,),
            },
        ),
        (
            rnn.LearnedInitialState(rnn.MultiRNNCell([rnn.LSTMCell(2), rnn.BasicRNNCell(1)])),
            {
                "cell/cell_0/kernel": (5, 8),
                "cell/cell_0/bias": (8,),
                "cell/cell_1/kernel": (3, 1),
                "cell/cell_1/bias": (1,),
                "initial_state/0/c": (2,),
                "initial_state/0/h": (2,),
                "initial_state/1": (1,),
            },
        ),
    ],
)
def test_params_have_tf1s_names(cell, expected):
    """Names and shapes of params are those of TF1's variables."""
    assert names(cell.init(KEY, (None, None, 3))) == expected


def test_default_initial_values_are_tf1s():
    """Kernels are Glorot uniform over the whole matrix; gate biases of GRUs are 1, others 0."""
    cell = rnn.LSTMCell(100, use_peepholes=True)
    params = cell.init(KEY, (60,))
    limit = np.sqrt(6 / (160 + 400))
    assert 0.98 * limit < float(jnp.abs(params["kernel"]).max()) <= limit
    assert abs(float(params["kernel"].std()) * np.sqrt(3) / limit - 1) < 0.02
    assert float(jnp.abs(params["w_f_diag"]).max()) <= np.sqrt(6 / 200)
    assert not params["bias"].any() and not np.allclose(params["w_f_diag"], params["w_i_diag"])
    for gru in (rnn.GRUCell(3), rnn.CudnnCompatibleGRUCell(3)):
        biases = {n: x for n, x in _named(gru.init(KEY, (2,))).items() if "bias" in n}
        assert {n: set(x.tolist()) for n, x in biases.items()} == {
            n: {1.0 if "gates" in n else 0.0} for n in biases
        }


def _named(params):
    """The params as a flat dict by path."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}


CELLS = [rnn.BasicRNNCell, rnn.GRUCell, rnn.CudnnCompatibleGRUCell, rnn.BasicLSTMCell, rnn.LSTMCell]


@pytest.mark.parametrize("make", CELLS)
def test_initializers(make):
    """Initializers fill kernels, recurrent rows (each gate separately), and biases."""
    orthogonal = jax.nn.initializers.orthogonal()
    cell = make(
        4,
        kernel_initializer=jax.nn.initializers.constant(3.0),
        recurrent_initializer=orthogonal,
        bias_initializer=jax.nn.initializers.truncated_normal(1.0),
    )
    params = _named(cell.init(KEY, (2, 5, 3)))
    for name, x in params.items():
        if "bias" in name:
            assert len(np.unique(x)) == x.size
            continue
        inputs, recurrent = (x[:0], x) if "hidden" in name else (x[:3], x[3:])
        recurrent = x[:0] if "input_projection" in name else recurrent
        assert (inputs == 3.0).all()
        gates = np.split(recurrent, recurrent.shape[1] // 4, axis=1) if recurrent.size else []
        for gate in gates:
            np.testing.assert_allclose(gate.T @ gate, np.eye(4), atol=1e-5)
        assert len(gates) < 2 or not np.allclose(gates[0], gates[1])


def shapes_of(case):
    return jax.tree.map(lambda s: (2, 5, *s), case.features, is_leaf=is_shape)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_params_are_drawn_independently(case):
    """No two params or gates have equal random values, across layers and directions too."""
    cell, shapes = case.cell, shapes_of(case)
    runs = {"alone": cell.init(KEY, shapes)}
    if case.core:
        runs["two"] = rnn.init_bidirectional(KEY, cell, cell, shapes)
        runs["four"] = rnn.init_stack_bidirectional(KEY, [cell, cell], [cell, cell], shapes)
        runs["stack"] = rnn.MultiRNNCell([cell, cell]).init(KEY, shapes)
    for params in runs.values():
        drawn = [np.asarray(x) for x in _named(params).values() if np.std(x) > 0]
        assert len({x.tobytes() for x in drawn}) == len(drawn)
        for x in drawn:
            gates = np.split(x, x.shape[-1] // H, -1) if x.shape[-1] % H == 0 else []
            assert len({gate.tobytes() for gate in gates}) == len(gates)


OWN_VALUES = {
    *("gamma", "beta", "period", "phase", "ratio_on", "memory", "carry_b", "transform_b"),
    *("attention_g", "attention_b", "attention_score_bias"),
}
"""Params that no initializer fills: their docstrings say where they start."""


def with_initializers(cell):
    """The cell and its inner cells, with initializers of 2 for kernels and 3 for biases."""
    if isinstance(cell, tuple | list):
        return [*map(with_initializers, cell)]
    value, changed = jax.nn.initializers.constant, {}
    for field in dataclasses.fields(cell):
        if field.name.endswith("initializer"):
            changed[field.name] = value(3.0 if field.name == "bias_initializer" else 2.0)
        elif field.name in ("cell", "cells", "controller", "attention_mechanism"):
            changed[field.name] = with_initializers(getattr(cell, field.name))
    return dataclasses.replace(cell, **changed)


OURS = [case for case in CASES if case.ours]


@pytest.mark.parametrize("case", OURS, ids=lambda case: case.name)
def test_initializers_fill_all_params(case):
    """Every kernel and bias is filled by the initializer of its cell, except `OWN_VALUES`."""
    params = _named(with_initializers(case.cell).init(KEY, shapes_of(case)))
    for name, x in params.items():
        last = name.split("/")[-1]
        if last not in OWN_VALUES and not name.startswith("initial_") and "/initial_" not in name:
            expected = 3.0 if "bias" in last or last.lower().startswith("b") else 2.0
            assert (x == expected).all(), name


def recording(shapes):
    """An initializer that appends each shape it is asked for to `shapes`."""

    def initialize(key, shape, dtype):
        del key
        shapes.append(tuple(shape))
        return jnp.ones(shape, dtype)

    return initialize


def test_initializers_are_not_called_for_empty_kernels():
    """Some initializers of JAX divide by the number of rows, which may be 0."""
    shapes = []
    rnn.CudnnCompatibleGRUCell(4, recurrent_initializer=recording(shapes)).init(KEY, (3,))
    assert shapes and all(0 not in shape for shape in shapes)


def test_peepholes_are_initialized_as_columns():
    """Many initializers refuse vectors, so each peephole is requested as one column."""
    shapes = []
    cell = rnn.LSTMCell(4, use_peepholes=True, kernel_initializer=recording(shapes))
    assert cell.init(KEY, (3,))["w_f_diag"].shape == (4,)
    assert shapes.count((4, 1)) == 3


def halves(cell, features):
    """Params as in TF's unit tests: kernels of 0.5, and initial biases."""
    params = cell.init(KEY, (features,), jnp.float64)
    return jax.tree_util.tree_map_with_path(
        lambda p, x: x if "bias" in jax.tree_util.keystr(p) else jnp.full_like(x, 0.5), params
    )


@pytest.mark.parametrize(
    ("cell", "features", "state", "expected"),
    [
        (rnn.GRUCell(2), 2, np.full((1, 2), 0.1), 0.175991),
        (rnn.GRUCell(2), 3, np.full((1, 2), 0.1), 0.156736),
        (
            rnn.MultiRNNCell([rnn.GRUCell(2)] * 2),
            2,
            (np.full((1, 2), 0.1),) * 2,
            0.13248,
        ),
    ],
)
def test_tf1_golden_gru(cell, features, state, expected):
    """Numbers of TensorFlow's rnn_cell_test.py."""
    inputs = np.array([[1.0, 1.0, 1.0]])[:, :features]
    output, _ = cell(halves(cell, features), jnp.asarray(inputs), jax.tree.map(jnp.asarray, state))
    np.testing.assert_allclose(output, np.full((1, 2), expected), atol=1e-6)


def test_tf1_golden_basic_lstm():
    """Numbers of TensorFlow's testBasicLSTMCell: two layers of two units."""
    cell = rnn.MultiRNNCell([rnn.BasicLSTMCell(2)] * 2)
    start = rnn.LSTMStateTuple(jnp.full((1, 2), 0.1), jnp.full((1, 2), 0.1))
    output, (lower, upper) = cell(halves(cell, 2), jnp.ones((1, 2)), (start, start))
    for actual, expected in [
        (lower.c, 0.68967271),
        (lower.h, 0.44848421),
        (upper.c, 0.39897051),
        (upper.h, 0.24024698),
        (output, 0.24024698),
    ]:
        np.testing.assert_allclose(actual, np.full((1, 2), expected), atol=2e-7)


def test_cell_clip_of_0():
    """TF's testCellClipping: with `cell_clip=0` an LSTM returns exactly 0."""
    cell = rnn.LSTMCell(4, use_peepholes=True, cell_clip=0.0)
    inputs = np.random.default_rng(0).normal(size=(2, 3, 5))
    outputs, _ = rnn.dynamic_rnn(cell, cell.init(KEY, inputs.shape), inputs)
    assert not outputs.any()


def test_basic_lstm_and_lstm_are_interchangeable():
    """TF's testBasicLSTMCellInterchangeWithLSTMCell: each runs with the other's params."""
    inputs = np.random.default_rng(0).normal(size=(2, 3, 5))
    basic, full = rnn.BasicLSTMCell(4), rnn.LSTMCell(4)
    for params in (basic.init(KEY, inputs.shape), full.init(KEY, inputs.shape)):
        close(rnn.dynamic_rnn(basic, params, inputs), rnn.dynamic_rnn(full, params, inputs), 0)


@pytest.mark.parametrize("case", [
    pytest.param(case, id=case.name, marks=[pytest.mark.full] if case.variant else [])
    for case in CASES
])  # fmt: skip
def test_one_step_on_a_batch_on_rows_and_under_vmap(case):
    """A direct call works on a batch, on one row, and under `vmap`, with the same results."""
    params, inputs = case.params(jnp.float64), case.inputs(jnp.float64)
    x = jax.tree.map(lambda x: x[:, 0], inputs)
    state = case.state(jnp.float64)
    batch = case.cell(params, x, state)
    if any(leaf.ndim == 0 for leaf in jax.tree.leaves(state)):
        return  # a rank-0 leaf is shared by the batch, and has no rows
    mapped = jax.vmap(case.cell, (None, 0, 0))(params, x, state)
    close(mapped, batch, 1e-12)

    def row(tree):
        return jax.tree.map(lambda leaf: leaf[1], tree)

    close(case.cell(params, row(x), row(state)), row(batch), 1e-12)
    unbatched = case.start(jnp.float64, ())
    assert jax.tree.map(jnp.shape, unbatched) == jax.tree.map(jnp.shape, row(state))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_states_with_two_batch_axes(case):
    """`zero_state((2, 3))` has both axes in place of the batch axis of every leaf."""
    shapes = jax.tree.map(jnp.shape, case.start(jnp.float32, 6))
    wide = jax.tree.map(jnp.shape, case.start(jnp.float32, (2, 3)))
    expected = jax.tree.map(
        lambda s: (2, 3, *s[1:]) if s else (),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple) and all(isinstance(n, int) for n in s),
    )
    assert wide == expected


def test_a_cell_must_define_a_step():
    """A subclass of `Cell` without `__call__` or `step` is refused."""

    class Nothing(rnn.Cell):
        pass

    with pytest.raises(TypeError, match="Nothing to define __call__.*got none of them"):
        rnn.dynamic_rnn(Nothing(), {}, np.ones((2, 3, 1)))


def test_overriding_call_of_a_cell_with_step_is_refused():
    """`cell(...)` would use the override, and `dynamic_rnn` would ignore it."""
    with pytest.raises(TypeError, match="Doubled overrides __call__.*override of step"):

        class Doubled(rnn.LSTMCell):
            def __call__(self, params, inputs, state, *, key=None):
                return super().__call__(params, 2 * inputs, state)

    with pytest.raises(TypeError, match="Halves defines project and __call__"):

        class Halves(rnn.Cell):
            def project(self, params, inputs):
                return inputs / 2

            def __call__(self, params, inputs, state, *, key=None):
                return self.project(params, inputs), state


def test_residual_fn_and_structure():
    """Outputs of another structure than the inputs need a `residual_fn`."""
    cell = rnn.ResidualWrapper(rnn.EmitState(rnn.GRUCell(3)))
    params = cell.init(KEY, (2, 4, 3))
    with pytest.raises(TypeError, match="inputs' structure"):
        rnn.dynamic_rnn(cell, params, np.ones((2, 4, 3)))
    first = rnn.ResidualWrapper(rnn.EmitState(rnn.GRUCell(3)), residual_fn=lambda x, y: x - y[0])
    outputs, _ = rnn.dynamic_rnn(first, params, np.ones((2, 4, 3)))
    plain, _ = rnn.dynamic_rnn(rnn.GRUCell(3), params, np.ones((2, 4, 3)))
    np.testing.assert_allclose(outputs, 1 - plain, rtol=1e-6)


def test_gradients_reach_a_learned_state():
    """A learned initial state has gradients through steps, and through rows of length 0."""
    cell = rnn.LearnedInitialState(rnn.LSTMCell(4))
    inputs = np.random.default_rng(0).normal(size=(3, 5, 2))
    params = cell.init(KEY, inputs.shape, jnp.float64)

    def gradient(lengths):
        def loss(p):
            return rnn.dynamic_rnn(cell, p, inputs, lengths)[1].h.sum()

        return jax.grad(loss)(params)["initial_state"]

    unchanged = gradient([0, 0, 0])  # the final state is the learned one, in three rows
    assert (unchanged["h"] == 3).all() and (unchanged["c"] == 0).all()
    passed_through = gradient([5, 2, 1])
    assert all((jnp.abs(g) > 1e-3).all() for g in passed_through.values())


def test_every_class_has_a_case_of_every_law():
    """Every class has a case that is not a variant: the everyday suite runs all laws on it."""
    every = {type(case.cell) for case in CASES}
    assert {type(case.cell) for case in CASES if not case.variant} == every


def test_a_learned_initial_state_with_a_batch_axis_of_one():
    """`[1, H]` is `[H]`, in results and in gradients of every cell inside a stack."""
    cell = rnn.LearnedInitialState(rnn.MultiRNNCell([rnn.LSTMCell(3), rnn.GRUCell(2)]))
    params = perturbed(cell.init(jax.random.key(0), (2, 4, 3)), 1)
    rows = {**params, "initial_state": jax.tree.map(lambda x: x[None], params["initial_state"])}
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)))

    def loss(params):
        outputs, state = rnn.dynamic_rnn(cell, params, inputs, [4, 0])
        return weighted_sum((outputs, state))

    value, gradient = jax.value_and_grad(loss)(params)
    of_rows, gradient_of_rows = jax.value_and_grad(loss)(rows)
    close(of_rows, value, 1e-12)
    close(jax.tree.leaves(gradient_of_rows), [
        x[None] if "initial_state" in jax.tree_util.keystr(path) else x
        for path, x in jax.tree_util.tree_flatten_with_path(gradient)[0]
    ], 1e-12)  # fmt: skip
    two_axes = jax.tree.map(lambda x: x[None], rows["initial_state"])
    with pytest.raises(ValueError, match="initial_state"):
        loss({**params, "initial_state": two_axes})
