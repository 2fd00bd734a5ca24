"""Greedy decoding and beam search: exhaustive search, edge cases, and errors."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close

import jax_dynrnn as rnn

V, L, B, END = 4, 5, 2, 3
CELL = rnn.GRUCell(6)
RANDOM = np.random.default_rng(0)
PARAMS = jax.tree.map(lambda x: 3 * x, CELL.init(jax.random.key(0), (B, 2), jnp.float64))
TABLE, DENSE = jnp.asarray(RANDOM.normal(size=(V, 2))), jnp.asarray(RANDOM.normal(size=(6, V)))
STATE = jnp.asarray(RANDOM.normal(size=(B, 6)))


def embed(ids):
    return TABLE[ids]


def logits(output):
    return 2 * output @ DENSE


def search(width, penalty=0.0, state=STATE, start=0, most=L):
    return rnn.beam_search(
        CELL, PARAMS, embed, logits, start, END, state,
        beam_width=width, length_penalty=penalty, maximum_iterations=most,
    )  # fmt: skip


def greedy(start=0, most=L, state=STATE):
    return rnn.greedy_decode(
        CELL, PARAMS, embed, logits, start, END, state, maximum_iterations=most
    )


def probability(ids, row, start=0):
    """The log-probability of one sequence, in NumPy except for the cell."""
    ids = tuple(map(int, ids))
    steps = (next_ids(ids[:i], row, start)[0][ids[i]] for i in range(len(ids)))
    return float(sum(steps))


@functools.cache
def next_ids(ids, row, start):
    """The log-probabilities of the id after `ids`, and the state, which sequences share."""
    state = next_ids(ids[:-1], row, start)[1] if ids else STATE[row : row + 1]
    output, state = CELL(PARAMS, embed(jnp.array([(start, *ids)[-1]])), state)
    scores = np.asarray(logits(output))[0]
    return scores - np.log(np.exp(scores).sum()), state


def possible_sequences():
    """Every sequence that ends, or has the maximal length."""
    for length in range(L + 1):
        for ids in itertools.product(range(END), repeat=length):
            yield (*ids, END) if length < L else ids


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_all_sequences(penalty):
    """A beam of width 364 returns all 364 sequences, in order of their scores."""
    all_sequences = list(possible_sequences())
    ids, lengths, scores = jax.jit(lambda: search(len(all_sequences), penalty))()
    for row in range(B):
        expected = {}
        for sequence in all_sequences:
            length = len(sequence) - (END in sequence)
            padded = (*sequence, *(END,) * (L - len(sequence)))
            expected[padded] = (probability(sequence, row) / ((5 + length) / 6) ** penalty, length)
        found = [tuple(x) for x in np.asarray(ids[row]).tolist()]
        assert set(found) == set(expected) and len(found) == len(expected)
        close(scores[row], np.array([expected[x][0] for x in found]), 1e-12)
        assert lengths[row].tolist() == [expected[x][1] for x in found]
        assert (np.diff(scores[row]) <= 0).all()
        best = max(expected, key=lambda x: expected[x][0])
        assert found[0] == best


@pytest.mark.parametrize("penalty", [4000.0, -4000.0])
def test_order_of_scores_that_overflow_or_underflow(penalty):
    """Scores that are 0 or infinite in their dtype are ordered by their logarithms."""
    ids, lengths, scores = jax.jit(lambda: search(364, penalty))()
    for row in range(B):
        sizes, tuples = [], [tuple(x) for x in np.asarray(ids[row]).tolist()]
        for sequence, length in zip(tuples, lengths[row].tolist(), strict=True):
            total = probability(sequence[: length + 1], row)
            sizes.append(np.log(-total) - penalty * np.log((5 + length) / 6))
        with np.errstate(over="ignore", under="ignore"):
            expected = -np.exp(sizes)
        assert len({*tuples}) == 364 and {0.0, -np.inf} & {*expected.tolist()}
        np.testing.assert_allclose(scores[row], expected, rtol=1e-10, atol=1e-300)
        assert (np.diff(sizes) >= -1e-10).all()
        counts = [3**n for n in range(L)] + [3**L]  # all sequences of each length
        assert np.bincount(lengths[row]).tolist() == counts


def test_certain_sequences_and_penalties():
    """A sequence of probability 1 has the score 0 with any penalty, and impossible ones -inf."""

    def certain(output):
        return jnp.broadcast_to(jnp.where(jnp.arange(V) == 1, 0.0, -jnp.inf), (B, V))

    for penalty in (-4000.0, 0.0, 4000.0):
        ids, lengths, scores = rnn.beam_search(
            CELL, PARAMS, embed, certain, 0, END, STATE, beam_width=2, length_penalty=penalty,
            maximum_iterations=L,
        )  # fmt: skip
        assert ids[:, 0].tolist() == [[1] * L] * B and lengths.tolist() == [[L, 0]] * B
        assert scores.tolist() == [[0.0, -np.inf]] * B


def test_scores_have_gradients():
    """The best score has the gradient that finite differences give."""

    def best(x):
        return search(3, 0.7, state=STATE + x)[2][0, 0]

    value, gradient = jax.jit(jax.value_and_grad(best))(0.0)
    moved = [float(jax.jit(best)(x)) for x in (-1e-6, 1e-6)]
    assert moved[0] != value and abs(gradient - (moved[1] - moved[0]) / 2e-6) < 1e-7


def test_a_narrow_beam_agrees_with_numpy():
    """A beam that drops sequences agrees with TF's rules, applied step by step in NumPy."""
    width, penalty = 3, 0.7
    ids, _, scores = search(width, penalty)
    for row in range(B):
        beams = [((), 0.0)]
        for _ in range(L):
            longer = []
            for sequence, total in beams:
                if END in sequence:
                    longer.append(((*sequence, END), total))
                    continue
                longer += [((*sequence, i), probability((*sequence, i), row)) for i in range(V)]

            def score(x):
                return x[1] / ((5 + sum(i != END for i in x[0])) / 6) ** penalty

            beams = sorted(longer, key=score, reverse=True)[:width]
        assert [tuple(x) for x in np.asarray(ids[row]).tolist()] == [x for x, _ in beams]
        close(scores[row], np.array([score(x) for x in beams]), 1e-12)


