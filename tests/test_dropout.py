"""DropoutWrapper: which masks are drawn, and where they fall."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import jax_dynrnn as rnn

B, T, D, H = 3, 4, 50, 60
ONES = np.ones((B, T, D))
KEY = jax.random.key(3)
TF1_INPUTS = np.array([[[2.0] * 3, [1.0] * 3]])


@toys.config
class Echo(rnn.Cell):
    """Outputs its inputs, and keeps a state of ones."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*toys.batch_of(batch_shape), D), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        return inputs, jnp.ones_like(state)


def echo(*keep, key=KEY, inputs=ONES, lengths=None, cell=None, **options):
    cell = rnn.EmitState(rnn.DropoutWrapper(cell or Echo(), *keep, **options))
    (outputs, states), _ = rnn.dynamic_rnn(cell, {}, inputs, lengths, key=key)
    return np.asarray(outputs), np.asarray(states)


def is_a_quarter(outputs):
    """Of two masks of a half each: one of them twice would keep a half."""
    assert set(np.unique(outputs)) == {0.0, 4.0}
    assert abs((outputs > 0).mean() - 0.25) < 0.125


def test_kept_values_are_scaled():
    for keep in [(0.25,), (1.0, 0.25)]:
        outputs, states = echo(*keep)
        assert set(np.unique(outputs)) == {0.0, 4.0}
        assert abs((outputs > 0).mean() - 0.25) < 0.08
        assert (states == 1).all()
    outputs, states = echo(1.0, 1.0, 0.25)
    assert (outputs == 1).all() and set(np.unique(states)) == {0.0, 4.0}


@pytest.mark.parametrize("keep", [(0.5,), (1.0, 0.5), (1.0, 1.0, 0.5)])
def test_masks_in_time_and_batch(keep):
    """Fresh for each step; one for a run if variational, shared by the batch or not."""
    which = 1 if len(keep) == 3 else 0
    fresh = echo(*keep)[which] > 0
    shared = echo(*keep, variational_recurrent=True)[which] > 0
    rows = echo(*keep, variational_recurrent=True, variational_per_row=True)[which] > 0
    assert (fresh[:, 0] != fresh[:, 1]).any() and (fresh[0] != fresh[1]).any()
    assert (shared == shared[:1, :1]).all() and shared.any() and not shared.all()
    assert (rows == rows[:, :1]).all() and (rows[0] != rows[1]).any()


def test_inputs_outputs_and_state_have_their_own_masks():
    outputs, states = echo(0.5, 1.0, 0.5, variational_recurrent=True)
    twice, _ = echo(0.5, 0.5, variational_recurrent=True)
    assert ((outputs > 0) != (states > 0)).any()
    is_a_quarter(twice)


def test_the_key_decides():
    assert (echo(0.5)[0] == echo(0.5)[0]).all()
    assert (echo(0.5)[0] != echo(0.5, key=jax.random.key(4))[0]).any()
    assert (echo(0.5, 0.5, 0.5, key=None)[0] == 1).all()


def test_masks_do_not_depend_on_lengths_or_padding():
    whole = echo(0.5, 0.5)[0]
    short = echo(0.5, 0.5, lengths=[4, 2, 0])[0]
    padded = echo(0.5, 0.5, inputs=np.concatenate([ONES, ONES], 1), lengths=[4, 4, 4])[0]
    assert (short[0] == whole[0]).all() and (short[1, :2] == whole[1, :2]).all()
    assert (padded[:, :T] == whole).all()


def test_nested_wrappers_draw_apart():
    outputs, _ = echo(0.5, cell=rnn.DropoutWrapper(Echo(), 0.5))
    is_a_quarter(outputs)


def test_layers_draw_apart():
    cell = rnn.MultiRNNCell([rnn.DropoutWrapper(Echo(), 0.5)] * 2)
    outputs, _ = rnn.dynamic_rnn(cell, {"cell_0": {}, "cell_1": {}}, ONES, key=KEY)
    is_a_quarter(outputs)


