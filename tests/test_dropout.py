"""DropoutWrapper: which masks are drawn, and what they are applied to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from cases import CASES, perturbed
from laws import close

import jax_dynrnn as rnn
from jax_dynrnn._cell import StagedCell, run_stages

B, T, D, H = 3, 4, 50, 60
ONES = np.ones((B, T, D))
KEY = jax.random.key(3)
TF1_INPUTS = np.array([[[2.0] * 3, [1.0] * 3]])


@toys.config
class Echo(rnn.Cell):
    """Returns its inputs and a new state of ones, so that masks can be read from both."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*toys.batch_of(batch_shape), D), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        return inputs, jnp.ones_like(state)


def echo(*keep, key=KEY, inputs=ONES, lengths=None, cell=None, **options):
    """Outputs and states of each step of an `Echo` with dropout."""
    cell = rnn.EmitState(rnn.DropoutWrapper(cell or Echo(), *keep, **options))
    (outputs, states), _ = rnn.dynamic_rnn(cell, {}, inputs, lengths, key=key)
    return np.asarray(outputs), np.asarray(states)


def assert_keeps_a_quarter(outputs):
    """Asserts that two independent masks of 1/2 were applied: one mask twice would keep 1/2."""
    assert set(np.unique(outputs)) == {0.0, 4.0}
    assert abs((outputs > 0).mean() - 0.25) < 0.125


def test_kept_values_are_scaled():
    """Kept elements of inputs, outputs and state are divided by the probability of keeping."""
    for keep in [(0.25,), (1.0, 0.25)]:
        outputs, states = echo(*keep)
        assert set(np.unique(outputs)) == {0.0, 4.0}
        assert abs((outputs > 0).mean() - 0.25) < 0.08
        assert (states == 1).all()
    outputs, states = echo(1.0, 1.0, 0.25)
    assert (outputs == 1).all() and set(np.unique(states)) == {0.0, 4.0}


@pytest.mark.parametrize("keep", [(0.5,), (1.0, 0.5), (1.0, 1.0, 0.5)])
def test_masks_in_time_and_batch(keep):
    """A mask per step and row; if variational one for all steps, and per row only on request."""
    which = 1 if len(keep) == 3 else 0
    fresh = echo(*keep)[which] > 0
    shared = echo(*keep, variational_recurrent=True)[which] > 0
    rows = echo(*keep, variational_recurrent=True, variational_per_row=True)[which] > 0
    assert (fresh[:, 0] != fresh[:, 1]).any() and (fresh[0] != fresh[1]).any()
    assert (shared == shared[:1, :1]).all() and shared.any() and not shared.all()
    assert (rows == rows[:, :1]).all() and (rows[0] != rows[1]).any()


def test_inputs_outputs_and_state_have_their_own_masks():
    """Masks of inputs, outputs and state are independent."""
    outputs, states = echo(0.5, 1.0, 0.5, variational_recurrent=True)
    twice, _ = echo(0.5, 0.5, variational_recurrent=True)
    assert ((outputs > 0) != (states > 0)).any()
    assert_keeps_a_quarter(twice)


def test_the_key_decides():
    """Equal keys draw equal masks, other keys others, and without a key nothing is dropped."""
    assert (echo(0.5)[0] == echo(0.5)[0]).all()
    assert (echo(0.5)[0] != echo(0.5, key=jax.random.key(4))[0]).any()
    assert (echo(0.5, 0.5, 0.5, key=None)[0] == 1).all()


def test_masks_do_not_depend_on_lengths_or_padding():
    """A step has the same mask with other lengths, or in a longer batch."""
    whole = echo(0.5, 0.5)[0]
    short = echo(0.5, 0.5, lengths=[4, 2, 0])[0]
    padded = echo(0.5, 0.5, inputs=np.concatenate([ONES, ONES], 1), lengths=[4, 4, 4])[0]
    assert (short[0] == whole[0]).all() and (short[1, :2] == whole[1, :2]).all()
    assert (padded[:, :T] == whole).all()


def test_nested_wrappers_draw_independently():
    """A wrapper inside of another one draws another mask."""
    outputs, _ = echo(0.5, cell=rnn.DropoutWrapper(Echo(), 0.5))
    assert_keeps_a_quarter(outputs)


def test_layers_draw_independently():
    """Equal layers of a stack draw different masks."""
    cell = rnn.MultiRNNCell([rnn.DropoutWrapper(Echo(), 0.5)] * 2)
    outputs, _ = rnn.dynamic_rnn(cell, {"cell_0": {}, "cell_1": {}}, ONES, key=KEY)
    assert_keeps_a_quarter(outputs)