@pytest.mark.parametrize("start", [0, np.array([1, 2])])
def test_a_beam_of_one_is_greedy(start):
    """Beam search with one beam equals greedy decoding, and scores its log-probability."""
    ids, lengths, scores = search(1, start=start)
    greedy_ids, greedy_lengths, _ = greedy(start)
    close((ids[:, 0], lengths[:, 0]), (greedy_ids, greedy_lengths), 0)
    first = np.broadcast_to(start, (B,))
    for row in range(B):
        sequence = greedy_ids[row, : greedy_lengths[row] + 1].tolist()
        close(scores[row, 0], np.array(probability(sequence, row, int(first[row]))), 1e-12)


def test_greedy_decoding_agrees_with_a_loop():
    """Ids, lengths, and the state after the step that returned the end id."""
    ids, lengths, state = jax.jit(greedy)()
    for row in range(B):
        h, last, expected = STATE[row : row + 1], 0, []
        while len(expected) < L and last != END:
            output, h = CELL(PARAMS, embed(jnp.array([last])), h)
            last = int(np.argmax(logits(output)))
            expected.append(last)
        length = len(expected) - (END in expected)
        assert ids[row].tolist() == expected + [END] * (L - len(expected))
        assert lengths[row] == length
        close(state[row : row + 1], h, 1e-14)
    assert set(lengths.tolist()) - {L}, "no row ends: the test shows nothing"


def test_rank_0_state_leaves():
    """A counter that the batch shares is updated at every step, in beam search too."""

    class Counting(rnn.Cell):
        def init(self, key, input_shape, dtype=jnp.float32):
            return {}

        def zero_state(self, batch_shape=(), dtype=jnp.float32):
            return jnp.zeros((), jnp.int32), jnp.zeros((*batch_shape, 1), dtype)

        def __call__(self, params, inputs, state, *, key=None):
            count, total = state
            best = jax.nn.one_hot(count, V, dtype=total.dtype)  # ids 0, 1, 2, and the end
            return jnp.broadcast_to(best, (*total.shape[:-1], V)), (count + 1, total + inputs)

    start = Counting().zero_state((B,), jnp.float64)
    arguments = (Counting(), {}, lambda ids: jnp.ones((B, 1)), lambda y: 5 * y, 0, END, start)
    ids, lengths, (count, total) = rnn.greedy_decode(*arguments, maximum_iterations=6)
    assert ids.tolist() == [[0, 1, 2, 3, 3, 3]] * B and lengths.tolist() == [3] * B
    assert count == 4 and total.tolist() == [[4.0]] * B
    ids, *_ = rnn.beam_search(*arguments, beam_width=2, maximum_iterations=6)
    assert ids[:, 0].tolist() == [[0, 1, 2, 3, 3, 3]] * B


