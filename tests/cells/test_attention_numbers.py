"""Attention and beam search give the numbers of TF's own tests.

TF's tests of `AttentionWrapper` run three steps on random numbers and give the means. Its
random number generator is published, so that its numbers are recomputed here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close

import jax_dynrnn as rnn
from jax_dynrnn._beam import Beams, Scoring, extended

SEED = 87654321
"""The seed of graphs and of NumPy in TF's tests."""


def philox(count, operation, first=0):
    """Uniform numbers as TF draws them (Salmon et al., Parallel random numbers, 2011).

    `first` is where a draw begins, in blocks of four numbers.
    """
    word, low = np.uint64(32), np.uint64(2**32 - 1)
    a = np.arange(first, first + -(-count // 4), dtype=np.uint64)
    b, c, d = 0 * a, 0 * a + np.uint64(operation), 0 * a
    keys = [SEED, 0]
    for _ in range(10):
        x, y = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b, c, d = (
            (y >> word) ^ b ^ np.uint64(keys[0]),
            y & low,
            (x >> word) ^ d ^ np.uint64(keys[1]),
            x & low,
        )
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    bits = np.stack([a, b, c, d], 1).ravel()
    return (bits & np.uint64(2**23 - 1)).astype(float)[:count] / 2**23


def normal(count, operation, first=0):
    """Normal numbers as TF draws them, by the method of Box and Muller."""
    u, v = philox(count, operation, first).reshape(-1, 2).T
    length, angle = np.sqrt(-2 * np.log(np.maximum(u, 1e-7))), 2 * np.pi * v
    return np.stack([length * np.sin(angle), length * np.cos(angle)], 1).ravel()


def glorot(shape, operation):
    """A kernel as TF's Glorot uniform initialiser draws it."""
    limit = np.sqrt(6 / sum(shape))
    return (2 * philox(np.prod(shape), operation) - 1).reshape(shape) * limit


RANDOM = np.random.RandomState(SEED)
INPUTS, MEMORY = (RANDOM.randn(*n).astype(np.float32) for n in ((5, 4, 7), (5, 8, 10)))
VARIABLES = 0.01 * normal(2000, 3)  # all variables have the same first numbers
BAHDANAU, NINE, NORMALIZED, LUONG, SCALED = (
    rnn.BahdanauAttention(3, memory_size=10),
    rnn.BahdanauAttention(9, memory_size=10),
    rnn.BahdanauAttention(3, memory_size=10, normalize=True),
    rnn.LuongAttention(9, memory_size=10),
    rnn.LuongAttention(9, memory_size=10, scale=True),
)
NAMES = ("outputs", "c", "h", "attention")
BY_LUONG = {
    "outputs": -0.0052615386,
    "c": -0.004009536,
    "h": -0.0020016613,
    "attention": -0.0051812846,
}

# TF test: mechanisms, layer sizes, the ids of the operations that drew the memory kernels, means.
# The ids depend on the version of TF; some tests have numbers of two versions.
RUNS = {
    "testBahdanauNotNormalized": (
        BAHDANAU, 6, [38],
        {"outputs": -0.0052250605, "c": -0.0040092287, "h": -0.0020015112,
         "attention": -0.0052052638},
    ),
    "testBahdanauNormalized": (
        NORMALIZED, 6, [45], {"outputs": -0.00597103, "attention": -0.00595117}
    ),
    "testBahdanauNormalized, its state": (
        NORMALIZED, 6, [38], {"c": -0.0040052128, "h": -0.0019996136}
    ),
    "testLuongNotNormalized": (LUONG, 6, [38], BY_LUONG),
    "testLuongScaled": (SCALED, 6, [38], BY_LUONG),
    "testNotUseAttentionLayer": (
        BAHDANAU, None, [45], {"outputs": 0.117389656, "attention": 0.117389656}
    ),
    "testNotUseAttentionLayer, its state": (
        BAHDANAU, None, [38], {"c": -0.0063607907, "h": -0.00323448}
    ),
    "testMultiAttention": (
        [NINE, LUONG], [3, 4], [45, 137],
        {"outputs": 0.0011709079, "c": -0.0038725811, "h": -0.0019329828,
         "attention": 0.001174294},
    ),
    "testMultiAttentionNoAttentionLayer": (
        [NINE, LUONG], None, [47, 143],
        {"outputs": 0.11723966, "c": -0.003545674, "h": -0.0018327223, "attention": 0.11728073},
    ),
    "testSingleAttentionAsList": (
        [NINE], [3], [45],
        {"outputs": -0.0098485695, "c": -0.0040023471, "h": -0.0019979973,
         "attention": -0.0098808752},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_means(name):
    """The means of outputs and states are those of TF's tests of AttentionWrapper."""
    mechanisms, sizes, operations, expected = RUNS[name]
    cell = rnn.AttentionWrapper(
        rnn.LSTMCell(9), mechanisms, attention_layer_size=sizes, alignment_history=True
    )
    operations = iter(operations)

    def variable(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "memory_layer" in name:
            return glorot(x.shape, next(operations))
        drawn = name.endswith(("kernel", "attention_v"))
        return VARIABLES[: x.size].reshape(x.shape) if drawn else x

    params = cell.init(jax.random.key(0), (7,), jnp.float64)
    params = jax.tree_util.tree_map_with_path(variable, params)
    attended = cell.attend(params, MEMORY, [3, 2, 3, 1, 1])
    (outputs, alignments), state = rnn.dynamic_rnn(cell, attended, INPUTS[:, :3])
    actual = (outputs, state.cell_state.c, state.cell_state.h, state.attention)
    means = {name: float(x.mean()) for name, x in zip(NAMES, actual, strict=True)}
    for name, mean in expected.items():
        assert abs(means[name] - mean) < 3e-8, (name, means[name], mean)
    assert state.time == 3
    for weights in jax.tree.leaves((alignments, state.alignments)):
        assert abs(weights.mean() - 0.125) < 1e-7


def noisy(mechanism, noise):
    """A mechanism with this noise in place of what a key draws."""

    class Noisy(type(mechanism)):
        def _noisy(self, scores, key):
            return scores + jnp.asarray(noise)

    options = {f.name: getattr(mechanism, f.name) for f in dataclasses.fields(mechanism)}
    return Noisy(**options)


MONOTONIC = {
    "testBahdanauMonotonicNotNormalized": (
        rnn.BahdanauMonotonicAttention(3, memory_size=10),
        45,
        {"outputs": -0.002122893, "c": -0.0040002423, "h": -0.0019968653,
         "attention": -5.9313523e-05, "last": 0.032228071, "all": 0.050430927},
    ),
    "testBahdanauMonotonicNormalized": (
        rnn.BahdanauMonotonicAttention(3, memory_size=10, normalize=True),
        45,
        {"outputs": -0.0025896581, "c": -0.0040013152, "h": -0.0019973689,
         "attention": -0.00069823361, "last": 0.028698336},
    ),
    "testBahdanauMonotonicNormalized, all weights": (
        rnn.BahdanauMonotonicAttention(3, memory_size=10, normalize=True), 47, {"all": 0.04865776},
    ),
    "testLuongMonotonicNotNormalized": (
        rnn.LuongMonotonicAttention(9, memory_size=10),
        45,
        {"outputs": -0.0021257224, "c": -0.0040003359, "h": -0.001996913,
         "attention": -5.2024145e-05, "last": 0.032198936, "all": 0.050387777},
    ),
}  # fmt: skip
BLOCKS_OF_A_DRAW = 40 * 256
"""TF moves its generator on by 256 blocks of four for each number."""


@pytest.mark.parametrize("name", MONOTONIC)
def test_means_of_monotonic_attention(name):
    """The means are those of TF's tests, whose noise has a standard deviation of 1 and seed 3."""
    mechanism, operation, expected = MONOTONIC[name]
    layer = {"attention_layer_size": 6, "alignment_history": True}
    cell = rnn.AttentionWrapper(rnn.LSTMCell(9), mechanism, **layer)

    def variable(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "memory_layer" in name:
            return glorot(x.shape, operation)
        drawn = name.endswith(("kernel", "attention_v"))
        return VARIABLES[: x.size].reshape(x.shape) if drawn else x

    params = cell.init(jax.random.key(0), (7,), jnp.float64)
    params = jax.tree_util.tree_map_with_path(variable, params)
    attended = cell.attend(params, MEMORY.astype(float), [3, 2, 3, 1, 1])
    state, steps = cell.start(attended, (5,), jnp.float64), []
    for t in range(3):
        noise = normal(40, 3, t * BLOCKS_OF_A_DRAW).reshape(5, 8)
        step = dataclasses.replace(cell, attention_mechanism=noisy(mechanism, noise))
        output, state = step(attended, jnp.asarray(INPUTS[:, t], float), state)
        steps.append(output)
    outputs, weights = (np.stack(x) for x in zip(*steps, strict=True))
    actual = (outputs, state.cell_state.c, state.cell_state.h, state.attention)
    actual = (*actual, state.alignments, weights)
    names = (*NAMES, "last", "all")
    means = {name: float(x.mean()) for name, x in zip(names, actual, strict=True)}
    for name, mean in expected.items():
        assert abs(means[name] - mean) < 3e-8, (name, means[name], mean)


LOGITS = np.full((2, 3, 5), 0.0001)
LOGITS[0, 0, 2:4], LOGITS[0, 1, 3:], LOGITS[1, 0, 1] = (1.9, 2.1), (3.1, 0.9), 0.5
END = 0


def step(logits, probability, lengths, finished):
    """Parents, ids and beams of TF's `_beam_search_step`, and the log-probabilities of the ids."""
    shape = logits.shape[:2]
    beams = Beams(
        jnp.zeros((*shape, 4), jnp.int32),
        jnp.asarray(lengths, jnp.int32),
        jnp.asarray(finished, bool),
        jnp.asarray(probability),
        jnp.asarray(probability),
        None,
    )
    of_next = jax.nn.log_softmax(jnp.asarray(logits), -1)
    extended_by = of_next, None, END, Scoring(0.6), jnp.int32(2)
    return *extended(beams, *extended_by), np.asarray(of_next)


def test_step():
    """TF's TestBeamStep.test_step: ids, parents and scores of a step of beam search."""
    logits, third = LOGITS.copy(), np.full((2, 3), -np.log(3))
    logits[1, 1, 2], logits[1, 2, 2:4] = 2.7, (10.0, 0.2)
    parents, ids, beams, of_next = step(logits, third, np.full((2, 3), 2), np.zeros((2, 3)))
    assert ids.tolist() == [[3, 3, 2], [2, 2, 1]] and parents.tolist() == [[1, 0, 0], [2, 1, 0]]
    assert beams.lengths.tolist() == [[3] * 3] * 2 and not beams.finished.any()
    assert beams.ids[..., 2].tolist() == ids.tolist() and not beams.ids[..., :2].any()
    row = np.arange(2)[:, None]
    close(beams.probability, third + of_next[row, parents, ids], 1e-14)
    close(beams.scores, np.asarray(beams.probability) / (8 / 6) ** 0.6, 1e-14)


def test_step_with_ended_sequences():
    """TF's TestBeamStep.test_step_with_eos: finished sequences stay and keep their length."""
    logits, third = LOGITS.copy(), -np.log(3)
    logits[1, 1, 2], logits[1, 2, 2:4] = 5.7, (1.0, 0.2)
    finished = [[False, True, False], [False, False, True]]
    parents, ids, beams, of_next = step(
        logits, np.full((2, 3), third), [[2, 1, 2], [2, 2, 1]], finished
    )
    assert parents.tolist() == [[1, 0, 0], [1, 2, 0]]
    assert ids.tolist() == [[0, 3, 2], [2, 0, 1]]
    assert beams.lengths.tolist() == [[1, 3, 3], [3, 1, 3]]
    assert beams.finished.tolist() == [[True, False, False], [False, True, False]]
    added = [[0, of_next[0, 0, 3], of_next[0, 0, 2]], [of_next[1, 1, 2], 0, of_next[1, 0, 1]]]
    close(beams.probability, third + np.array(added), 1e-14)


def test_first_step_of_a_large_beam():
    """TF's TestLargeBeamStep: a beam of 8 with only 5 possible sequences."""
    probability = np.where(np.arange(8) == 0, 0, -np.inf) * np.ones((2, 1))
    logits = np.concatenate([LOGITS, np.full((2, 5, 5), 0.0001)], 1)
    parents, ids, beams, _ = step(logits, probability, np.zeros((2, 8)), np.zeros((2, 8)))
    assert ids[0, :2].tolist() == [3, 2] and ids[1, 0] == 1 and not parents[:, :5].any()
    assert np.isneginf(beams.probability[:, -3:]).all()
    assert np.isfinite(beams.probability[:, :-3]).all()
