"""Memory of agents: `ScannedRNN`, `resets_from_done`, `segment_starts`, and `check_replay`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from laws import close

import jax_dynrnn as rnn
from jax_dynrnn import linen, testing
from jax_dynrnn import nnx as layers

T, B, D, H = 7, 3, 2, 4
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(T, B, D)).astype(np.float32)
DONE = RANDOM.random((T, B)) < 0.3
DONE[0, 0] = DONE[3, 1] = True
RESETS = np.concatenate([np.zeros((1, B), bool), DONE[:-1]])
LEARNED = rnn.LearnedInitialState(rnn.LSTMCell(H))
KEY = jax.random.key(0)


class Linen:
    def __init__(self, cell):
        self.layer = linen.ScannedRNN(cell)
        self.variables = self.layer.init(KEY, None, (INPUTS, RESETS))
        self.params = self.variables["params"]["cell"]

    def with_params(self, params):
        return lambda *given, **options: self.layer.apply(
            {"params": {"cell": params}}, *given, **options
        )

    def start(self, batch):
        return self.layer.apply(self.variables, batch, method="start")


class NNX:
    def __init__(self, cell):
        self.layer = layers.ScannedRNN(cell, in_features=D, rngs=nnx.Rngs(0))
        self.graph, state = nnx.split(self.layer)
        self.state = state
        self.params = jax.tree.map(
            lambda p: p.get_value(), self.layer.params, is_leaf=lambda x: isinstance(x, nnx.Param)
        )

    def with_params(self, params):
        def run(*given, **options):
            layer = nnx.merge(self.graph, self.state)
            layer.params = nnx.data(jax.tree.map(nnx.Param, params))
            return layer(*given, **options)

        return run

    def start(self, batch):
        return self.layer.start(batch)


both = pytest.mark.parametrize("kind", [Linen, NNX])


def hand_written(cell, params, carry, inputs, resets):
    """The scan over `(input, reset)` that code bases of reinforcement learning have."""
    start = cell.start(params, (B,), jnp.float32)

    def step(carry, x):
        inputs, reset = x
        carry = jax.tree.map(lambda s, c: jnp.where(reset[:, None], s, c), start, carry)
        output, carry = cell(params, inputs, carry)
        return carry, output

    return jax.lax.scan(step, carry, (inputs, resets))


@both
@pytest.mark.parametrize("cell", [rnn.GRUCell(H), LEARNED], ids=["gru", "learned"])
def test_the_calling_convention(kind, cell):
    """It computes what a scan by hand does, from a carry and from the start state."""
    layer = kind(cell)
    run = layer.with_params(layer.params)
    start = layer.start(B)
    carry = jax.tree.map(lambda x: x + jnp.asarray(RANDOM.normal(size=x.shape), x.dtype), start)
    expected = hand_written(cell, layer.params, carry, INPUTS, RESETS)
    close(run(carry, (INPUTS, RESETS)), expected, 1e-5)
    expected = hand_written(cell, layer.params, start, INPUTS, RESETS)
    close(run(None, (INPUTS, RESETS)), expected, 1e-5)
    masked = run(carry, (INPUTS, RESETS), mask=np.ones((T, B), bool), sequence_length=[7, 3, 0])
    assert not masked[1][3:, 1].any() and not masked[1][:, 2].any()


@both
def test_a_learned_initial_state_survives_a_reset(kind):
    """A reset gives the learned state its gradient; without one it has none if a carry is given."""
    layer = kind(LEARNED)
    carry = jax.tree.map(jnp.ones_like, layer.start(B))

    def loss(params, resets):
        return (layer.with_params(params)(carry, (INPUTS, resets))[1] ** 2).sum()

    def of_learned(resets):
        gradient = jax.grad(loss)(layer.params, resets)
        return [x for name, x in gradient.items() if name != "cell"]

    assert all(np.asarray(x).any() for x in jax.tree.leaves(of_learned(RESETS)))
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(of_learned(np.zeros_like(RESETS))))


@both
def test_a_nan_ends_with_its_episode(kind):
    """NaN in the carry reaches no step after a reset."""
    layer = kind(rnn.GRUCell(H))
    resets = np.zeros((T, B), bool)
    resets[2] = True
    carry = jnp.full((B, H), jnp.nan, jnp.float32)
    last, outputs = layer.with_params(layer.params)(carry, (INPUTS, resets))
    assert np.isnan(outputs[:2]).all()
    expected = layer.with_params(layer.params)(None, (INPUTS[2:], resets[2:]))
    close((last, outputs[2:]), expected, 1e-6)


@both
@pytest.mark.parametrize("size", range(1, T + 1))
def test_chunks_equal_the_whole(kind, size):
    """Chunks of any size, with the last done of a chunk handed to the next one."""
    layer = kind(rnn.GRUCell(H))
    run = layer.with_params(layer.params)
    carry, whole = run(None, (INPUTS, RESETS))
    state, previous, outputs = layer.start(B), np.zeros(B, bool), []
    for t in range(0, T, size):
        done = DONE[t : t + size]
        resets = rnn.resets_from_done(done, previous=previous, time_major=True)
        state, y = run(state, (INPUTS[t : t + size], resets))
        previous = done[-1]
        outputs.append(y)
    close((state, np.concatenate(outputs)), (carry, whole), 1e-6)


@both
def test_vmap_over_seeds(kind):
    """Params, carries and resets of several seeds in one `vmap`."""
    layer = kind(rnn.GRUCell(H))
    params = [jax.tree.map(lambda x, k=k: x * k, layer.params) for k in (1.0, 0.5)]
    carries, resets = RANDOM.normal(size=(2, B, H)).astype(np.float32), np.stack([RESETS, ~RESETS])

    def run(params, carry, resets):
        return layer.with_params(params)(carry, (INPUTS, resets))

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
    found = jax.vmap(run)(stacked, carries, resets)
    for i in range(2):
        one = run(params[i], carries[i], resets[i])
        close(jax.tree.map(lambda x, i=i: x[i], found), one, 1e-6)


@both
@pytest.mark.parametrize(
    "given, error, message",
    [
        (
            INPUTS,
            TypeError,
            r"inputs: expected a pair .* got ndarray; .*layer\(carry, \(inputs, re",
        ),
        ((INPUTS,), TypeError, "expected a pair .* got tuple of 1"),
        ((INPUTS, RESETS.T), ValueError, r"resets: expected shape \(7, 3\)"),
    ],
)
def test_invalid_steps(kind, given, error, message):
    layer = kind(rnn.GRUCell(H))
    with pytest.raises(error, match=message):
        layer.with_params(layer.params)(None, given)
    with pytest.raises(TypeError, match="time_major"):
        layer.with_params(layer.params)(None, (INPUTS, RESETS), time_major=True)


@pytest.mark.parametrize("time_major", [True, False])
def test_resets_from_done(time_major):
    """Flags move by one step, with those before the chunk at its first step."""
    previous = np.array([True, False, True])

    def both_ways(flags):
        return flags if time_major else flags.T

    found = rnn.resets_from_done(both_ways(DONE), previous=previous, time_major=time_major)
    expected = np.concatenate([previous[None], DONE[:-1]])
    np.testing.assert_array_equal(both_ways(np.asarray(found)), expected)
    numbers = rnn.resets_from_done(both_ways(DONE).astype(np.float32), time_major=time_major)
    np.testing.assert_array_equal(both_ways(np.asarray(numbers)), RESETS)
    ids = np.cumsum(DONE, 0)
    starts = rnn.segment_starts(both_ways(ids), time_major=time_major)
    same = np.concatenate([np.zeros((1, B), bool), DONE[1:]])
    np.testing.assert_array_equal(both_ways(np.asarray(starts)), same)
    assert rnn.resets_from_done(np.zeros((0, B), bool), time_major=True).shape == (0, B)


@pytest.mark.parametrize(
    "given, options, message",
    [
        (DONE[0], {}, r"done: expected bool \[batch, time\], got shape \(3,\)"),
        (DONE.T, {"previous": np.zeros(2, bool)}, r"previous: expected bool of shape \(3,\)"),
        (DONE.T * 2, {}, "done: expected flags, got numbers other than 0 and 1"),
    ],
)
def test_invalid_done_flags(given, options, message):
    with pytest.raises(ValueError, match=message):
        rnn.resets_from_done(given, **options)


# check_replay

CELL = rnn.GRUCell(H)
PARAMS = CELL.init(KEY, (D,))
FIRST = jnp.asarray(RANDOM.normal(size=(B, H)), jnp.float32)


def replay_from(state, previous=None):
    def replay(resets):
        outputs, _ = rnn.dynamic_rnn(
            CELL, PARAMS, INPUTS, initial_state=state, resets=resets, time_major=True
        )
        return {"log_prob": outputs[..., 0], "value": outputs[..., 1:]}

    return replay


def acted(previous=None, multiplies=False, first=FIRST):
    """What an agent records step by step."""
    state, recorded, done = first, [], np.zeros(B, bool) if previous is None else previous
    states = []
    for t in range(T):
        zero = jnp.zeros_like(state)
        state = jnp.where(done[:, None], zero, state)
        output, state = CELL(PARAMS, INPUTS[t], state)
        recorded.append({"log_prob": output[:, 0], "value": output[:, 1:]})
        states.append(state)
        done = DONE[t]
    return jax.tree.map(lambda *x: np.stack(x), *recorded), states


PREVIOUS = np.array([False, True, False])
PLANTED = {
    "the done of a step is its reset": (DONE, None, FIRST, "equal if resets come one step later."),
    "done is shifted late": (
        np.concatenate([np.zeros((1, B), bool), RESETS[:-1]]),
        None,
        FIRST,
        "equal if resets come one step earlier.",
    ),
    "the last done of the chunk before is dropped": (
        RESETS,
        PREVIOUS,
        FIRST,
        "the last done of the chunk before is missing",
    ),
    "the state after the first step is stored": (
        RESETS,
        None,
        "after the first step",
        "No other resets explain it. Is the first state the one before step 0",
    ),
    "no resets at all": (~RESETS & False, None, FIRST, "No other resets explain it"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_of_replays(name):
    """Each published error is named."""
    resets, previous, first, message = PLANTED[name]
    rollout, states = acted(previous)
    state = states[0] if isinstance(first, str) else first
    with pytest.raises(AssertionError, match=message) as raised:
        testing.check_replay(replay_from(state), resets, rollout)
    assert "at step" in str(raised.value) and "in the rollout" in str(raised.value)


def test_the_first_difference_is_named():
    """The first step that differs, its leaf, its row and both values."""
    rollout, _ = acted()
    rollout["value"][4, 1, 2] += 1
    rollout["log_prob"][5, 0] += 1
    value = rollout["value"][4, 1, 2]
    with pytest.raises(
        AssertionError, match=r"\['value'\] at step 4, row 1: .* in the replay"
    ) as e:
        testing.check_replay(replay_from(FIRST), RESETS, rollout)
    assert f"{value:.8g} in the rollout" in str(e.value)


def test_right_replays_pass():
    """With resets, masks and both orders of axes; a wrong step may be masked."""
    rollout, _ = acted()
    testing.check_replay(replay_from(FIRST), RESETS, rollout)
    corrupted = jax.tree.map(np.copy, rollout)
    corrupted["value"][-1, 2] = np.nan
    mask = np.ones((T, B), bool)
    mask[-1, 2] = False
    testing.check_replay(replay_from(FIRST), RESETS, corrupted, mask=mask)
    with pytest.raises(AssertionError, match="at step 6, row 2"):
        testing.check_replay(replay_from(FIRST), RESETS, corrupted)

    def batch_major(resets):
        return jax.tree.map(lambda x: x.swapaxes(0, 1), replay_from(FIRST)(resets.T))

    turned = jax.tree.map(lambda x: x.swapaxes(0, 1), rollout)
    testing.check_replay(batch_major, RESETS.T, turned, time_major=False)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            {"resets": RESETS[0]},
            ValueError,
            r"resets: expected bool \[time, batch\], got bool\[3\]",
        ),
        (
            {"mask": RESETS.T},
            ValueError,
            r"mask: expected bool \[7, 3\], as resets, got bool\[3, 7",
        ),
        ({"rollout": np.zeros((T, B))}, TypeError, "replay: expected it to return"),
        ({"replay": lambda r: {"log_prob": r, "value": r}}, ValueError, "rollout: expected arrays"),
    ],
)
def test_invalid_arguments_of_check_replay(change, error, message):
    given = {"replay": replay_from(FIRST), "resets": RESETS, "rollout": acted()[0]} | change
    with pytest.raises(error, match=message):
        testing.check_replay(**given)


def test_a_chunk_of_one_step():
    """In it nothing is left to compare once resets move, which then explain nothing."""
    rollout = jax.tree.map(lambda x: x[:1], acted()[0])
    rollout["value"][0, 1, 2] += 1

    def replay(resets):
        outputs, _ = rnn.dynamic_rnn(
            CELL, PARAMS, INPUTS[:1], initial_state=FIRST, resets=resets, time_major=True
        )
        return {"log_prob": outputs[..., 0], "value": outputs[..., 1:]}

    with pytest.raises(AssertionError, match="No other resets explain it"):
        testing.check_replay(replay, RESETS[:1], rollout)
