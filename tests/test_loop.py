"""The loop over time, with cells whose results are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import jax_dynrnn as rnn

X = np.arange(1.0, 11.0).reshape(2, 5, 1)  # 1..5 and 6..10


def total(inputs=X, lengths=None, state=None, **options):
    """The outputs and the final state of `toys.Sum`, as lists."""
    outputs, final = rnn.dynamic_rnn(toys.Sum(), {}, inputs, lengths, state, **options)
    return outputs[..., 0].tolist(), final[:, 0].tolist()


def steps(lengths=None, **options):
    """How often the rank-0 leaf of `toys.PlusOne` was updated in 3 steps."""
    inputs = np.zeros((2, 3, 1))
    return int(rnn.dynamic_rnn(toys.PlusOne(), {}, inputs, lengths, **options)[1]["steps"])


def test_outputs_and_state():
    """Outputs and final state for lengths, no lengths, and an initial state."""
    assert total(lengths=[5, 3]) == ([[1, 3, 6, 10, 15], [6, 13, 21, 0, 0]], [15, 21])
    assert total() == ([[1, 3, 6, 10, 15], [6, 13, 21, 30, 40]], [15, 40])
    assert total(lengths=[0, 1], state=np.array([[100.0], [200]])) == (
        [[0] * 5, [206, 0, 0, 0, 0]],
        [100, 206],
    )


def test_reverse():
    """A reversed run starts at the last valid step of each row."""
    assert total(lengths=[2, 3], reverse=True) == ([[3, 2, 0, 0, 0], [21, 15, 8, 0, 0]], [3, 21])


def test_mask():
    """Steps outside of the mask have outputs of 0 and leave the state."""
    left_padded = np.array([[0, 0, 1, 1, 1], [1, 0, 0, 0, 1]], bool)
    assert total(mask=left_padded) == ([[0, 0, 3, 7, 12], [6, 0, 0, 0, 16]], [12, 16])
    assert total(mask=left_padded, lengths=[4, 4]) == ([[0, 0, 3, 7, 0], [6, 0, 0, 0, 0]], [7, 6])


def test_resets_forward():
    """A reset at t makes step t start from the start state."""
    resets = np.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1]], bool)
    state = np.array([[100.0], [200]])
    assert total(resets=resets, state=state) == (
        [[101, 103, 3, 7, 12], [6, 13, 21, 30, 10]],
        [12, 10],
    )


def test_resets_in_reverse():
    """A reset at t lies between t - 1 and t: in reverse, step t - 1 starts from the start state.

    So a reset at t = 0 does nothing.
    """
    resets = np.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1]], bool)
    state = np.array([[100.0], [200]])
    assert total(resets=resets, state=state, reverse=True) == (
        [[3, 2, 112, 109, 105], [30, 24, 17, 9, 210]],
        [3, 30],
    )


def test_a_reset_in_a_gap_waits():
    """A reset at an invalid step takes effect at the next valid one."""
    mask = np.array([[1, 1, 0, 0, 1], [1, 0, 1, 1, 1]], bool)
    resets = np.array([[0, 0, 1, 0, 0], [0, 1, 0, 0, 0]], bool)
    assert total(mask=mask, resets=resets)[0] == [[1, 3, 0, 0, 5], [6, 0, 8, 17, 27]]
    assert total(mask=mask, resets=resets, reverse=True)[0] == [[3, 2, 0, 0, 5], [6, 0, 27, 19, 10]]


def test_a_reset_behind_the_row_changes_nothing_forward():
    """In a forward run, resets at or after the length of a row have no effect."""
    resets = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]], bool)
    assert total(lengths=[3, 4], resets=resets) == total(lengths=[3, 4])


def test_a_reset_goes_to_the_start_state_not_to_zero():
    """A reset restores the learned start state, neither zeros nor the given initial state."""
    cell = rnn.LearnedInitialState(toys.Sum())
    params = {"cell": {}, "initial_state": {"state": np.array([1000.0])}}
    resets = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    outputs, _ = rnn.dynamic_rnn(cell, params, X, None, np.zeros((2, 1)), resets=resets)
    assert outputs[0, :, 0].tolist() == [1, 1002, 1005, 1009, 1014]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([1, 2], 2), ([0, 0], 1), ([3, 1], 3), (None, 3), ([0, 1], 1)],
)
def test_rank_0_leaves_are_updated_up_to_the_longest_row(lengths, expected):
    """At least one step updates them, as in TF1's loop, in both directions."""
    assert steps(lengths) == expected
    assert steps(lengths, reverse=True) == expected


def test_rank_0_leaves_under_a_mask():
    """They are updated up to the last step that is valid in any row, in order of the run."""
    mask = np.array([[0, 0, 0], [0, 1, 0]], bool)
    assert steps(mask=mask) == 2  # t = 0, 1
    assert steps(mask=mask, reverse=True) == 2  # t = 2, 1
    assert steps(mask=np.zeros((2, 3), bool)) == 1
    assert steps([2, 2], mask=mask, reverse=True) == 1  # begins at the longest row's end


