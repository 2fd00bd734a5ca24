"""AttentionWrapper in stacks, wrappers and decoders, and under JAX's transformations."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(1)
B, T, D, S, M, U = 3, 4, 2, 5, 3, 6
INPUTS, MEMORY = RANDOM.normal(size=(B, T, D)), RANDOM.normal(size=(B, S, M))
LENGTHS = [5, 3, 0]
BAHDANAU = rnn.BahdanauAttention(U, memory_size=M)
LUONG = rnn.LuongAttention(U, memory_size=M)
CELL = rnn.AttentionWrapper(rnn.GRUCell(U), BAHDANAU, attention_layer_size=4)
PARAMS = CELL.init(KEY, INPUTS.shape, jnp.float64)


def run(cell, params, memory=MEMORY, **options):
    return rnn.dynamic_rnn(cell, cell.attend(params, memory, LENGTHS), INPUTS, **options)


def test_vmap_over_memories_and_gradients_to_them():
    """`vmap` equals a loop; gradients by the memory are right, and 0 in its padding."""

    def loss(memory):
        return (run(CELL, PARAMS, memory)[0] ** 2).sum()

    memories = np.stack([MEMORY, 2 * MEMORY])
    values, gradients = jax.vmap(jax.value_and_grad(loss))(memories)
    for i in range(2):
        close((values[i], gradients[i]), jax.value_and_grad(loss)(memories[i]), 1e-12)
    direction = RANDOM.normal(size=MEMORY.shape)
    measured = (loss(MEMORY + 1e-6 * direction) - loss(MEMORY - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(measured, (gradients[0] * direction).sum(), rtol=1e-6)
    assert gradients[0][0].all() and not gradients[0][1, 3:].any() and not gradients[0][2].any()


def test_in_a_stack_and_in_wrappers():
    """`attend` of the outermost cell reaches the attention wrapper inside."""
    inner = rnn.AttentionWrapper(rnn.GRUCell(U), LUONG)
    cell = rnn.MultiRNNCell(
        [rnn.GRUCell(D), rnn.DropoutWrapper(rnn.OutputProjectionWrapper(inner, 4))]
    )
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    outputs, (_, upper) = run(cell, params)
    lower, _ = rnn.dynamic_rnn(rnn.GRUCell(D), params["cell_0"], INPUTS)
    own = inner.attend(params["cell_1"]["cell"], MEMORY, LENGTHS)
    expected, state = rnn.dynamic_rnn(inner, own, lower)
    close(upper, state, 1e-14)
    layer = params["cell_1"]
    close(outputs, expected @ layer["kernel"] + layer["bias"][None, None], 1e-12)
    with pytest.raises(TypeError, match="expected an AttentionWrapper somewhere inside"):
        rnn.MultiRNNCell([rnn.GRUCell(D)]).attend({}, MEMORY)


def test_inside_an_embedding_wrapper():
    """An attention wrapper inside of an `EmbeddingWrapper`, as decoders have it."""
    cell = rnn.EmbeddingWrapper(CELL, 7, D)
    ids = RANDOM.integers(7, size=(B, T))
    params = cell.init(KEY, ids.shape, jnp.float64)
    outputs, _ = rnn.dynamic_rnn(cell, cell.attend(params, MEMORY, LENGTHS), ids)
    own = CELL.attend(params["cell"], MEMORY, LENGTHS)
    close(outputs, rnn.dynamic_rnn(CELL, own, params["embedding"][ids])[0], 1e-14)


def test_nested_attention_wrappers():
    """Both the inner and the outer wrapper attend to the memory."""
    outer = rnn.AttentionWrapper(CELL, rnn.LuongAttention(4, memory_size=M))
    params = outer.init(KEY, INPUTS.shape, jnp.float64)
    both = outer.attend(params, MEMORY, LENGTHS)
    expected = params | {"cell": CELL.attend(params["cell"], MEMORY, LENGTHS)}
    expected |= {"memory": both["memory"]}
    close(both, expected, 0)
    outputs, state = rnn.dynamic_rnn(outer, both, INPUTS)
    assert outputs.shape == (B, T, M) and state.cell_state.alignments.shape == (B, S)


def test_learned_initial_state_goes_inside():
    """`LearnedInitialState` may be inside of an attention wrapper, but not around it."""
    inside = rnn.AttentionWrapper(rnn.LearnedInitialState(rnn.GRUCell(U)), LUONG)
    params = inside.init(KEY, INPUTS.shape, jnp.float64)
    params["cell"]["initial_state"]["state"] += 2.0
    start = inside.start(inside.attend(params, MEMORY), (B,), jnp.float64)
    assert (start.cell_state == 2).all() and not start.attention.any()
    with pytest.raises(TypeError, match=r"LearnedInitialState: .*got AttentionWrapper, .*inside"):
        rnn.LearnedInitialState(CELL)


def test_starts_from_the_final_state_of_an_encoder():
    """TF1's `initial_cell_state`: the start state with a replaced `cell_state`."""
    encoder = rnn.GRUCell(U)
    encoded = encoder.init(KEY, (B, S, M), jnp.float64)
    memory, final = rnn.dynamic_rnn(encoder, encoded, MEMORY, LENGTHS)
    cell = rnn.AttentionWrapper(rnn.GRUCell(U), rnn.LuongAttention(U))
    params = cell.attend(cell.init(KEY, (D,), jnp.float64), memory, LENGTHS)
    start = cell.start(params, (B,), jnp.float64)._replace(cell_state=final)
    outputs, state = rnn.dynamic_rnn(cell, params, INPUTS, initial_state=start)
    stepped = start
    for t in range(T):
        output, stepped = cell(params, jnp.asarray(INPUTS[:, t]), stepped)
        close(outputs[:, t], output, 1e-13)
    close(state, stepped, 1e-13)


