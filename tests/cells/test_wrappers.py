"""Wrappers of tf.contrib, and zoneout: TF's numbers, names of params, random draws, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled, names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
ONES = jnp.ones((1, 3))


def one_step(cell, x, state, kept=("bias",)):
    """One step with variables of 0.5, except those in `kept`."""
    params = filled(cell.init(KEY, x.shape[1:], jnp.float64), kept=kept)
    return cell(params, x, jnp.asarray(state))


def test_output_projection():
    """TF's testOutputProjectionWrapper, with gate biases of 1 and a projection bias of 0."""
    output, new = one_step(rnn.OutputProjectionWrapper(rnn.GRUCell(3), 2), ONES, [[0.1] * 3])
    np.testing.assert_allclose(output, [[0.231907, 0.231907]], atol=1e-6)
    np.testing.assert_allclose(new, [[0.154605] * 3], atol=1e-6)


def test_input_projection():
    """TF's testInputProjectionWrapper: output and state."""
    cell = rnn.InputProjectionWrapper(rnn.GRUCell(3), 3)
    output, new = one_step(cell, jnp.ones((1, 2)), [[0.1] * 3])
    np.testing.assert_allclose(output, [[0.154605] * 3], atol=1e-6)
    assert (output == new).all()


def test_embedding():
    """TF's testEmbeddingWrapper: output and state."""
    cell = rnn.EmbeddingWrapper(rnn.GRUCell(2), 3, 2)
    params = filled(cell.init(KEY, (), jnp.float64))
    output, new = cell(params, jnp.array([1]), jnp.full((1, 2), 0.1))
    np.testing.assert_allclose(output, [[0.17139, 0.17139]], atol=1e-6)
    assert (output == new).all()


def test_embedding_in_a_run():
    """TF's testEmbeddingWrapperWithDynamicRnn: ids give floats, and invalid ids give NaN."""
    cell = rnn.EmbeddingWrapper(rnn.BasicLSTMCell(1), 1, 2)
    params = cell.init(KEY, (1, 2))
    outputs, _ = rnn.dynamic_rnn(cell, params, np.zeros((1, 2), int), np.array([2]))
    embedded = jnp.broadcast_to(params["embedding"][0], (1, 2, 2))
    close(outputs, rnn.dynamic_rnn(cell.cell, params["cell"], embedded)[0], 0)
    for wrong in (1, -1):
        outputs, _ = rnn.dynamic_rnn(cell, params, np.array([[0, wrong]], np.int8))
        assert np.isfinite(outputs[0, 0]).all() and np.isnan(outputs[0, 1]).all()
    with pytest.raises(TypeError, match="expected integers, ids below 1, got float32"):
        rnn.dynamic_rnn(cell, params, np.zeros((1, 2), np.float32))


def test_initial_embeddings_have_variance_1():
    """They are uniform in [-sqrt(3), sqrt(3)], as in TF1."""
    table = rnn.EmbeddingWrapper(rnn.GRUCell(2), 100, 100).init(KEY, ())["embedding"]
    assert abs(float(table.std()) - 1) < 0.02 and float(jnp.abs(table).max()) <= 3**0.5


def test_highway():
    """TF's testHighwayWrapper: with the carry gate closed it is the cell, open the identity."""
    x, state = jnp.array([[1.0, 2.0, 3.0]]), [[0.1] * 3]
    gru, kept = rnn.GRUCell(3), ("bias", "_b")
    output, new = one_step(gru, x, state)
    for coupled in (True, False):
        options = {"couple_carry_transform_gates": coupled}
        nothing = rnn.HighwayWrapper(gru, carry_bias_init=-100.0, **options)
        close(one_step(nothing, x, state, kept), (output, new), 1e-5)
        everything = rnn.HighwayWrapper(gru, carry_bias_init=100.0, **options)
        close(one_step(everything, x, state, kept), (x, new), 1e-5)


def test_names_and_shapes_of_params():
    """Wrappers with params have those of their cell under `cell`; zoneout has only the cell's."""
    gru = {f"cell/{name}": shape for name, shape in names(rnn.GRUCell(4).init(KEY, (4,))).items()}
    own = {
        rnn.HighwayWrapper(rnn.GRUCell(4)): {"carry_w": (4, 4), "carry_b": (4,)},
        rnn.HighwayWrapper(rnn.GRUCell(4), couple_carry_transform_gates=False): {
            "carry_w": (4, 4), "carry_b": (4,), "transform_w": (4, 4), "transform_b": (4,),
        },
        rnn.OutputProjectionWrapper(rnn.GRUCell(4), 2): {"kernel": (4, 2), "bias": (2,)},
        rnn.AttentionCellWrapper(rnn.GRUCell(4), 3, attn_size=2, attn_vec_size=5): {
            "kernel": (6, 4), "bias": (4,),
            "attention/attn_w": (1, 1, 2, 5), "attention/attn_v": (5,),
            "attention/kernel": (4, 5), "attention/bias": (5,),
            "attn_output_projection/kernel": (6, 2), "attn_output_projection/bias": (2,),
        },
        rnn.ZoneoutWrapper(rnn.GRUCell(4), state_keep_prob=0.5): None,
    }  # fmt: skip
    for cell, expected in own.items():
        inner = names(rnn.GRUCell(4).init(KEY, (4,))) if expected is None else gru | expected
        assert names(cell.init(KEY, (4,))) == inner


