"""AttentionWrapper: score functions, memory lengths, names of params, and errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
B, T, D, S, M, U = 3, 4, 2, 5, 3, 6
INPUTS, MEMORY = RANDOM.normal(size=(B, T, D)), RANDOM.normal(size=(B, S, M))
BAHDANAU, LUONG = (kind(U, memory_size=M) for kind in (rnn.BahdanauAttention, rnn.LuongAttention))


def wrapped(mechanism=LUONG, **options):
    return rnn.AttentionWrapper(rnn.GRUCell(U), mechanism, **options)


def run(cell, memory=MEMORY, length=None, **options):
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    return rnn.dynamic_rnn(cell, cell.attend(params, memory, length), INPUTS, **options)


@pytest.mark.parametrize("option", [False, True])
@pytest.mark.parametrize("kind", ["bahdanau", "luong"])
def test_scores(kind, option):
    """Each score function agrees with its formula, slot by slot of the memory."""
    make = rnn.BahdanauAttention if kind == "bahdanau" else rnn.LuongAttention
    flag = {"normalize" if kind == "bahdanau" else "scale": option}
    mechanism = make(U, memory_size=M, **flag)
    params = mechanism.init(KEY, U, jnp.float64)
    params = jax.tree.map(lambda x: x + 0.3 * RANDOM.normal(size=x.shape), params)
    query, keys = RANDOM.normal(size=(B, U)), RANDOM.normal(size=(B, S, U))
    prepared = mechanism.prepare(params)
    actual = mechanism.score(prepared, jnp.asarray(query), jnp.asarray(keys))
    for b in range(B):
        for s in range(S):
            if kind == "luong":
                expected = keys[b, s] @ query[b] * (params["attention_g"] if option else 1)
            else:
                hidden, v = (
                    keys[b, s] + query[b] @ params["query_layer"]["kernel"],
                    params["attention_v"],
                )
                if option:
                    hidden = hidden + params["attention_b"]
                    v = params["attention_g"] * v / np.linalg.norm(v)
                expected = v @ np.tanh(hidden)
            np.testing.assert_allclose(actual[b, s], expected, rtol=1e-12)


@pytest.mark.parametrize("mechanism", [BAHDANAU, LUONG], ids=["bahdanau", "luong"])
def test_padding_of_a_memory_has_no_effect(mechanism):
    """NaN behind the lengths of a memory reaches neither results nor gradients."""
    cell, length = wrapped(mechanism, alignment_history=True), np.array([5, 2, 0])
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    corrupted = MEMORY.copy()
    corrupted[1, 2:] = corrupted[2] = np.nan

    def loss(params, memory, length):
        (outputs, alignments), state = rnn.dynamic_rnn(
            cell, cell.attend(params, memory, length), INPUTS
        )
        return (outputs**2).sum() + (alignments**2).sum(), (outputs, alignments, state)

    gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, (outputs, alignments, state)), (dparams, dmemory) = gradient(params, corrupted, length)
    assert not alignments[1, :, 2:].any() and not alignments[2].any()
    np.testing.assert_allclose(alignments[:2].sum(-1), 1, rtol=1e-12)
    assert not outputs[2].any() and not state.attention[2].any()  # the context is 0
    assert not dmemory[1, 2:].any() and not dmemory[2].any() and dmemory[1, :2].all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(dparams))

    def row(x, b):
        return x[b : b + 1]

    shorter = cell.attend(params, row(MEMORY, 1)[:, :2])
    (expected, weights), _ = rnn.dynamic_rnn(cell, shorter, row(INPUTS, 1))
    close((row(outputs, 1), row(alignments, 1)[..., :2]), (expected, weights), 1e-12)


def test_one_step_agrees_with_its_formula():
    """In TF's order: the cell, then attention with its output as query, then the layer."""
    cell = wrapped(BAHDANAU, attention_layer_size=4)
    params = cell.attend(cell.init(KEY, (D,), jnp.float64), MEMORY)
    start = cell.start(params, B, jnp.float64)
    start = start._replace(attention=jnp.asarray(RANDOM.normal(size=(B, 4))))
    output, new = cell(params, jnp.asarray(INPUTS[:, 0]), start)
    cell_inputs = jnp.concatenate([INPUTS[:, 0], start.attention], 1)
    y, gru = cell.cell(params["cell"], cell_inputs, start.cell_state)
    own = params["bahdanau_attention"]
    hidden = MEMORY @ own["memory_layer"]["kernel"] + (y @ own["query_layer"]["kernel"])[:, None]
    weights = jax.nn.softmax(np.tanh(hidden) @ own["attention_v"], -1)
    context = np.einsum("bs,bsm->bm", weights, MEMORY)
    attention = np.concatenate([y, context], 1) @ params["attention_layer"]["kernel"]
    close(output, attention, 1e-12)
    expected = rnn.AttentionWrapperState(gru, attention, np.array(1), weights)
    close(new, expected, 1e-12)