def test_vmap_and_few_sequences():
    """`vmap` over states equals a loop; beams without a sequence have the score -inf."""
    states = jnp.stack([STATE, -STATE])
    mapped = jax.vmap(lambda state: search(3, state=state))(states)
    for i in range(2):
        close(jax.tree.map(lambda x, i=i: x[i], mapped), search(3, state=states[i]), 1e-12)
    ids, _, scores = search(7, most=1)
    assert np.isfinite(scores[:, :4]).all() and np.isneginf(scores[:, 4:]).all()
    assert (ids[:, 4:] == END).all()
    _, lengths, scores = search(6, most=1)
    assert not lengths[np.isneginf(scores)].any()
    assert [sorted(row[:4]) for row in ids[..., 0].tolist()] == [[0, 1, 2, 3]] * B


def test_no_steps():
    """With `maximum_iterations=0` there is one empty sequence."""
    ids, lengths, scores = search(2, most=0)
    assert ids.shape == (B, 2, 0) and not lengths.any() and scores.tolist() == [[0, -np.inf]] * B
    ids, lengths, state = greedy(most=0)
    assert ids.shape == (B, 0) and not lengths.any()
    close(state, STATE, 0)


@pytest.mark.parametrize("decode", [rnn.greedy_decode, rnn.beam_search])
def test_traced_arguments(decode):
    """Params, state, start and end may be traced: other values cause no compilation."""
    options = {"beam_width": 2} if decode is rnn.beam_search else {}

    def run(params, state, start, end):
        return decode(
            CELL, params, embed, logits, start, end, state, maximum_iterations=L, **options
        )

    compiled = jax.jit(run)
    for start, end in ((0, 3), (1, 0)):
        actual = compiled(PARAMS, STATE, jnp.int32(start), jnp.int32(end))
        close(actual, run(PARAMS, STATE, start, end), 1e-12)
    assert compiled._cache_size() == 1


def test_tile_batch():
    """Rows are repeated one after the other, and rank-0 leaves stay."""
    state = rnn.LSTMStateTuple(jnp.arange(4.0).reshape(2, 2), jnp.int32(5))
    tiled = rnn.tile_batch(state, 2)
    assert tiled.c.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]] and tiled.h == 5


ARGUMENTS = {"start": 0, "end": END, "initial_state": STATE}
ERRORS = {
    "a float start": ({"start": 0.0}, TypeError, "start: expected an id, an integer, got float"),
    "starts of another batch": (
        {"start": np.zeros(3, int)},
        ValueError,
        r"each of 2 rows, got .*3",
    ),
    "an end that is no id": ({"end": 4}, ValueError, "end: expected an id below 4, got 4"),
    "many ends": ({"end": np.array([3, 3])}, ValueError, r"one id for all rows, got shape \(2,\)"),
    "no batch": ({"initial_state": ()}, ValueError, r"batch as their first axis, got sizes \[\]"),
    "another state": ({"initial_state": (STATE, STATE)}, ValueError, "initial_state: expected"),
    "no steps": (
        {"maximum_iterations": -1},
        ValueError,
        "maximum_iterations: expected an int >= 0",
    ),
    "no embedding": ({"embed": TABLE}, TypeError, r"embed: expected a function, as in lambda ids"),
    "ids as inputs": (
        {"embed": lambda ids: ids},
        ValueError,
        r"embed: expected it to return inputs \[2, ...\] of rank 2 .* got shape \(2,\)",
    ),
    "two logits": ({"logits": lambda y: (y, y)}, ValueError, r"got shape \(\(2, 6\), \(2, 6\)\)"),
    "whole logits": ({"logits": lambda y: logits(y) > 0}, TypeError, "floating numbers, got bool"),
    "logits of one row": ({"logits": lambda y: logits(y)[0]}, ValueError, r"return \[2, V\], got"),
}


@pytest.mark.parametrize("decode", [rnn.greedy_decode, rnn.beam_search])
@pytest.mark.parametrize("row", ERRORS)
def test_errors(row, decode):
    """Invalid arguments are refused by both functions."""
    changed, error, message = ERRORS[row]
    options = {"embed": embed, "logits": logits, "maximum_iterations": L, **ARGUMENTS, **changed}
    if decode is rnn.beam_search:
        options["beam_width"] = 2
    with pytest.raises(error, match=message):
        decode(CELL, PARAMS, **options)