def test_export_and_no_recompilation():
    """Params with a memory can be exported; another memory causes no compilation."""
    attended = CELL.attend(PARAMS, MEMORY, LENGTHS)
    compiled = jax.jit(lambda params, inputs: rnn.dynamic_rnn(CELL, params, inputs))
    exported = jax.export.deserialize(jax.export.export(compiled)(attended, INPUTS).serialize())
    close(exported.call(attended, INPUTS), compiled(attended, INPUTS), 1e-14)
    other = CELL.attend(PARAMS, 2 * MEMORY, np.array([1, 2, 3], np.int64))
    assert (compiled(other, INPUTS)[0] != compiled(attended, INPUTS)[0]).any()
    assert compiled._cache_size() == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("mechanism", [
    rnn.BahdanauAttention(U, normalize=True, memory_size=M),
    rnn.LuongAttention(U, scale=True, memory_size=M),
], ids=["bahdanau", "luong"])  # fmt: skip
def test_dtypes(dtype, mechanism):
    """TF's testBahdanauNormalizedDType and testLuongScaledDType: results have the given dtype."""
    cell = rnn.AttentionWrapper(rnn.LSTMCell(U), mechanism, alignment_history=True)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    expected = run(cell, params)
    actual = run(cell, params, dtype=dtype)
    floating = [x for x in jax.tree.leaves(actual) if x.ndim]
    assert {x.dtype for x in floating} == {jnp.dtype(dtype)}
    close(actual, expected, 8 * jnp.finfo(dtype).eps)


def test_decoding():
    """Greedy decoding under jit equals a loop over steps, and beam search with one beam."""
    table, dense = jnp.asarray(RANDOM.normal(size=(7, D))), jnp.asarray(RANDOM.normal(size=(4, 7)))
    embed, logits = lambda ids: table[ids], lambda y: 9 * y @ dense

    @jax.jit
    def decode(params, memory):
        params = CELL.attend(params, memory, LENGTHS)
        start = CELL.start(params, (B,), jnp.float64)
        arguments = (CELL, params, embed, logits, 1, 2, start)
        greedy = rnn.greedy_decode(*arguments, maximum_iterations=6)
        return greedy, rnn.beam_search(*arguments, beam_width=1, maximum_iterations=6)

    (ids, lengths, state), (beam_ids, beam_lengths, _) = decode(PARAMS, MEMORY)
    close((beam_ids[:, 0], beam_lengths[:, 0]), (ids, lengths), 0)
    attended = CELL.attend(PARAMS, MEMORY, LENGTHS)
    stepped, last = CELL.start(attended, (B,), jnp.float64), jnp.full(B, 1)
    for t in range(6):
        output, stepped = CELL(attended, embed(last), stepped)
        last = jnp.argmax(logits(output), -1)
        going_on = t <= lengths
        assert (np.asarray(ids[:, t]) == np.where(going_on, last, 2)).all()
    assert ids.shape == (B, 6) and state.time <= 6


def test_a_beam_needs_no_tiled_memory():
    """TF's testDynamicDecodeRNNBatchMajorYesAttention: the scores of beams are those of runs."""
    table, dense = jnp.asarray(RANDOM.normal(size=(7, D))), jnp.asarray(RANDOM.normal(size=(4, 7)))
    attended = CELL.attend(PARAMS, MEMORY, LENGTHS)
    start = CELL.start(attended, (B,), jnp.float64)
    ids, lengths, scores = rnn.beam_search(
        CELL, attended, lambda ids: table[ids], lambda y: 4 * y @ dense, 1, 2, start,
        beam_width=3, maximum_iterations=5,
    )  # fmt: skip
    assert ids.shape == (B, 3, 5) and (np.diff(scores) <= 0).all()
    tiled = CELL.attend(PARAMS, *rnn.tile_batch((MEMORY, jnp.asarray(LENGTHS)), 3))
    rows = ids.reshape(3 * B, 5)
    fed = jnp.concatenate([jnp.full((3 * B, 1), 1), rows[:, :-1]], 1)
    outputs, _ = rnn.dynamic_rnn(CELL, tiled, table[fed])
    of_ids = jax.nn.log_softmax(4 * outputs @ dense, -1)
    of_ids = jnp.take_along_axis(of_ids, rows[..., None], -1)[..., 0]
    counted = np.arange(5) <= np.asarray(lengths).reshape(-1, 1)  # including the first end id
    close(scores.reshape(-1), np.where(counted, of_ids, 0).sum(1), 1e-12)