@pytest.mark.parametrize("variational", [False, True])
def test_every_draw_has_a_key_of_its_own(monkeypatch, variational):
    """Of all wrappers in each other and in a stack, and of the cells in them."""
    keys, draw = [], jax.random.bernoulli

    def drawn(key, *rest):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return draw(key, *rest)

    monkeypatch.setattr(jax.random, "bernoulli", drawn)
    every = {"variational_recurrent": variational, "dropout_state_filter_visitor": lambda s: True}
    dropped = lambda cell: rnn.DropoutWrapper(cell, 0.5, 0.5, 0.5, **every)  # noqa: E731
    attention = rnn.AttentionWrapper(dropped(rnn.LSTMCell(4)), rnn.LuongAttention(4, memory_size=3))
    inside = [
        rnn.ZoneoutWrapper(dropped(rnn.LSTMCell(4)), state_keep_prob=0.5),
        rnn.AttentionCellWrapper(dropped(rnn.LSTMCell(4)), 2),
        rnn.NTMCell(dropped(rnn.LSTMCell(4)), 5, 4, 1, 1),
        rnn.HighwayWrapper(dropped(rnn.LayerNormLSTMCell(4))),
        rnn.LayerNormBasicLSTMCell(4, dropout_keep_prob=0.5),
        dropped(dropped(rnn.ResidualWrapper(rnn.LSTMCell(4)))),
    ]
    cell = rnn.MultiRNNCell([*inside, attention])
    params = cell.attend(cell.init(jax.random.key(0), (2, 4)), jnp.ones((2, 5, 3), "f"))
    state = cell.start(params, (2,), jnp.float32)
    params = cell.prepare(params, key=jax.random.fold_in(KEY, 0), batch_shape=(2,))
    cell.step(params, cell.project(params, jnp.ones((2, 4), "f")), state, key=KEY)
    masks = 7 * 4 + 2 + 1  # inputs, outputs, c and h; zoneout's c and h; the layer norm's own
    assert len(keys) == len({*keys}) == masks


def lstm(*keep, **options):
    cell = rnn.DropoutWrapper(rnn.LSTMCell(H), *keep, **options)
    params = cell.init(jax.random.key(0), ONES.shape, jnp.float64)
    (outputs, states), _ = rnn.dynamic_rnn(rnn.EmitState(cell), params, ONES, key=KEY)
    return outputs, states


def test_output_dropout_leaves_the_state():
    plain, states = lstm()
    dropped, same = lstm(1.0, 0.5)
    np.testing.assert_array_equal(states.h, same.h)
    np.testing.assert_array_equal(states.c, same.c)
    np.testing.assert_allclose(dropped, np.where(dropped == 0, 0, 2 * plain))
    assert (dropped == 0).any() and (dropped != 0).any()


def test_state_dropout_spares_the_memory_and_this_output():
    """Of an LSTM h is dropped and c is not; the output of the same step is whole."""
    plain, states = lstm()
    outputs, dropped = lstm(1.0, 1.0, 0.5)
    np.testing.assert_allclose(outputs[:, 0], plain[:, 0], rtol=1e-12)
    np.testing.assert_allclose(dropped.c[:, 0], states.c[:, 0], rtol=1e-12)
    assert (dropped.h == 0).any() and not (dropped.c == 0).any()


def test_the_filter_chooses():
    """It sees the state from the top down, and may answer for parts."""
    seen = []

    def visitor(substate):
        seen.append(type(substate).__name__)
        if isinstance(substate, rnn.LSTMStateTuple):
            return rnn.LSTMStateTuple(c=True, h=False)
        return True

    _, states = lstm(1.0, 1.0, 0.5, dropout_state_filter_visitor=visitor)
    assert (states.c == 0).any() and not (states.h == 0).any()
    assert seen[0] == "LSTMStateTuple" and len(seen) >= 2
    _, states = lstm(1.0, 1.0, 0.5, dropout_state_filter_visitor=lambda s: False)
    assert not (states.c == 0).any() and not (states.h == 0).any()


def test_the_filters_answers():
    """Bools of NumPy are bools, lists are as tuples; all else is refused, by name."""

    def states(answer, cell=None):
        of_parts = lambda s: answer if isinstance(s, tuple) else True  # noqa: E731
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
    """TF1's DropoutWrapperTest: kernels of 0.5, inputs of 2 and 1, all kept."""
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
    """TF1's KeepNoStateExceptLSTMCellMemory."""
    cell = rnn.DropoutWrapper(rnn.LSTMCell(3), 1.0, 1.0, 1e-12)
    params = {"kernel": np.full((6, 12), 0.5), "bias": np.zeros(12)}
    start = rnn.LSTMStateTuple(np.full((1, 3), 0.1), np.full((1, 3), 0.1))
    outputs, state = rnn.dynamic_rnn(cell, params, TF1_INPUTS, None, start, key=KEY)
    assert not state.h.any()
    np.testing.assert_allclose(outputs[0, 0], [0.751109] * 3, atol=1e-6)
    np.testing.assert_allclose(state.c, [[1.713925] * 3], atol=1e-6)