def test_attention_cell_failures():
    """TF's testAttentionCellWrapperFailures: invalid cell, length and size."""
    with pytest.raises(TypeError, match="AttentionCellWrapper's cell: expected a cell"):
        rnn.AttentionCellWrapper(None, 4)
    for length in (0, -1):
        with pytest.raises(ValueError, match=f"attn_length should be a positive int, got {length}"):
            rnn.AttentionCellWrapper(rnn.GRUCell(4), length)
    unknown = rnn.AttentionCellWrapper(rnn.ResidualWrapper(rnn.GRUCell(4)), 2)
    with pytest.raises(ValueError, match="expected attn_size, .* got None"):
        unknown.zero_state(2)


def test_attention_cell_zeros():
    """TF's testAttentionCellWrapperZeros: zero inputs and states give zeros."""
    cell = rnn.AttentionCellWrapper(rnn.BasicLSTMCell(8), 16)
    params, start = cell.init(KEY, (8,)), cell.zero_state(3, jnp.float32)
    results = cell(params, jnp.zeros((3, 8), jnp.float32), start)
    assert [x.shape for x in jax.tree.leaves(results)] == [(3, 8)] * 4 + [(3, 128)]
    assert all(not x.any() for x in jax.tree.leaves(results))


def test_attention_cell_values():
    """TF's testAttentionCellWrapperValues: rows with different inputs have different results.

    Their attention is the same, since the past outputs are.
    """
    cell = rnn.AttentionCellWrapper(rnn.BasicLSTMCell(8), 16)
    params = cell.init(KEY, (8,))
    start = jax.tree.map(lambda x: x + 0.1, cell.zero_state(3))
    inputs = jax.random.uniform(KEY, (3, 8), jnp.float32)
    output, (lstm, attention, past) = cell(params, inputs, start)
    np.testing.assert_allclose(attention, 0.1, rtol=1e-6)
    for x in (output, *lstm, past):
        for row in (x[1], x[2]):
            assert np.linalg.norm(x[0] - row) > 1e-6 and np.abs(row).max() < 1


def test_zoneout_draws_units():
    """Each unit of each row keeps its old value or takes its new one, with `state_keep_prob`."""
    cell = rnn.ZoneoutWrapper(rnn.LSTMCell(40), state_keep_prob=0.3)
    inputs = np.random.default_rng(0).normal(size=(8, 1, 3))
    params = cell.init(KEY, inputs.shape, jnp.float64)
    start = jax.tree.map(lambda x: x + 5.0, cell.zero_state(8, jnp.float64))
    outputs, new = rnn.dynamic_rnn(cell.cell, params, inputs, None, start)
    for seed in (0, 1):
        key = jax.random.key(seed)
        actual, state = rnn.dynamic_rnn(cell, params, inputs, None, start, key=key)
        close(actual, outputs, 1e-14)
        for x, updated in zip(state, new, strict=True):
            kept, taken = x == 5.0, np.abs(x - updated) < 1e-14
            assert (kept | taken).all() and 0.2 < taken.mean() < 0.4 and not kept.all(0).all()
        assert ((state.c == 5.0) != (state.h == 5.0)).any()
    repeated = rnn.dynamic_rnn(cell, params, inputs, None, start, key=key)[1]
    close(repeated, state, 0)


def test_zoneout_with_a_probability_of_1_and_0():
    """A probability of 1 equals the inner cell; one of 0 is refused."""
    inputs = np.random.default_rng(0).normal(size=(2, 4, 3))
    cell = rnn.ZoneoutWrapper(rnn.GRUCell(4), state_keep_prob=1.0)
    params = cell.init(KEY, inputs.shape)
    expected = rnn.dynamic_rnn(rnn.GRUCell(4), params, inputs)
    close(rnn.dynamic_rnn(cell, params, inputs, key=KEY), expected, 0)
    with pytest.raises(ValueError, match=r"ZoneoutWrapper: expected state_keep_prob .*got 0"):
        rnn.ZoneoutWrapper(rnn.GRUCell(4), state_keep_prob=0)


def test_highway_needs_outputs_of_the_size_of_the_inputs():
    """A cell with outputs of another size is refused, with advice."""
    cell = rnn.HighwayWrapper(rnn.GRUCell(4))
    params = cell.init(KEY, (3,))
    with pytest.raises(ValueError, match=r"inputs' shape \(2, 3\), got \(2, 4\); give the cell"):
        rnn.dynamic_rnn(cell, params, np.ones((2, 5, 3), np.float32))