def test_invalid_width_multiplier_and_penalty():
    with pytest.raises(ValueError, match="beam_width: expected an int >= 1, got 0"):
        search(0)
    for penalty in ("0.5", None, np.zeros(2)):
        with pytest.raises(TypeError, match="length_penalty: expected one number, got"):
            search(2, penalty)
    for penalty in (np.nan, np.inf, -1e39):
        with pytest.raises(ValueError, match="length_penalty: expected a number in .*, got"):
            search(2, penalty)
    with pytest.raises(ValueError, match="multiplier: expected an int >= 1, got 1.5"):
        rnn.tile_batch(STATE, 1.5)


def coverage_of(sequence, row):
    """The sum of the alignments of all steps of one sequence, in NumPy but for the cell."""
    state = jax.tree.map(lambda x: x[row : row + 1] if x.ndim else x, ATTENDING_STATE)
    params = ATTENDING.attend(
        ATTENDING_PARAMS, MEMORY[row : row + 1], memory_mask=VALID[row : row + 1]
    )
    total, log_prob, last = np.zeros(MEMORY.shape[1]), 0.0, 0
    for chosen in sequence:
        output, state = ATTENDING(params, embed(jnp.array([last])), state)
        scores = np.asarray(logits(output))[0]
        log_prob += scores[chosen] - np.log(np.exp(scores).sum())
        total, last = total + np.asarray(state.alignments)[0], chosen
    return log_prob, total


MEMORY = jnp.asarray(RANDOM.normal(size=(B, 3, 2)))
VALID = np.array([[1, 1, 1], [0, 1, 1]], bool)
ATTENDING = rnn.AttentionWrapper(
    CELL, rnn.BahdanauAttention(4, memory_size=2), output_attention=False
)
ATTENDING_PARAMS = jax.tree.map(
    lambda x: 3 * x, ATTENDING.init(jax.random.key(0), (B, 2), jnp.float64)
)
WITH_MEMORY = ATTENDING.attend(ATTENDING_PARAMS, MEMORY, memory_mask=VALID)
ATTENDING_STATE = ATTENDING.start(WITH_MEMORY, (B,), jnp.float64)._replace(cell_state=STATE)


def attending_search(width, most=3, **options):
    return jax.jit(
        lambda: rnn.beam_search(
            ATTENDING, WITH_MEMORY, embed, logits, 0, END, ATTENDING_STATE, beam_width=width,
            maximum_iterations=most, **options,
        )
    )()  # fmt: skip


def own_score(log_probs, lengths, coverage):
    return log_probs - 0.3 * lengths.astype(log_probs.dtype) + 0.2 * coverage.max(-1)


@pytest.mark.parametrize("kind", ["coverage", "coverage and length", "score_fn"])
def test_scores_of_all_sequences(kind):
    """Exhaustive search with a coverage penalty, with both penalties, and with a score of one's
    own."""
    most, all_sequences = 3, [s for s in possible_sequences_up_to(3)]
    options = {
        "coverage": {"coverage_penalty_weight": 0.7},
        "coverage and length": {"coverage_penalty_weight": 0.7, "length_penalty": 0.9},
        "score_fn": {"score_fn": own_score},
    }[kind]
    ids, lengths, scores = attending_search(len(all_sequences), most, **options)
    for row in range(B):
        expected = {}
        for sequence in all_sequences:
            length = len(sequence) - (END in sequence)
            log_prob, coverage = coverage_of(sequence, row)
            score = log_prob / ((5 + length) / 6) ** options.get("length_penalty", 0.0)
            if kind == "score_fn":
                score = own_score(np.array(log_prob), np.array(length), coverage)
            elif END in sequence:
                score += 0.7 * np.log(np.minimum(coverage[VALID[row]], 1)).sum()
            expected[(*sequence, *(END,) * (most - len(sequence)))] = float(score)
        found = [tuple(x) for x in np.asarray(ids[row]).tolist()]
        assert {*found} == {*expected} and len(found) == len(expected)
        close(scores[row], np.array([expected[x] for x in found]), 1e-12)
        assert (np.diff(scores[row]) <= 0).all()
        assert lengths[row].tolist() == [sum(i != END for i in x) for x in found]
    without = attending_search(len(all_sequences), most)
    assert without[0].tolist() != ids.tolist(), "the score changes no order"


def possible_sequences_up_to(most):
    for length in range(most + 1):
        for ids in itertools.product(range(END), repeat=length):
            yield (*ids, END) if length < most else ids