def test_rank_0_outputs():
    """Rank-0 outputs gain a time axis only, and are 0 past the longest row."""
    cell = rnn.EmitState(toys.PlusOne())
    (_, states), _ = rnn.dynamic_rnn(cell, {}, np.zeros((2, 3, 1)), [1, 2])
    assert states["steps"].tolist() == [1, 2, 0]
    assert states["row"].tolist() == [[1, 0, 0], [1, 2, 0]]


def test_rank_0_leaves_are_not_reset():
    """A leaf that the batch shares has no rows to reset."""
    resets = np.ones((2, 3), bool)
    outputs = rnn.dynamic_rnn(toys.PlusOne(), {}, np.zeros((2, 3, 1)), resets=resets)[1]
    assert int(outputs["steps"]) == 3 and outputs["row"].tolist() == [1, 1]


@toys.config
class KeyBits(toys.Sum):
    """Outputs the bits of the keys of `prepare` and of each step."""

    def prepare(self, params, *, key=None, batch_shape):
        return jax.random.key_data(key), batch_shape

    def step(self, params, projected, state, *, key=None):
        bits = jnp.concatenate([params[0], jax.random.key_data(key)])
        return jnp.broadcast_to(bits, (*state.shape[:1], 4)), state

    __call__ = toys.Sum.__call__


@pytest.mark.parametrize("reverse", [False, True])
def test_keys_depend_on_the_index_of_the_step(reverse):
    """Step t receives fold_in(key, t) in both directions, `prepare` fold_in(key, 2**31 - 1)."""
    key = jax.random.key(5)
    outputs, _ = rnn.dynamic_rnn(KeyBits(), {}, X, [5, 5], key=key, reverse=reverse)

    def data(n):
        return jax.random.key_data(jax.random.fold_in(key, n)).tolist()

    for t in range(5):
        assert outputs[0, t].tolist() == data(2**31 - 1) + data(t)


def test_keys_of_layers_and_directions():
    """Directions, layers of bidirectional stacks and layers of stacks have folded keys."""
    key, cell = jax.random.key(5), KeyBits()
    fold = jax.random.fold_in

    def alone(key, **o):
        return rnn.dynamic_rnn(cell, {}, X, key=key, **o)[0].tolist()

    fw, bw = rnn.bidirectional_dynamic_rnn(cell, cell, {"fw": {}, "bw": {}}, X, key=key)[0]
    assert fw.tolist() == alone(fold(key, 0))
    assert bw.tolist() == alone(fold(key, 1), reverse=True)
    for layer in (0, 1):
        cells = [toys.Sum()] * layer + [cell]
        params = {f"cell_{i}": {"fw": {}, "bw": {}} for i in range(layer + 1)}
        both, _, _ = rnn.stack_bidirectional_dynamic_rnn(cells, cells, params, X, key=key)
        assert both[..., :4].tolist() == alone(fold(fold(key, layer), 0))
    stack = rnn.MultiRNNCell([rnn.ResidualWrapper(toys.Sum(), residual_fn=lambda x, y: x), cell])
    outputs, _ = rnn.dynamic_rnn(stack, {"cell_0": {}, "cell_1": {}}, X, key=key)
    expected = jax.random.key_data(fold(fold(key, 3), 1)).tolist()
    assert outputs[0, 3, 2:].tolist() == expected


@pytest.mark.parametrize("remat", [1, 2, 3, 7, "sqrt", "offload"])
@pytest.mark.parametrize("reverse", [False, True])
def test_remat_and_unroll_do_not_change_results(remat, reverse):
    """Results and gradients are the same with any `remat` and `unroll`."""
    cell = rnn.LSTMCell(4)
    inputs = np.random.default_rng(0).normal(size=(3, 7, 2))
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)

    @jax.jit
    def both(params, inputs):
        def loss(params, inputs, **options):
            outputs, state = rnn.dynamic_rnn(
                cell, params, inputs, [7, 4, 0], reverse=reverse, **options
            )
            return jnp.sin(outputs).sum() + jnp.cos(state.c).sum()

        gradient = jax.value_and_grad(loss, (0, 1))
        return gradient(params, inputs), gradient(params, inputs, remat=remat, unroll=3)

    plain, other = both(params, inputs)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("engine, factor", [("scan", 10), ("blocked", 2)])
def test_remat_saves_memory(engine, factor):
    """With `remat="sqrt"`, a gradient over 400 steps needs less memory by `factor`.

    The factor of `blocked` is smaller: even without remat, it saves only the state of each step.
    """
    cell = rnn.LSTMCell(16)
    inputs = jax.ShapeDtypeStruct((8, 400, 4), jnp.float32)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape))

    def temporary(remat):
        def loss(params, inputs):
            run = rnn.dynamic_rnn(cell, params, inputs, remat=remat, implementation=engine)
            return run[1].h.sum()

        compiled = jax.jit(jax.grad(loss)).lower(params, inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary("sqrt") < temporary(None) / factor