@pytest.mark.parametrize("variational", [False, True])
def test_every_draw_has_its_own_key(monkeypatch, variational):
    """No two masks of nested wrappers and cells in a stack are drawn with the same key."""
    keys, draw = [], jax.random.bernoulli

    def drawn(key, *rest):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return draw(key, *rest)

    monkeypatch.setattr(jax.random, "bernoulli", drawn)
    every = {"variational_recurrent": variational, "dropout_state_filter_visitor": lambda s: True}

    def dropped(cell):
        return rnn.DropoutWrapper(cell, 0.5, 0.5, 0.5, **every)

    attention = rnn.AttentionWrapper(dropped(rnn.LSTMCell(4)), rnn.LuongAttention(4, memory_size=3))
    inside = [
        rnn.ZoneoutWrapper(dropped(rnn.LSTMCell(4)), state_keep_prob=0.5),
        rnn.AttentionCellWrapper(dropped(rnn.LSTMCell(4)), 2),
        rnn.NTMCell(dropped(rnn.LSTMCell(4)), 5, 4, 1, 1),
        rnn.HighwayWrapper(dropped(rnn.LayerNormLSTMCell(4))),
        rnn.LayerNormBasicLSTMCell(4, dropout_keep_prob=0.5),
        dropped(dropped(rnn.ResidualWrapper(rnn.LSTMCell(4)))),
        rnn.DropoutWrapper(
            dropped(rnn.GRUCell(4)), 0.5, 0.5, 0.5, recurrent_keep_prob=0.5, **every
        ),
    ]
    cell = rnn.MultiRNNCell([*inside, attention])
    params = cell.attend(cell.init(jax.random.key(0), (2, 4)), jnp.ones((2, 5, 3), "f"))
    state = cell.start(params, (2,), jnp.float32)
    params = cell.prepare(params, key=jax.random.fold_in(KEY, 0), batch_shape=(2,))
    cell.step(params, cell.project(params, jnp.ones((2, 4), "f")), state, key=KEY)
    masks = 7 * 4 + 2 + 1  # inputs, outputs, c and h; zoneout's c and h; the layer norm's own
    masks += 2 * 3 + 1  # of a GRU: inputs, outputs, state, and the recurrent one
    assert len(keys) == len({*keys}) == masks


def lstm(*keep, **options):
    cell = rnn.DropoutWrapper(rnn.LSTMCell(H), *keep, **options)
    params = cell.init(jax.random.key(0), ONES.shape, jnp.float64)
    (outputs, states), _ = rnn.dynamic_rnn(rnn.EmitState(cell), params, ONES, key=KEY)
    return outputs, states


def test_output_dropout_leaves_the_state():
    """Output dropout scales or drops outputs, and does not change the state."""
    plain, states = lstm()
    dropped, same = lstm(1.0, 0.5)
    np.testing.assert_array_equal(states.h, same.h)
    np.testing.assert_array_equal(states.c, same.c)
    np.testing.assert_allclose(dropped, np.where(dropped == 0, 0, 2 * plain))
    assert (dropped == 0).any() and (dropped != 0).any()


def test_state_dropout_affects_neither_c_nor_the_same_output():
    """State dropout of an LSTM drops h but not c, and not the output of the same step."""
    plain, states = lstm()
    outputs, dropped = lstm(1.0, 1.0, 0.5)
    np.testing.assert_allclose(outputs[:, 0], plain[:, 0], rtol=1e-12)
    np.testing.assert_allclose(dropped.c[:, 0], states.c[:, 0], rtol=1e-12)
    assert (dropped.h == 0).any() and not (dropped.c == 0).any()


def test_the_filter_selects_state_leaves():
    """`dropout_state_filter_visitor` is called top-down, and may answer for each part."""
    visited = []

    def visitor(substate):
        visited.append(type(substate).__name__)
        if isinstance(substate, rnn.LSTMStateTuple):
            return rnn.LSTMStateTuple(c=True, h=False)
        return True

    _, states = lstm(1.0, 1.0, 0.5, dropout_state_filter_visitor=visitor)
    assert (states.c == 0).any() and not (states.h == 0).any()
    assert visited[0] == "LSTMStateTuple" and len(visited) >= 2
    _, states = lstm(1.0, 1.0, 0.5, dropout_state_filter_visitor=lambda s: False)
    assert not (states.c == 0).any() and not (states.h == 0).any()