def test_output_and_input_options():
    """`output_attention`, `alignment_history` and `cell_input_fn`."""
    plain = run(wrapped())
    output, state = run(wrapped(output_attention=False))
    assert output.shape == (B, T, U) and plain[0].shape == (B, T, M)
    close(state, plain[1], 0)
    (output, weights), state = run(wrapped(alignment_history=True))
    close((output, state), plain, 0)
    close(weights[:, -1], state.alignments, 0)
    blind = wrapped(cell_input_fn=lambda x, attention: x)
    assert names(blind.init(KEY, (D,)))["cell/gates/kernel"] == (D + U, 2 * U)
    params = blind.init(KEY, INPUTS.shape, jnp.float64)
    _, state = rnn.dynamic_rnn(blind, blind.attend(params, MEMORY), INPUTS)
    close(state.cell_state, rnn.dynamic_rnn(rnn.GRUCell(U), params["cell"], INPUTS)[1], 1e-14)


def test_several_mechanisms():
    """Several mechanisms have one memory for all or one each; a list of one gives tuples of one."""
    both = wrapped([LUONG, BAHDANAU])
    (output, state), params = run(both), both.init(KEY, INPUTS.shape, jnp.float64)
    assert output.shape == (B, T, 2 * M) and len(state.alignments) == 2
    close(run(both, [MEMORY, MEMORY]), (output, state), 0)
    other = RANDOM.normal(size=(B, 2, M))
    _, state = run(both, [MEMORY, other], [None, np.array([1, 0, 2])])
    assert [x.shape for x in state.alignments] == [(B, S), (B, 2)]
    assert state.alignments[1][0].tolist() == [1, 0] and not state.alignments[1][1].any()
    assert sorted(params) == ["bahdanau_attention", "cell", "luong_attention"]
    single, _ = run(wrapped([LUONG])), run(wrapped(LUONG))
    assert isinstance(single[1].alignments, tuple)
    assert wrapped([LUONG]) == wrapped((LUONG,)) != wrapped(LUONG)


def test_names_and_shapes_of_params():
    """Mechanisms and layers are numbered as in TF1, and have its shapes and initial values."""
    mechanisms = [rnn.BahdanauAttention(4, normalize=True, memory_size=3), LUONG, BAHDANAU]
    cell = wrapped(mechanisms, attention_layer_size=[5, 6, 7])
    params = cell.init(KEY, (None, None, D))
    assert {k: v for k, v in names(params).items() if "cell/" not in k} == {
        "bahdanau_attention/memory_layer/kernel": (3, 4),
        "bahdanau_attention/query_layer/kernel": (6, 4),
        "bahdanau_attention/attention_v": (4,),
        "bahdanau_attention/attention_g": (),
        "bahdanau_attention/attention_b": (4,),
        "luong_attention/memory_layer/kernel": (3, 6),
        "bahdanau_attention_1/memory_layer/kernel": (3, 6),
        "bahdanau_attention_1/query_layer/kernel": (6, 6),
        "bahdanau_attention_1/attention_v": (6,),
        "attention_layer/kernel": (6 + 3, 5),
        "attention_layer_1/kernel": (6 + 3, 6),
        "attention_layer_2/kernel": (6 + 3, 7),
    }
    assert names(params)["cell/gates/kernel"] == (D + 18 + U, 2 * U)
    assert params["bahdanau_attention"]["attention_g"] == 0.5  # sqrt(1 / 4)
    assert not params["bahdanau_attention"]["attention_b"].any()
    scaled = rnn.LuongAttention(U, scale=True).init(KEY, U, jnp.float32)
    assert scaled["attention_g"] == 1 and scaled["memory_layer"]["kernel"].shape == (U, U)


def test_user_defined_mechanisms():
    """Mechanisms without a `NAME` are named by their class, with distinct numbers."""

    @dataclasses.dataclass(frozen=True)
    class Dot(rnn.attention.Mechanism):
        def score(self, params, query, keys):
            return (jnp.expand_dims(query[..., :2], -2) * keys).sum(-1)

    cell = wrapped([Dot(2, memory_size=M), LUONG, Dot(2, memory_size=M)])
    params = cell.init(KEY, (D,), jnp.float64)
    assert [*params] == ["cell", "Dot", "luong_attention", "Dot_1"]

    class Named(Dot):
        NAME = "Dot_1"

    named = wrapped([Dot(2, memory_size=M), Named(2, memory_size=M), Dot(2, memory_size=M)])
    assert [*named.mechanisms] == ["Dot", "Dot_1", "Dot_2"]
    params = cell.attend(params, [MEMORY] * 3, [[5, 1, 0]] * 3)
    assert jnp.isfinite(rnn.dynamic_rnn(cell, params, INPUTS)[0]).all()


