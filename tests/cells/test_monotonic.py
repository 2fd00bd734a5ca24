"""Masks of a memory, and attention that depends on the weights of the step before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close
from reference.attention import monotonic

import jax_dynrnn as rnn

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
B, T, D, S, M, U = 3, 4, 2, 5, 3, 6
INPUTS, MEMORY = RANDOM.normal(size=(B, T, D)), RANDOM.normal(size=(B, S, M))
MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]], bool)
MODES = ["recursive", "parallel", "hard"]


def wrapped(mechanism, **options):
    return rnn.AttentionWrapper(rnn.GRUCell(U), mechanism, alignment_history=True, **options)


def run(cell, memory=MEMORY, length=None, mask=None, **options):
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    params = cell.attend(params, memory, length, memory_mask=mask)
    return rnn.dynamic_rnn(cell, params, INPUTS, **options)


MECHANISMS = {
    "bahdanau": rnn.BahdanauAttention(U, memory_size=M),
    "luong": rnn.LuongAttention(U, memory_size=M),
    "bahdanau monotonic": rnn.BahdanauMonotonicAttention(U, memory_size=M, mode="recursive"),
    "luong monotonic": rnn.LuongMonotonicAttention(U, memory_size=M),
}
each_mechanism = pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)


@each_mechanism
def test_a_mask_is_like_leaving_slots_out(mechanism):
    """Masked slots, even of NaN, have the weight 0 and change nothing; a row may have none."""
    corrupted = np.where(MASK[:, :, None], MEMORY, np.nan)
    cell = wrapped(mechanism)
    (outputs, weights), state = run(cell, corrupted, mask=MASK)
    assert not np.asarray(weights)[np.broadcast_to(~MASK[:, None], weights.shape)].any()
    assert not weights[2].any() and not outputs[2].any()
    # The second row has the slots 2 and 4 only. Monotonic attention begins before them.
    (expected, few), _ = run(cell, MEMORY[:, [2, 4]])
    close((outputs[1], weights[1][:, [2, 4]]), (expected[1], few[1]), 1e-12)
    assert np.isfinite(outputs).all() and np.isfinite(state.attention).all()


@each_mechanism
def test_lengths_and_masks(mechanism):
    """A mask that says what lengths say gives the same; with both, a slot needs both."""
    cell, length = wrapped(mechanism), np.array([5, 2, 0])
    as_mask = np.arange(S) < length[:, None]
    close(run(cell, mask=as_mask), run(cell, length=length), 0)
    close(run(cell, length=length, mask=MASK), run(cell, mask=MASK & as_mask), 0)


@each_mechanism
def test_gradients_with_a_mask(mechanism):
    """The gradient with respect to the memory is that of finite differences, and 0 where masked."""
    cell = wrapped(mechanism)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)

    def loss(memory):
        with_memory = cell.attend(params, memory, memory_mask=MASK)
        (outputs, weights), _ = rnn.dynamic_rnn(cell, with_memory, INPUTS)
        return (outputs**2).sum() + (weights**3).sum()

    gradient = jax.grad(loss)(MEMORY)
    assert not np.asarray(gradient)[~MASK].any() and np.asarray(gradient)[MASK].all()
    direction = RANDOM.normal(size=MEMORY.shape)
    measured = (loss(MEMORY + 1e-6 * direction) - loss(MEMORY - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(measured, (gradient * direction).sum(), rtol=1e-6)


def test_masks_of_several_memories():
    """A list has a mask for each memory, or `None`; one mask serves all mechanisms of a memory."""
    cell = wrapped([MECHANISMS["luong"], MECHANISMS["bahdanau"]])
    every = run(cell, mask=MASK)
    close(run(cell, [MEMORY, MEMORY], mask=[MASK, MASK]), every, 0)
    other = RANDOM.normal(size=(B, 2, M))
    (_, (first, second)), _ = run(cell, [MEMORY, other], mask=[None, np.array([[1, 0]] * B, bool)])
    assert np.asarray(first).all() and not second[..., 1].any()


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_masks_in_layers(kind):
    """Both kinds of layers take `memory_mask=`, in runs, steps and starts."""
    cell = wrapped(MECHANISMS["bahdanau monotonic"])
    options = {"memory": MEMORY, "memory_mask": MASK}
    if kind == "linen":
        from jax_dynrnn import linen

        layer = linen.RNN(cell, param_dtype=jnp.float64)
        variables = layer.init(KEY, INPUTS, **options)
        params = variables["params"]["cell"]
        found = layer.apply(variables, INPUTS, **options)
        start = layer.apply(variables, (B,), method="start", **options)
        step = layer.apply(variables, INPUTS[:, 0], start, method="step", **options)
        with pytest.raises(TypeError, match="memory_mask: expected memory= with it, got None"):
            layer.apply(variables, INPUTS, memory_mask=MASK)
    else:
        from flax import nnx

        from jax_dynrnn import nnx as layers

        layer = layers.RNN(cell, in_features=D, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        params = jax.tree.map(
            lambda p: p.get_value(), layer.params, is_leaf=lambda x: isinstance(x, nnx.Param)
        )
        found, start = layer(INPUTS, **options), layer.start((B,), **options)
        step = layer.step(INPUTS[:, 0], start, **options)
    expected = rnn.dynamic_rnn(cell, cell.attend(params, MEMORY, memory_mask=MASK), INPUTS)
    close(found, expected, 1e-12)
    close(step[0], jax.tree.map(lambda y: y[:, 0], expected[0]), 1e-12)


MISTAKES = {
    "shape": (
        MASK[:, :2],
        ValueError,
        r"memory_mask: expected bool of shape \(3, 5\), .* \(3, 2\)",
    ),
    "dtype": (MASK.astype(int), TypeError, "memory_mask: expected bool .* got dtype int64"),
    "number": ([MASK, MASK], ValueError, "memory_mask: expected bool of shape"),
}


@pytest.mark.parametrize("row", MISTAKES)
def test_invalid_masks(row):
    mask, error, message = MISTAKES[row]
    with pytest.raises(error, match=message):
        run(wrapped(MECHANISMS["luong"]), mask=mask)


def weights_of(mode, stops, previous, valid=None):
    """The weights of a monotonic mechanism, given the probabilities to stop at each slot."""
    mechanism = rnn.LuongMonotonicAttention(U, mode=mode)
    if mode == "hard":
        scores = np.where(stops, 1.0, -1.0).astype(stops.dtype)
    else:
        scores = np.log(stops) - np.log1p(-stops)
    valid = None if valid is None else jnp.asarray(valid)
    return mechanism.weights({}, jnp.asarray(scores), valid, jnp.asarray(previous))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_recurrence(mode, dtype):
    """All modes agree with the recurrence in NumPy, as in TF1's `test_monotonic_attention`."""
    random = np.random.default_rng(1)
    stops = random.uniform(0, 0.9, size=(10, 20)).astype(dtype)  # "parallel" needs less than 1
    previous = random.uniform(size=(10, 20)).astype(dtype)
    previous /= previous.sum(1, keepdims=True)
    if mode == "hard":
        stops = random.choice(np.array([0.0, 1.0], dtype), (10, 20))
        previous = np.eye(20, dtype=dtype)[random.integers(20, size=10)]
    expected = np.stack([monotonic(*row) for row in zip(stops, previous, strict=True)])
    close(weights_of(mode, stops, previous), expected, 1e-12 if dtype == "float64" else 1e-5)