def test_return_values_of_the_filter():
    """The filter may return bools, NumPy bools, tuples or lists of them; others are refused."""

    def states(answer, cell=None):
        def of_parts(s):
            return answer if isinstance(s, tuple) else True

        visitor = answer if callable(answer) else of_parts
        return jax.tree.leaves(lstm(1.0, 1.0, 0.5, dropout_state_filter_visitor=visitor)[1])

    only_h = states(rnn.LSTMStateTuple(c=False, h=True))
    assert (only_h[1] == 0).any() and not (only_h[0] == 0).any()
    for answer in ((False, True), [np.False_, np.True_], lambda s: np.bool_(s is not None)):
        expected = only_h if not callable(answer) else states(lambda s: True)
        for a, b in zip(states(answer), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    for answer in (None, {"c": False, "h": True}, (True,), (None, True), lambda s: [True]):
        with pytest.raises(TypeError, match="visitor to return a bool, or one for each part of"):
            states(answer)


def test_tf1_keeps_everything_golden():
    """Numbers of TF1's DropoutWrapperTest: kernels of 0.5, inputs of 2 and 1, nothing dropped."""
    cell = rnn.DropoutWrapper(
        rnn.LSTMCell(3), **dict.fromkeys(("input_keep_prob", "output_keep_prob"), 1 - 1e-12)
    )
    params = {"kernel": np.full((6, 12), 0.5), "bias": np.zeros(12)}
    start = rnn.LSTMStateTuple(np.full((1, 3), 0.1), np.full((1, 3), 0.1))
    outputs, state = rnn.dynamic_rnn(cell, params, TF1_INPUTS, None, start, key=KEY)
    np.testing.assert_allclose(outputs[0], [[0.751109] * 3, [0.895509] * 3], atol=1e-6)
    np.testing.assert_allclose(state.c, [[1.949385] * 3], atol=1e-6)
    np.testing.assert_allclose(state.h, [[0.895509] * 3], atol=1e-6)


def test_tf1_drops_all_state_but_the_memory_golden():
    """Numbers of TF1's testDropoutWrapperKeepNoStateExceptLSTMCellMemory."""
    cell = rnn.DropoutWrapper(rnn.LSTMCell(3), 1.0, 1.0, 1e-12)
    params = {"kernel": np.full((6, 12), 0.5), "bias": np.zeros(12)}
    start = rnn.LSTMStateTuple(np.full((1, 3), 0.1), np.full((1, 3), 0.1))
    outputs, state = rnn.dynamic_rnn(cell, params, TF1_INPUTS, None, start, key=KEY)
    assert not state.h.any()
    np.testing.assert_allclose(outputs[0, 0], [0.751109] * 3, atol=1e-6)
    np.testing.assert_allclose(state.c, [[1.713925] * 3], atol=1e-6)


def recurrent_mask(keep_prob, units=H):
    """The mask of recurrent dropout in a run with `KEY`, derived from the key alone."""
    key = jax.random.fold_in(jax.random.fold_in(KEY, 2**31 - 1), 4)
    return np.asarray(jax.random.bernoulli(key, keep_prob, (B, units)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(params, x, state, drop):
    z = np.concatenate([x, drop(state.h)], 1) @ params["kernel"] + params["bias"]
    i, j, f, o = np.split(z, 4, 1)
    c = sigmoid(f + 1) * state.c + sigmoid(i) * np.tanh(j)
    h = sigmoid(o) * np.tanh(c)
    return h, rnn.LSTMStateTuple(c, h)


def numpy_gru(params, x, h, drop):
    gates, candidate = params["gates"], params["candidate"]
    z = np.concatenate([x, drop(h)], 1) @ gates["kernel"] + gates["bias"]
    r, u = np.split(sigmoid(z), 2, 1)
    c = np.concatenate([x, drop(r * h)], 1) @ candidate["kernel"] + candidate["bias"]
    h = u * h + (1 - u) * np.tanh(c)
    return h, h


def numpy_cudnn_gru(params, x, h, drop):
    gates, candidate = params["gates"], params["candidate"]
    inputs, hidden = candidate["input_projection"], candidate["hidden_projection"]
    z = np.concatenate([x, drop(h)], 1) @ gates["kernel"] + gates["bias"]
    r, u = np.split(sigmoid(z), 2, 1)
    c = drop(h) @ hidden["kernel"] + hidden["bias"]
    h = u * h + (1 - u) * np.tanh(x @ inputs["kernel"] + inputs["bias"] + r * c)
    return h, h


RECURRENT = {
    "lstm": (rnn.LSTMCell(H), numpy_lstm),
    "gru": (rnn.GRUCell(H), numpy_gru),
    "cudnn gru": (rnn.CudnnCompatibleGRUCell(H), numpy_cudnn_gru),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_dropout_agrees_with_numpy(name):
    """One mask of `h` for all steps, variational or not, equals a NumPy loop; none without key."""
    cell, step = RECURRENT[name]
    random, lengths, keep = np.random.default_rng(0), np.array([4, 2, 0]), 0.6
    inputs = random.normal(size=(B, T, D))
    params = perturbed(cell.init(jax.random.key(0), inputs.shape, jnp.float64), 1)
    params, start = jax.tree.map(np.asarray, (params, perturbed(cell.zero_state(B, float), 2)))
    mask = recurrent_mask(keep)
    state, outputs = start, np.zeros((B, T, H))
    for t in range(T):
        output, new = step(params, inputs[:, t], state, lambda h: np.where(mask, h / keep, 0))
        valid = (t < lengths)[:, None]
        outputs[:, t] = np.where(valid, output, 0)
        state = jax.tree.map(lambda n, s, valid=valid: np.where(valid, n, s), new, state)
    for flags in ({}, {"variational_recurrent": True}):
        dropped = rnn.DropoutWrapper(cell, recurrent_keep_prob=keep, **flags)
        actual = rnn.dynamic_rnn(dropped, params, inputs, lengths, start, key=KEY)
        close(actual, (outputs, state), 1e-12)
    evaluated = rnn.dynamic_rnn(dropped, params, inputs, lengths, start)
    close(evaluated, rnn.dynamic_rnn(cell, params, inputs, lengths, start), 0)


GRIDS = rnn.GridLSTMCell, rnn.BidirectionalGridLSTMCell, rnn.TimeFreqLSTMCell
STAGED = [
    case for case in CASES
    if isinstance(case.cell, StagedCell) and getattr(case.cell, "dropout_keep_prob", 1.0) == 1.0
]  # fmt: skip


def is_recurrent(cell, i):
    """Whether matmul i has a recurrent kernel, rather than a projection or a peephole."""
    if isinstance(cell, rnn.GLSTMCell):
        return i < cell.number_of_groups
    return i == 0 or isinstance(cell, (rnn.GRUCell, *GRIDS))


@pytest.mark.parametrize("case", STAGED, ids=lambda case: case.name)
def test_recurrent_dropout_of_every_staged_cell(case):
    """If all is dropped, recurrent kernels receive zeros, and everything else is unchanged."""
    cell, params, state = case.cell, case.params("float64"), case.state("float64")
    if cell.recurrent_input(state) is None:
        with pytest.raises(TypeError, match=f"recurrent kernel .*got {type(cell).__name__};"):
            rnn.DropoutWrapper(cell, recurrent_keep_prob=0.5)
        return
    x = jax.tree.map(lambda x: x[:, 0], case.inputs("float64"))

    def multiply(i, x, kernel):
        if is_recurrent(
            cell, i
        ):  # a grid also multiplies the previous window's output, which is not dropped
            x = x.at[..., : cell.num_units if isinstance(cell, GRIDS) else None].set(0)
        return x @ kernel

    prepared = cell.prepare(params, batch_shape=(4,))
    expected = run_stages(cell.stages(prepared, cell.project(prepared, x), state), multiply)
    dropped = rnn.DropoutWrapper(cell, recurrent_keep_prob=1e-12)
    close(dropped(params, x, state, key=KEY), expected, 1e-12)


def test_recurrent_masks_of_windows_and_groups():
    """Windows of a grid and groups of a grouped LSTM have masks of their own."""
    time_freq = rnn.TimeFreqLSTMCell(9, input_size=4, feature_size=2, frequency_skip=2)
    grid = rnn.GridLSTMCell(9, feature_size=2, num_frequency_blocks=[2], frequency_skip=2)
    for cell in (time_freq, grid, rnn.GLSTMCell(18, number_of_groups=2)):
        dropped = rnn.DropoutWrapper(cell, recurrent_keep_prob=0.5)
        mask = dropped.prepare(dropped.init(KEY, (B, 4)), key=KEY, batch_shape=(B,)).recurrent
        assert mask.shape == (B, 18) and (mask[:, :9] != mask[:, 9:]).any()


AROUND = {
    "residual": rnn.ResidualWrapper,
    "learned": rnn.LearnedInitialState,
    "emit": rnn.EmitState,
    "highway": rnn.HighwayWrapper,
    "zoneout": lambda cell: rnn.ZoneoutWrapper(cell, state_keep_prob=0.5),
    "dropout": lambda cell: rnn.DropoutWrapper(cell, 0.5, 0.5, 0.5),
    "recurrent": lambda cell: rnn.DropoutWrapper(cell, recurrent_keep_prob=0.5),
    "projections": lambda cell: rnn.OutputProjectionWrapper(rnn.InputProjectionWrapper(cell, 3), 2),
    "attention": lambda cell: rnn.AttentionCellWrapper(cell, 2),
    "memory": lambda cell: rnn.AttentionWrapper(cell, rnn.LuongAttention(4, memory_size=3)),
    "layer norm": lambda cell: rnn.LayerNormBasicLSTMCell(4, dropout_keep_prob=0.5),
}


@pytest.mark.parametrize("name", AROUND)
def test_recurrent_dropout_reaches_the_inner_cell(name):
    """Dropping all of `h` equals zero rows of its kernel, with all other draws unchanged."""
    inside = AROUND[name](rnn.LSTMCell(4))
    whole, dropped = (
        rnn.DropoutWrapper(inside, 0.5, 0.5, 0.5, recurrent_keep_prob=keep) for keep in (1.0, 1e-12)
    )
    inputs = np.random.default_rng(0).normal(size=(2, 3, 4))
    params = perturbed(whole.init(jax.random.key(0), inputs.shape, jnp.float64), 1)
    without = jax.tree.map(lambda x: x.at[-4:].set(0) if x.shape[1:] == (16,) else x, params)
    if name == "memory":
        params, without = (whole.attend(p, np.ones((2, 5, 3))) for p in (params, without))
    expected = rnn.dynamic_rnn(whole, without, inputs, [3, 2], key=KEY)
    close(rnn.dynamic_rnn(dropped, params, inputs, [3, 2], key=KEY), expected, 1e-12)
    undropped = rnn.dynamic_rnn(whole, params, inputs, [3, 2], key=KEY)
    assert any(
        (a != b).any() for a, b in zip(*map(jax.tree.leaves, (undropped, expected)), strict=True)
    )


GRU = rnn.GRUCell(6)
DROPPED = rnn.DropoutWrapper(GRU, recurrent_keep_prob=0.5)
X = np.random.default_rng(1).normal(size=(B, T, 5))
PARAMS = perturbed(GRU.init(jax.random.key(0), X.shape, jnp.float64), 1)


def test_recurrent_dropout_does_not_change_other_draws():
    """Masks of inputs, outputs and state are the same with and without recurrent dropout."""
    for variational in (False, True):
        kept, without = (
            rnn.dynamic_rnn(
                rnn.DropoutWrapper(
                    GRU, 0.5, 0.5, 0.5, recurrent_keep_prob=keep, variational_recurrent=variational
                ),
                PARAMS, X, key=KEY,
            )
            for keep in (1 - 1e-14, 1.0)
        )  # fmt: skip
        close(kept, without, 1e-12)


def test_recurrent_masks_do_not_depend_on_the_run():
    """Recurrent masks are the same for other lengths, padding, direction, or single steps."""
    outputs, state = rnn.dynamic_rnn(DROPPED, PARAMS, X, key=KEY)
    padded = np.concatenate([X, X], 1)
    close(rnn.dynamic_rnn(DROPPED, PARAMS, padded, [T] * B, key=KEY)[1], state, 1e-12)
    short = rnn.dynamic_rnn(DROPPED, PARAMS, X, [2, 4, 1], key=KEY)[0]
    np.testing.assert_allclose(short[0, :2], outputs[0, :2], rtol=1e-12)
    flipped, _ = rnn.dynamic_rnn(DROPPED, PARAMS, X[:, ::-1], reverse=True, key=KEY)
    close(flipped[:, ::-1], outputs, 1e-12)
    stepped = DROPPED.zero_state(B, jnp.float64)
    for t in range(T):  # a single step draws its mask from its key: the same one at each step
        _, stepped = DROPPED(PARAMS, X[:, t], stepped, key=KEY)
    close(stepped, state, 1e-12)


def test_recurrent_masks_of_directions_and_layers():
    """Directions and layers have masks of their own; `blocked` then runs no layer of a stack."""
    both = {"fw": PARAMS, "bw": PARAMS}
    actual = rnn.bidirectional_dynamic_rnn(DROPPED, DROPPED, both, X, key=KEY)
    keys = [jax.random.fold_in(KEY, i) for i in (0, 1)]
    forward = rnn.dynamic_rnn(DROPPED, PARAMS, X, key=keys[0])
    backward = rnn.dynamic_rnn(DROPPED, PARAMS, X, reverse=True, key=keys[1])
    close(actual, tuple(zip(forward, backward, strict=True)), 1e-12)
    cell = rnn.MultiRNNCell([rnn.DropoutWrapper(rnn.LSTMCell(6), recurrent_keep_prob=0.5)] * 2)
    params = cell.init(KEY, X.shape, jnp.float64)
    prepared = cell.prepare(params, key=KEY, batch_shape=(B,))
    assert (prepared["cell_0"].recurrent != prepared["cell_1"].recurrent).any()
    reasons = rnn.explain(cell, params, X, key=KEY).reasons
    assert "no layer of the stack" in reasons["blocked"]
    assert rnn.explain(cell, params, X).reasons["blocked"] is None


def test_blocked_refuses_recurrent_dropout_with_a_key():
    """With a key it is refused with a reason; without one, the inner cell runs on `blocked`."""
    close(
        rnn.dynamic_rnn(DROPPED, PARAMS, X, implementation="blocked"),
        rnn.dynamic_rnn(GRU, PARAMS, X, implementation="scan"),
        1e-12,
    )
    assert "recurrent_keep_prob" in rnn.explain(DROPPED, PARAMS, X, key=KEY).reasons["blocked"]
    with pytest.raises(NotImplementedError, match="recurrent_keep_prob masks"):
        rnn.dynamic_rnn(DROPPED, PARAMS, X, key=KEY, implementation="blocked")


def test_recurrent_dropout_keeps_a_gru_bounded():
    """Recurrent dropout stays below 1, while state dropout, scaled at every step, diverges."""

    def largest(**keep):
        cell = rnn.DropoutWrapper(rnn.GRUCell(64), variational_recurrent=True, **keep)
        x = jax.random.normal(jax.random.key(1), (2, 500, 8), jnp.float32)
        outputs, _ = rnn.dynamic_rnn(cell, cell.init(jax.random.key(0), x.shape), x, key=KEY)
        return np.abs(outputs).max(), np.abs(outputs[:, 100]).max()

    assert largest(recurrent_keep_prob=0.8)[0] < 1
    assert largest(state_keep_prob=0.8)[1] > 1e6


@toys.config
class Staged(StagedCell):
    """A user-defined vanilla RNN; unless `marked`, `stages` does not use `recurrent_input`."""

    marked: bool = True

    def init(self, key, input_shape, dtype=jnp.float32):
        return jax.random.normal(key, (input_shape[-1], input_shape[-1]), dtype)

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*toys.batch_of(batch_shape), 5), dtype)

    def recurrent_input(self, state):
        return state

    def stages(self, params, projected, state):
        h = self.recurrent_input(state) if self.marked else state
        new = jnp.tanh(projected + (yield h, params))
        return new, new


class Unmarked(Staged):
    """Does not say what its recurrent kernel multiplies."""

    recurrent_input = StagedCell.recurrent_input


def test_recurrent_dropout_of_a_user_defined_cell():
    """A cell with `recurrent_input` works; without it, or if `stages` ignores it, it is refused."""
    kernel, state = np.eye(5), np.ones((B, 5))
    cell = rnn.DropoutWrapper(Staged(), recurrent_keep_prob=0.25)
    output, _ = cell(kernel, X[:, 0], state, key=KEY)
    dropped = np.where(recurrent_mask(0.25, 5), 4.0, 0)
    np.testing.assert_allclose(output, np.tanh(X[:, 0] + dropped), rtol=1e-12)
    with pytest.raises(TypeError, match="recurrent kernel .*got Unmarked;"):
        rnn.DropoutWrapper(Unmarked(), recurrent_keep_prob=0.25)
    cell = rnn.DropoutWrapper(rnn.EmitState(Staged(marked=False)), recurrent_keep_prob=0.25)
    with pytest.raises(TypeError, match=r"stages of Staged to multiply self.recurrent_input\(s"):
        rnn.dynamic_rnn(cell, kernel, X, key=KEY)