def test_params_are_drawn_independently():
    """No two kernels, of one mechanism or of two, are correlated."""
    cell = wrapped([rnn.BahdanauAttention(U), rnn.BahdanauAttention(U)])
    params = cell.init(KEY, (D,), jnp.float64)
    drawn = [
        np.ravel(kernel)[:U]
        for name in ("bahdanau_attention", "bahdanau_attention_1")
        for kernel in (
            params[name]["memory_layer"]["kernel"],
            params[name]["query_layer"]["kernel"],
            params[name]["attention_v"],
        )
    ]
    correlated = np.abs(np.corrcoef(drawn)) > 0.99
    assert (correlated == np.eye(6, dtype=bool)).all()


def test_a_memory_without_slots_or_rows():
    """Without slots the context is 0; without rows outputs have no rows."""
    outputs, state = run(wrapped(BAHDANAU, alignment_history=True), MEMORY[:, :0])
    assert outputs[1].shape == (B, T, 0) and not outputs[0].any() and state.time == T
    cell = wrapped()
    params = cell.attend(cell.init(KEY, (D,), jnp.float64), MEMORY[:0], [])
    assert rnn.dynamic_rnn(cell, params, INPUTS[:0])[0].shape == (0, T, M)


def test_narrow_lengths():
    """Lengths may have an integer dtype that cannot hold the number of slots."""
    mechanism, values = rnn.LuongAttention(M, memory_size=M), jnp.zeros((2, 200, M))
    for dtype, lengths in (("int8", [100, 3]), ("uint8", [200, 3])):
        assert mechanism.memory(values, np.array(lengths, dtype)).length.tolist() == lengths


MISTAKES = {
    "no mechanism": (lambda: wrapped(None), TypeError, "a list of them, got NoneType"),
    "an empty list": (lambda: wrapped([]), TypeError, "a list of them, got NoneType"),
    "layers": (
        lambda: wrapped([LUONG, LUONG], attention_layer_size=3),
        ValueError,
        "expected 2 sizes in attention_layer_size, one for each mechanism, got 3",
    ),
    "a layer of 0": (lambda: wrapped(attention_layer_size=0), ValueError, ">= 1, got 0"),
    "units": (
        lambda: wrapped(rnn.LuongAttention(5, memory_size=M)).init(KEY, (D,)),
        ValueError,
        "an output of num_units=5 features, got 6; BahdanauAttention takes any",
    ),
    "zero state": (lambda: wrapped().zero_state(2), ValueError, "a call of start.*got one of zero"),
    "memory's size": (
        lambda: run(wrapped(), MEMORY[..., :2]),
        ValueError,
        r"\[batch, slots, 3\] for LuongAttention.*got shape \(3, 5, 2\); .* memory_size=2",
    ),
    "memory's dtype": (lambda: run(wrapped(), MEMORY > 0), TypeError, "floating dtype, got bool"),
    "memory's batch": (
        lambda: run(wrapped(), MEMORY[:2]),
        ValueError,
        r"memory of the inputs' batch \(3,\), got \(2,\)",
    ),
    "memories": (
        lambda: run(wrapped(), [MEMORY, MEMORY]),
        ValueError,
        "one memory, or 1, one for each mechanism, got 2",
    ),
    "no memory": (
        lambda: rnn.dynamic_rnn(wrapped(), wrapped().init(KEY, (D,)), INPUTS),
        ValueError,
        r"params with a memory, got none; call params = cell.attend\(",
    ),
    "lengths' shape": (
        lambda: run(wrapped(), MEMORY, [5, 5]),
        ValueError,
        r"memory_length: expected integers of shape \(3,\), .* got shape \(2,\)",
    ),
    "lengths' dtype": (lambda: run(wrapped(), MEMORY, [1.5] * 3), TypeError, "got dtype float64"),
    "lengths' values": (
        lambda: run(wrapped(), MEMORY, [6, 5, 5]),
        ValueError,
        r"memory_length: expected values in \[0, 5\], the slots of the memory, got 6 in row 0",
    ),
}


@pytest.mark.parametrize("row", MISTAKES)
def test_invalid_arguments(row):
    """Invalid mechanisms, sizes and memories are refused with a reason."""
    make, error, message = MISTAKES[row]
    with pytest.raises(error, match=message):
        make()