def test_the_recurrence_is_what_sampling_does():
    """The weights are the frequencies with which a reader that moves on stops at each slot."""
    random = np.random.default_rng(2)
    stops, count = random.uniform(size=(4, 5)), 100_000
    places, frequencies = np.zeros(count, int), np.zeros((4, 5))
    for t in range(4):
        active = places < 5
        for s in range(5):
            stays = active & (places == s)
            stopped = stays & (random.random(count) <= stops[t, s])
            frequencies[t, s] = stopped.mean()
            active &= ~stopped
            places[stays & ~stopped] = s + 1
    weights = jnp.asarray(np.eye(5)[:1])
    for t in range(4):
        weights = weights_of("recursive", stops[t : t + 1], weights)
        np.testing.assert_allclose(weights[0], frequencies[t], atol=7e-3)


def test_hard_attention_stops_at_one_slot():
    """As in TF1's tests: the weights are 0 or 1, and sum up to 0 or 1."""
    random = np.random.default_rng(3)
    cell = rnn.AttentionWrapper(
        rnn.GRUCell(U), rnn.BahdanauMonotonicAttention(U, mode="hard"), alignment_history=True
    )
    params = cell.init(KEY, (D,), jnp.float64)
    params = cell.attend(params, random.normal(size=(10, 20, U)))
    (_, weights), _ = rnn.dynamic_rnn(cell, params, random.normal(size=(10, 7, D)))
    assert {*np.unique(weights)} <= {0.0, 1.0} and {*np.unique(weights.sum(-1))} <= {0.0, 1.0}
    places = np.asarray(weights).argmax(-1)
    for row, found in zip(places, np.asarray(weights).any(-1), strict=True):
        assert (np.diff(row[found]) >= 0).all()


