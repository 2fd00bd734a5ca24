"""The functions for sequences agree with NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_dynrnn as rnn

LENGTHS = np.array([4, 2, 0, 1])
X = np.random.default_rng(0).normal(size=(4, 4, 3))
MASK = np.array([[1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], bool)
POOLS = {
    rnn.last_output: lambda rows: rows[-1],
    rnn.mean_pool: lambda rows: rows.mean(0),
    rnn.max_pool: lambda rows: rows.max(0),
}


@pytest.mark.parametrize(
    "lengths", [[1, 3, 0], np.array([1, 3, 0], np.uint8), jnp.array([1, 9, -2])]
)
def test_sequence_mask(lengths):
    """Lengths may be a list, any integer dtype, or out of range."""
    expected = [[True, False, False], [True] * 3, [False] * 3]
    assert rnn.sequence_mask(lengths, 3).tolist() == expected


def test_sequence_mask_of_other_ranks():
    """Lengths may be a scalar or a matrix, and may not be floating."""
    assert rnn.sequence_mask(2, 3).tolist() == [True, True, False]
    assert rnn.sequence_mask([[2], [0]], 2).tolist() == [[[True, True]], [[False, False]]]
    assert rnn.sequence_mask(np.array([300], np.int16), 400).sum() == 300
    assert rnn.sequence_mask(np.array([200], np.uint8), 300).sum() == 200
    assert rnn.sequence_mask(jnp.array([2**40]), 3).all()
    with pytest.raises(TypeError, match="integer.*float64"):
        rnn.sequence_mask([1.5], 3)


def test_sequence_mask_as_tf1_calls_it():
    """As in TF1, `maxlen` may be left out, and `dtype` is the third positional argument."""
    assert rnn.sequence_mask([1, 3]).tolist() == [[True, False, False], [True] * 3]
    assert rnn.sequence_mask(np.array([[0], [-2]])).shape == (2, 1, 0)
    assert rnn.sequence_mask([]).shape == (0, 0)
    weights = rnn.sequence_mask(jnp.array([1, 3]), 4, jnp.bfloat16)
    assert weights.dtype == jnp.bfloat16 and weights.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    assert rnn.sequence_mask(jnp.array([1, 2]), jnp.array(2), "int8").tolist() == [[1, 0], [1, 1]]
    traced_size = jax.export.symbolic_shape("t")[0]
    shape = jax.eval_shape(lambda n: rnn.sequence_mask(n, traced_size), jnp.array([1, 2])).shape
    assert shape == (2, traced_size)


@pytest.mark.parametrize(
    ("run", "match"),
    [
        (lambda n: rnn.sequence_mask(n), "expected maxlen=.* the lengths are traced"),
        (lambda n: rnn.sequence_mask(n, n.max()), "maxlen as an int, got .*, which is traced"),
        (lambda n: rnn.sequence_mask(n, 2.5), "maxlen as an int >= 0, got 2.5"),
        (lambda n: rnn.sequence_mask(n, np.ones(2)), "maxlen as an int >= 0, got array"),
    ],
)
def test_sequence_mask_needs_a_static_maxlen(run, match):
    """Under jit, `maxlen` must be given, and must not be traced."""
    with pytest.raises(TypeError, match=match):
        jax.jit(run)(jnp.array([1, 2]))


@pytest.mark.parametrize("time_major", [False, True])
def test_reverse_sequence(time_major):
    """Each row is reversed up to its length; reversing twice restores it."""
    expected = np.stack(
        [np.concatenate([x[:n][::-1], x[n:]]) for x, n in zip(X, LENGTHS, strict=True)]
    )
    swap = (lambda x: x.swapaxes(0, 1)) if time_major else (lambda x: x)
    tree = {"a": jnp.asarray(swap(X)), "b": (jnp.asarray(swap(X[..., 0])),)}
    actual = rnn.reverse_sequence(tree, LENGTHS, time_major=time_major)
    np.testing.assert_array_equal(swap(np.asarray(actual["a"])), expected)
    np.testing.assert_array_equal(swap(np.asarray(actual["b"][0])), expected[..., 0])
    twice = rnn.reverse_sequence(actual, LENGTHS, time_major=time_major)
    np.testing.assert_array_equal(twice["a"], tree["a"])


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_pooling(pool, masked, time_major):
    """Pools over valid steps only: rows without one give 0, and NaN in padding has no effect."""
    valid = np.arange(4) < LENGTHS[:, None]
    valid = valid & MASK if masked else valid
    rows = [x[v] for x, v in zip(X, valid, strict=True)]
    expected = [POOLS[pool](r) if len(r) else np.zeros(3) for r in rows]
    corrupted = np.where(valid[..., None], X, np.nan)
    swap = (lambda x: x.swapaxes(0, 1)) if time_major else (lambda x: x)
    mask = swap(MASK) if masked else None

    def run(x):
        return pool(x, LENGTHS, mask=mask, time_major=time_major)

    actual = run({"y": jnp.asarray(swap(corrupted))})["y"]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    gradient = jax.grad(lambda x: run(x).sum())(jnp.asarray(swap(corrupted)))
    assert not swap(np.asarray(gradient))[~valid].any() and np.isfinite(gradient).all()
    assert (np.abs(swap(np.asarray(gradient)).sum((1, 2))) > 0).tolist() == valid.any(1).tolist()


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_without_lengths_and_without_steps(pool):
    """Without lengths all steps are valid; without steps the result is 0."""
    np.testing.assert_allclose(pool(X), [POOLS[pool](x) for x in X], rtol=1e-12)
    assert pool(X[:, :0]).tolist() == [[0.0] * 3] * 4
    integers = np.arange(8).reshape(2, 4)
    assert pool(integers, [2, 0]).tolist() == [POOLS[pool](integers[0, :2]), 0]


def test_last_output_is_the_state():
    """`last_output` equals the final state of a GRU, unlike `outputs[:, -1]`."""
    cell = rnn.GRUCell(4)
    params = cell.init(jax.random.key(0), X.shape)
    outputs, state = rnn.dynamic_rnn(cell, params, X, LENGTHS)
    np.testing.assert_allclose(rnn.last_output(outputs, LENGTHS), state, atol=1e-6)
    assert not np.allclose(outputs[:, -1], state)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([2],), ValueError, "4 rows, got 1"),
        (([5, 1, 1, 1],), ValueError, r"\[0, 4\].*got 5"),
        ((None, np.ones((4, 1), bool)), ValueError, r"\(4, 4\).*\(4, 1\)"),
        ((None, np.ones((4, 4))), TypeError, "bool, got float64"),
    ],
)
def test_invalid_lengths_and_masks_of_pooling(pool, arguments, error, match):
    """Lengths and masks of other shapes, ranges or dtypes are refused."""
    lengths, *mask = arguments
    with pytest.raises(error, match=match):
        pool(X, lengths, mask=mask[0] if mask else None)
    if not mask:
        with pytest.raises(error, match=match):
            rnn.reverse_sequence(X, lengths)


def test_pooling_other_dtypes():
    """The sum of many 16-bit numbers does not overflow; bools have a maximum."""
    many = jnp.full((1, 1000, 1), 100.0, jnp.float16)
    assert rnn.mean_pool(many).tolist() == [[100.0]]
    assert rnn.mean_pool(many).dtype == jnp.float16
    assert rnn.max_pool(np.array([[False, True], [False, False]])).tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int4", "float16", "bfloat16"])
@pytest.mark.parametrize(("rows", "steps"), [(2, 3), (0, 3), (2, 0), (0, 0)])
def test_pooling_keeps_the_dtype(dtype, rows, steps):
    """Pooling keeps the dtype, except for means of integers and bools; no steps give 0."""
    outputs = jnp.ones((rows, steps, 2), dtype)
    for pool in POOLS:
        pooled = pool(outputs, np.full(rows, steps))
        floats = pool is rnn.mean_pool and not jnp.issubdtype(dtype, jnp.floating)
        assert pooled.dtype == (jnp.float64 if floats else dtype)
        assert pooled.astype(float).tolist() == [[float(steps > 0)] * 2] * rows


def test_pad_sequences():
    """Padding to the longest row, to a length, to a bucket, and with other values and dtypes."""
    arrays = [np.ones((n, 2), np.float32) * n for n in (3, 1, 0)]
    batch, lengths = rnn.pad_sequences(arrays)
    assert batch.shape == (3, 3, 2) and batch.dtype == np.float32
    assert lengths.tolist() == [3, 1, 0] and lengths.dtype == np.int32
    assert batch[1].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert rnn.pad_sequences(arrays, length=5, value=-1)[0][2].tolist() == [[-1, -1]] * 5
    assert rnn.pad_sequences(arrays, buckets=[8, 4])[0].shape == (3, 4, 2)
    assert np.isnan(rnn.pad_sequences(arrays, value=np.nan)[0][2]).all()
    assert rnn.pad_sequences([[7, 8], [9]])[0].tolist() == [[7, 8], [9, 0]]
    ids, _ = rnn.pad_sequences([[7, 8], []])  # NumPy makes an empty list float64
    assert ids.tolist() == [[7, 8], [0, 0]] and ids.dtype == np.int64
    assert rnn.pad_sequences(arrays, value=np.log(1e-6))[0][2, 0, 0] == np.float32(np.log(1e-6))
    assert rnn.pad_sequences([np.ones(1, np.complex64)], length=2, value=1j)[0][0, 1] == 1j
    assert np.isnan(rnn.pad_sequences([[1j]], length=2, value=np.nan)[0][0, 1])
    assert rnn.pad_sequences(arrays, value=np.inf)[0][2, 0, 0] == np.inf


@pytest.mark.parametrize(
    ("arrays", "options", "match"),
    [
        ([], {}, "got 0 arrays"),
        ([np.ones((2, 3)), np.ones((2, 4))], {}, r"\(2, 3\), \(2, 4\)"),
        ([np.ones(3)], {"length": 2}, "at most 2 steps, got one of 3"),
        ([np.ones(9)], {"buckets": [4, 8]}, "at most 8 steps, got one of 9"),
        ([np.ones(3)], {"length": 3, "buckets": [4]}, "length= or buckets="),
        ([[1, 2], [3]], {"value": 0.5}, "int64.*got 0.5"),
        ([[1, 2], [3]], {"value": np.nan}, "int64.*got nan"),
        ([np.ones(3)], {"value": 5j}, "float64.*got 5j"),
        ([np.ones(3)], {"value": None}, "float64.*got None"),
        ([np.ones(3, np.float32)], {"value": 1e39}, "float32.*got 1e\\+39"),
        ([np.ones(())], {}, r"shapes \[\(\)\]"),
    ],
)
def test_invalid_arguments_of_pad_sequences(arrays, options, match):
    """Arrays that do not fit, and padding values that the dtype cannot hold, are refused."""
    with pytest.raises(ValueError, match=match):
        rnn.pad_sequences(arrays, **options)


def test_segment_starts():
    """A start is where the id changes, also from `previous`; others than integers are refused."""
    ids = np.array([[1, 1, 2, 2], [3, 4, 4, 3]])
    starts = [[0, 0, 1, 0], [0, 1, 0, 1]]
    assert rnn.segment_starts(ids).astype(int).tolist() == starts
    starts[1][0] = 1
    assert rnn.segment_starts(ids, previous=np.array([1, 2])).astype(int).tolist() == starts
    assert rnn.segment_starts(ids[:, :0]).shape == (2, 0)
    assert rnn.segment_starts(ids[:, :0], previous=np.array([1, 2])).shape == (2, 0)
    with pytest.raises(ValueError, match=r"\[batch, time\], got shape \(4,\)"):
        rnn.segment_starts(ids[0])
    with pytest.raises(ValueError, match=r"shape \(2,\).*\(3,\)"):
        rnn.segment_starts(ids, previous=np.array([1, 2, 3]))
    with pytest.raises(TypeError, match="segment_ids of integers, got float64"):
        rnn.segment_starts(ids.astype(float))
    with pytest.raises(TypeError, match="previous of integers, got bool"):
        rnn.segment_starts(ids, previous=np.array([True, False]))


def test_packed_documents_are_separate_runs():
    """Documents packed in one row with resets equal separate runs, in both directions."""
    cell = rnn.GRUCell(4)
    documents = [X[i, :n] for i, n in enumerate((4, 2, 3))]
    row = np.concatenate(documents)[None]
    ids = np.repeat([5, 7, 6], [4, 2, 3])[None]
    params = rnn.init_bidirectional(jax.random.key(0), cell, cell, row.shape, jnp.float64)
    packed, _ = rnn.bidirectional_dynamic_rnn(
        cell, cell, params, row, resets=rnn.segment_starts(ids)
    )
    padded, lengths = rnn.pad_sequences(documents)
    apart, _ = rnn.bidirectional_dynamic_rnn(cell, cell, params, padded, lengths)
    for together, alone in zip(packed, apart, strict=True):
        rows = [y[:n] for y, n in zip(np.asarray(alone), lengths, strict=True)]
        np.testing.assert_allclose(together[0], np.concatenate(rows), rtol=1e-12)


@pytest.mark.parametrize(
    "run",
    [rnn.reverse_sequence, rnn.last_output, rnn.mean_pool, rnn.max_pool],
    ids=lambda f: f.__name__,
)
def test_lists_are_pytrees(run):
    """A list of numbers is a pytree of scalars, which have no time axis, and is refused."""
    with pytest.raises(ValueError, match=r"arrays \[batch, time, ...\], got one of shape \(\)"):
        run([[1.0, 2.0, 3.0]], [2])