def test_alignments_of_what_was_decoded():
    """Alignments of greedy ids, samples and beams, step by step, up to the end id."""

    @jax.jit
    def decode():
        given = ATTENDING, WITH_MEMORY, embed
        rest = 0, END, ATTENDING_STATE
        greedy = rnn.greedy_decode(*given, logits, *rest, maximum_iterations=L)
        beams = rnn.beam_search(*given, logits, *rest, beam_width=3, maximum_iterations=L)
        return (
            greedy[:2],
            beams[:2],
            *(
                rnn.decode_alignments(*given, *found[:2], 0, ATTENDING_STATE)
                for found in (greedy, beams)
            ),
        )

    (ids, lengths), (beam_ids, beam_lengths), of_greedy, of_beams = decode()
    assert of_greedy.shape == (B, L, 3) and of_beams.shape == (B, 3, L, 3)

    def check(ids, length, alignments, row):
        steps = min(int(length) + 1, L)
        for t in range(steps):
            before, after = (coverage_of(ids[:n].tolist(), row)[1] for n in (t, t + 1))
            close(alignments[t], after - before, 1e-12)
        assert not alignments[steps:].any()

    for row in range(B):
        check(np.asarray(ids[row]), lengths[row], of_greedy[row], row)
        for k in range(3):
            check(np.asarray(beam_ids[row, k]), beam_lengths[row, k], of_beams[row, k], row)


def sample(key, temperature=1.0, most=L):
    return rnn.sample_decode(
        CELL, PARAMS, embed, logits, 0, END, STATE, maximum_iterations=most, key=key,
        temperature=temperature,
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_have_the_right_frequencies(temperature):
    """Each sequence of two ids is drawn as often as its probability says."""
    draw = jax.jit(jax.vmap(lambda key: sample(key, temperature, 2)))
    ids, lengths, _ = draw(jax.random.split(jax.random.key(0), 4000))

    def chances(ids, row):
        scores = next_ids(ids, row, 0)[0] / temperature
        return np.exp(scores) / np.exp(scores).sum()

    for row in range(B):
        found = collections.Counter(map(tuple, np.asarray(ids[:, row]).tolist()))
        for sequence in itertools.product(range(V), repeat=2):
            expected = chances((), row)[sequence[0]]
            if sequence[0] == END:
                expected *= sequence[1] == END
            else:
                expected *= chances(sequence[:1], row)[sequence[1]]
            spread = np.sqrt(expected * (1 - expected) / 4000)
            assert abs(found[sequence] / 4000 - expected) <= 4 * spread + 1e-12, sequence
    assert {*np.unique(lengths)} == {0, 1, 2}


def test_samples_of_a_low_temperature_are_greedy():
    """In the limit of 0; keys and temperatures may be traced, and equal keys draw the same."""
    close(jax.jit(sample)(jax.random.key(1), 1e-6), greedy(), 1e-14)
    close(sample(jax.random.key(2)), jax.jit(sample)(jax.random.key(2), 1.0), 1e-14)


def test_invalid_scores_and_samples():
    for options, error, message in (
        ({"coverage_penalty_weight": 1.0}, ValueError, "expected an AttentionWrapper, whose"),
        ({"coverage_penalty_weight": np.nan}, ValueError, "coverage_penalty_weight: expected a nu"),
        ({"score_fn": 1}, TypeError, "score_fn: expected a function .* got int"),
        (
            {"score_fn": own_score, "length_penalty": 1.0},
            ValueError,
            "expected no length_penalty and no coverage_penalty_weight beside it",
        ),
        (
            {"score_fn": lambda p, n, c: p[:, :1]},
            ValueError,
            r"score_fn: expected it to return floating numbers \[2, 6\], got float64\[2, 1\]",
        ),
    ):
        with pytest.raises(error, match=message):
            rnn.beam_search(
                CELL, PARAMS, embed, logits, 0, END, STATE, beam_width=2,
                maximum_iterations=L, **options,
            )  # fmt: skip
    for key, temperature, error, message in (
        (None, 1.0, TypeError, "key: expected a key"),
        (
            jax.random.key(0),
            0.0,
            ValueError,
            "positive number, got 0.0; greedy_decode is the limit",
        ),
        (jax.random.key(0), np.ones(2), TypeError, "temperature: expected one number"),
    ):
        with pytest.raises(error, match=message):
            sample(key, temperature)
    with pytest.raises(TypeError, match="cell: expected an AttentionWrapper, which has alignments"):
        rnn.decode_alignments(CELL, PARAMS, embed, jnp.zeros((B, L), int), [1, 2], 0, STATE)
    with pytest.raises(ValueError, match=r"ids: expected \[2, L\] with lengths"):
        rnn.decode_alignments(
            ATTENDING, WITH_MEMORY, embed, jnp.zeros((B, L), int), [1], 0, ATTENDING_STATE
        )