def test_noise_is_drawn_from_the_key():
    """A run with a key has noise, another in each step; a run without one has none."""
    noisy, quiet = (
        wrapped(rnn.LuongMonotonicAttention(U, memory_size=M, sigmoid_noise=noise))
        for noise in (1.0, 0.0)
    )
    close(run(noisy), run(quiet), 0)
    close(run(quiet, key=KEY), run(quiet), 0)
    (_, one), _ = run(noisy, key=KEY)
    (_, two), _ = run(noisy, key=jax.random.key(1))
    assert not np.allclose(one, two) and not np.allclose(one, run(quiet)[0][1])
    # Both mechanisms of a pair have noise of their own.
    pair = wrapped([rnn.LuongMonotonicAttention(U, memory_size=M, sigmoid_noise=1.0)] * 2)
    params = pair.init(KEY, INPUTS.shape, jnp.float64)
    params["luong_monotonic_attention_1"] = params["luong_monotonic_attention"]
    (_, both), _ = rnn.dynamic_rnn(pair, pair.attend(params, MEMORY), INPUTS, key=KEY)
    assert not np.allclose(*both)


def test_params_and_first_weights():
    """Names and shapes as in TF1; before the first step slot 0 has all of the weight."""
    cell = wrapped(rnn.BahdanauMonotonicAttention(U, memory_size=M, score_bias_init=-2.0))
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    assert params["bahdanau_monotonic_attention"]["attention_score_bias"] == -2.0
    start = cell.start(cell.attend(params, MEMORY), (B,), jnp.float64)
    assert start.alignments.tolist() == [[1, 0, 0, 0, 0]] * B
    assert [*wrapped(rnn.LuongMonotonicAttention(U)).mechanisms] == ["luong_monotonic_attention"]


@pytest.mark.parametrize(
    "options, error, message",
    [
        (
            {"mode": "soft"},
            ValueError,
            "mode to be one of 'parallel', 'recursive', 'hard', got 'so",
        ),
        ({"sigmoid_noise": -1}, ValueError, "expected sigmoid_noise >= 0, got -1"),
        ({"sigmoid_noise": "1"}, TypeError, "sigmoid_noise.* a float, got"),
        ({"score_bias_init": None}, TypeError, "score_bias_init.* a float, got"),
    ],
)
def test_invalid_options(options, error, message):
    with pytest.raises(error, match=message):
        rnn.LuongMonotonicAttention(U, **options)


def test_previous_weights_are_needed():
    mechanism = rnn.LuongMonotonicAttention(M)
    params = mechanism.init(KEY, M, jnp.float64)
    attended = mechanism.attended(params, mechanism.memory(MEMORY, None))
    with pytest.raises(TypeError, match="the alignments of the step before, got None"):
        mechanism(params, jnp.zeros((B, M)), attended)


def test_forward_attention_is_a_subclass():
    """A mechanism of one's own sees the weights of the step before, by public names only."""

    @jax.tree_util.register_static
    @dataclasses.dataclass(frozen=True)
    class Forward(rnn.BahdanauAttention):
        """Forward attention (Zhang et al., arXiv:1807.06736)."""

        def first(self, batch_shape, slots, dtype):
            return jnp.broadcast_to(jax.nn.one_hot(0, slots, dtype=dtype), (*batch_shape, slots))

        def weights(self, params, scores, valid, previous):
            moved = jnp.pad(previous, [(0, 0)] * (previous.ndim - 1) + [(1, 0)])[..., :-1]
            product = (previous + moved) * super().weights(params, scores, valid, previous)
            return product / product.sum(-1, keepdims=True)

    cell = wrapped(Forward(U, memory_size=M))
    (_, weights), _ = run(cell)
    for t in range(min(T, S)):
        assert not weights[:, t, t + 2 :].any() and weights[:, t, : t + 2].all()
    close(weights.sum(-1), np.ones((B, T)), 1e-12)
