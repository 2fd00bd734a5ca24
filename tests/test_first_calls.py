"""Mistakes of first-time users: wrong types, orders and names of arguments, wrong callbacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from messages import says
from toys import batch_of

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx

B, T, D, H = 2, 3, 4, 5
KEY = jax.random.key(0)
X = jnp.ones((B, T, D), jnp.float32)
ROWS, STATE = X[:, 0], jnp.zeros((B, H), jnp.float32)
GRU = rnn.GRUCell(H)
PARAMS = GRU.init(KEY, X.shape)
INTEGERS = jax.tree.map(lambda x: x.astype(jnp.int32), PARAMS)
ATTENTION = rnn.AttentionWrapper(GRU, rnn.LuongAttention(H))
OUTPUTS = jnp.ones((B, T, H), jnp.float32)
RAGGED = [[True], [True, False]]
FACTORY = jax.nn.initializers.orthogonal
SIZES = "^batch_shape: expected an int >= 0, or a tuple of them, got"
INITIALIZER = r"a function of \(key, shape, dtype\), .* did you mean to call it\?$"
TABLE, KERNEL = jnp.ones((9, D), jnp.float32), jnp.ones((H, 9), jnp.float32)
LOOKS = "can be traced, got one that looks at a value .* jnp.where"


def run(cell=GRU, params=PARAMS, **options):
    return rnn.dynamic_rnn(cell, params, X, **options)


def decode(embed=lambda ids: TABLE[ids], logits=lambda output: output @ KERNEL, **options):
    options = {"start": 1, "end": 0, "initial_state": STATE, "maximum_iterations": 2, **options}
    return rnn.greedy_decode(GRU, PARAMS, embed, logits, **options)


def loop(replace, first=False):
    """Runs `raw_rnn` with items of what `loop_fn` returns replaced, by index.

    They are replaced in the first call of `loop_fn` if `first`, else in the later ones.
    """

    def loop_fn(time, output, state, loop_state):
        is_first = output is None
        returned = [time >= jnp.full(B, T, jnp.int32), ROWS, STATE if is_first else state, output]
        returned.append(None)
        if is_first == first:
            for i, value in replace.items():
                returned[i] = value
        return returned

    return rnn.raw_rnn(GRU, PARAMS, loop_fn, maximum_iterations=2)


def branches_on_time(time, output, state, loop_state):
    if time > 0:
        return None
    return time >= jnp.full(B, T, jnp.int32), ROWS, STATE, None, None


def residual(residual_fn):
    return run(rnn.ResidualWrapper(GRU, residual_fn=residual_fn))


def layer(**options):
    return rnnx.RNN(GRU, **{"in_features": D, "rngs": nnx.Rngs(0), **options})


class Looks(rnn.Cell):
    """Branches in Python on the values of its inputs, and so cannot be traced."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_of(batch_shape), D), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        return inputs if inputs.max() > 0 else state, state


# row: (call, error, a fragment that the message must contain)
CALLS = {
    # methods of a cell
    "init: an int for a key": (lambda: GRU.init(0, X.shape), ValueError, "^key: expected one key"),
    "init: no key": (lambda: GRU.init(None, X.shape), ValueError, "^key: .* got None"),
    "init: other order": (lambda: GRU.init(X.shape, KEY), ValueError, "^key: expected one key"),
    "init: rngs": (lambda: GRU.init(nnx.Rngs(0), X.shape), ValueError, "^key: .* got Rngs"),
    "init: nothing": (
        lambda: GRU.init(),
        TypeError,
        r"^GRUCell\.init: .* missing key, input_shape",
    ),
    "init: no shape": (lambda: GRU.init(KEY), TypeError, r"^GRUCell\.init: .* missing input_shape"),
    "init: ints": (lambda: GRU.init(KEY, X.shape, jnp.int32), TypeError, "^dtype: .* got int32"),
    "init: a typo": (
        lambda: GRU.init(KEY, X.shape, "float23"),
        TypeError,
        "did you mean 'float32'",
    ),
    "init: a name": (
        lambda: GRU.init(KEY, X.shape, param_dtype=jnp.float32),
        TypeError,
        r"^GRUCell\.init: .* its name here is dtype=",
    ),
    "init: below 0": (lambda: GRU.init(KEY, (B, T, -1)), ValueError, "features >= 0, got -1"),
    "init of a pair": (
        lambda: rnn.init_bidirectional(0, GRU, GRU, X.shape),
        ValueError,
        "^key: expected one key",
    ),
    "init of a stack of pairs": (
        lambda: rnn.init_stack_bidirectional(0, [GRU], [GRU], X.shape),
        ValueError,
        "^key: expected one key",
    ),
    "zero_state: below 0": (lambda: GRU.zero_state(-1), TypeError, f"{SIZES} -1"),
    "zero_state: a float": (lambda: GRU.zero_state(2.0), TypeError, f"{SIZES} 2.0"),
    "zero_state: the inputs": (lambda: rnn.LSTMCell(H).zero_state(X), TypeError, SIZES),
    "zero_state: nothing": (lambda: GRU.zero_state(None), TypeError, f"{SIZES} None"),
    "zero_state: traced": (lambda: jax.jit(GRU.zero_state)(2), TypeError, f"{SIZES} a traced"),
    "zero_state: a dtype": (lambda: GRU.zero_state(2, "foo"), TypeError, "^dtype: expected a real"),
    "attend: other order": (
        lambda: ATTENTION.attend(OUTPUTS, PARAMS),
        TypeError,
        r"^params: expected a dict, .* the order of arguments is cell\.attend\(params, memory",
    ),
    "attend: a name": (
        lambda: ATTENTION.attend({}, OUTPUTS, memory_sequence_length=[1, 2]),
        TypeError,
        "its name here is memory_length=",
    ),
    "attend: no memory": (
        lambda: GRU.attend(PARAMS),
        TypeError,
        r"GRUCell\.attend: .* missing mem",
    ),
    "by hand: None": (lambda: GRU(PARAMS, None, STATE), TypeError, "^inputs: .* got None"),
    "by hand: text": (lambda: GRU(PARAMS, "a", STATE), TypeError, "^inputs: .* got 'a'"),
    "by hand: a list": (
        lambda: GRU(PARAMS, [[1.0] * D] * B, STATE),
        TypeError,
        "^inputs: .* got list of 2 .* jnp.asarray",
    ),
    "by hand: a key": (lambda: GRU(PARAMS, ROWS, STATE, key=0), ValueError, "^key: expected one"),
    "params of ints": (lambda: run(params=INTEGERS), TypeError, "^params: expected kernels of a r"),
    # callbacks
    "an initialiser's maker": (
        lambda: rnn.GRUCell(H, kernel_initializer=FACTORY).init(KEY, X.shape),
        TypeError,
        f"^GRUCell: expected kernel_initializer to be {INITIALIZER}",
    ),
    "an initialiser's maker, of biases": (
        lambda: rnn.GRUCell(H, bias_initializer=jax.nn.initializers.constant).init(KEY, X.shape),
        TypeError,
        f"^GRUCell: expected bias_initializer to be {INITIALIZER}",
    ),
    "an initialiser of shapes": (
        lambda: (
            rnn.MultiRNNCell([rnn.LSTMCell(H, kernel_initializer=jnp.zeros)]).init(KEY, X.shape)
            and rnn.LSTMCell(H, kernel_initializer=lambda shape: jnp.zeros(shape)).init(
                KEY, X.shape
            )
        ),
        TypeError,
        "^LSTMCell: expected kernel_initializer to be a function",
    ),
    "residual_fn of one": (
        lambda: residual(lambda inputs: inputs),
        TypeError,
        r"^residual_fn: expected a function of 2 \(inputs, outputs\), got one of \(inputs\)",
    ),
    "residual_fn without return": (lambda: residual(lambda x, y: None), TypeError, "got None"),
    "merge_fn of one": (
        lambda: rnnl.Bidirectional(GRU, GRU, merge_fn=lambda x: x).init(KEY, X),
        TypeError,
        r"^merge_fn: expected a function of 2 \(outputs_fw, outputs_bw\), got one of \(x\)",
    ),
    "loop_fn of three": (
        lambda: rnn.raw_rnn(GRU, PARAMS, lambda t, o, s: None, maximum_iterations=2),
        TypeError,
        r"^loop_fn: expected a function of 4 \(time, .* got one of \(t, o, s\)",
    ),
    "loop_fn with an if": (
        lambda: rnn.raw_rnn(GRU, PARAMS, branches_on_time, maximum_iterations=2),
        TypeError,
        f"^loop_fn: .* {LOOKS}",
    ),
    "loop_fn: finished is None": (
        lambda: loop({0: None}),
        TypeError,
        "^loop_fn: finished: .* None",
    ),
    "loop_fn: inputs of text": (lambda: loop({1: "a"}), TypeError, "^loop_fn: next_input: .* 'a'"),
    "loop_fn: no inputs": (
        lambda: loop({1: None}),
        TypeError,
        r"next_input as in the first call, \[2, 4\], got None",
    ),
    "loop_fn: emits text": (
        lambda: loop({3: "a"}, True),
        TypeError,
        "^loop_fn: emit_output: .* 'a'",
    ),
    "loop_fn: a loop state of text": (
        lambda: loop({4: "a"}, True),
        TypeError,
        "^loop_fn: next_loop_state: .* 'a'",
    ),
    "embed of nothing": (lambda: decode(embed=lambda: 0), TypeError, r"^embed: .* of 1 \(ids\)"),
    "embed of text": (lambda: decode(embed=lambda ids: "a"), TypeError, "^embed: .* got str 'a'"),
    "no end": (lambda: decode(end=None), TypeError, "^end: .* got NoneType"),
    "an end of text": (lambda: decode(end="</s>"), TypeError, "^end: .* got str '</s>'"),
    "a step with an if": (
        lambda: run(Looks(), {}),
        TypeError,
        rf"^Looks\.__call__: .* {LOOKS}",
    ),
    # functions for sequences
    "tile_batch of a list": (lambda: rnn.tile_batch([1, 2], 2), ValueError, "^tree: .* list of 2"),
    "a ragged mask": (lambda: run(mask=RAGGED), TypeError, "^mask: .* parts of different shapes"),
    "lengths in a set": (
        lambda: run(sequence_length={1, 2}),
        TypeError,
        "list of integers, got {1",
    ),
    "an array for a dtype": (
        lambda: run(dtype=X),
        TypeError,
        r"^dtype: .* got an array; .* x\.dtype",
    ),
    "last_output of both results": (
        lambda: rnn.last_output((OUTPUTS, STATE), [1, 2]),
        ValueError,
        r"^outputs\[1\]: expected \(batch, time\) = \(2, 3\) as in outputs\[0\], got \(2, 5\)",
    ),
    "last_output of nothing": (lambda: rnn.last_output(None), ValueError, "^outputs: .* got None"),
    "mean_pool: a name": (
        lambda: rnn.mean_pool(OUTPUTS, lengths=[1, 2]),
        TypeError,
        "^mean_pool: no argument is named lengths; its name here is sequence_length=",
    ),
    "max_pool: a flag": (
        lambda: rnn.max_pool(OUTPUTS, time_major="no"),
        TypeError,
        "^time_major: expected True or False",
    ),
    "reverse_sequence of TF1": (
        lambda: rnn.reverse_sequence(X, [1, 2], seq_axis=1, batch_axis=0),
        TypeError,
        "^reverse_sequence: no argument is named seq_axis; .* time_major=True",
    ),
    "reverse_sequence: a name": (
        lambda: rnn.reverse_sequence(X, sequence_length=[1, 2]),
        TypeError,
        "its name here is lengths=",
    ),
    "reverse_sequence: too long": (
        lambda: rnn.reverse_sequence(X, [1, 9]),
        ValueError,
        r"^lengths: expected values in \[0, 3\]",
    ),
    "sequence_mask of None": (lambda: rnn.sequence_mask(None), TypeError, "^lengths: .* got None"),
    "sequence_mask of text": (
        lambda: rnn.sequence_mask("a"),
        TypeError,
        "^lengths: expected one in",
    ),
    "sequence_mask: a dtype in place of maxlen": (
        lambda: rnn.sequence_mask([1], jnp.float32),
        TypeError,
        "maxlen as an int >= 0, got <class",
    ),
    "sequence_mask: a flag": (
        lambda: rnn.sequence_mask([1], True),
        TypeError,
        "maxlen .* got True",
    ),
    "sequence_mask: below 0": (lambda: rnn.sequence_mask([1], -1), ValueError, "maxlen .* got -1"),
    "sequence_mask: no dtype": (
        lambda: rnn.sequence_mask([1], 2, "foo"),
        TypeError,
        "^dtype: .* 'foo'",
    ),
    "transpose of a dict": (
        lambda: rnn.transpose_batch_time({"a": X}),
        TypeError,
        "^x: expected an array of numbers, got dict",
    ),
    "pad_sequences of None": (lambda: rnn.pad_sequences(None), TypeError, "of arrays, .* got None"),
    "pad_sequences of Keras": (
        lambda: rnn.pad_sequences([np.ones(3)], maxlen=2),
        TypeError,
        "its name here is length=",
    ),
    "pad_sequences: behind": (
        lambda: rnn.pad_sequences([np.ones(3)], padding="post"),
        TypeError,
        "rows are padded at the end",
    ),
    "pad_sequences under jit": (
        lambda: jax.jit(lambda x: rnn.pad_sequences([x, x])[0])(jnp.ones(3)),
        TypeError,
        "^pad_sequences: expected arrays whose values are known",
    ),
    "pad_sequences: one bucket": (
        lambda: rnn.pad_sequences([np.ones(3)], buckets=4),
        TypeError,
        "^buckets: expected a list of sizes, got 4",
    ),
    "pad_sequences: a bucket of 4.0": (
        lambda: rnn.pad_sequences([np.ones(3)], buckets=[4.0]),
        ValueError,
        r"^buckets\[0\]: expected an int >= 0, got 4.0",
    ),
    "segment_starts of text": (lambda: rnn.segment_starts("a"), TypeError, "^segment_ids: .* str"),
    "pending_resets: ragged": (
        lambda: rnn.pending_resets(RAGGED),
        TypeError,
        "^resets: .* parts of different shapes",
    ),
    "concatenate a pair": (
        lambda: rnn.concatenate((OUTPUTS, OUTPUTS)),
        TypeError,
        "^concatenate: .* missing outputs_bw",
    ),
    "concatenate other lengths": (
        lambda: rnn.concatenate(OUTPUTS, OUTPUTS[:, 1:]),
        ValueError,
        r"^concatenate: .* last axis alone, got \[2, 3, 5\] and \[2, 2, 5\]",
    ),
    "merge_mode of Keras": (
        lambda: rnn.bidirectional_dynamic_rnn(GRU, GRU, {}, X, merge_mode="concat"),
        TypeError,
        r"concatenate\(\*outputs\)",
    ),
    # Flax layers
    "param_dtype of nnx": (
        lambda: layer(param_dtype=jnp.int32),
        TypeError,
        "^param_dtype: .* int32",
    ),
    "param_dtype of linen": (
        lambda: rnnl.RNN(GRU, param_dtype="float23").init(KEY, X),
        TypeError,
        "^param_dtype: .* did you mean 'float32'",
    ),
    "rngs without params": (
        lambda: layer(rngs=nnx.Rngs(dropout=0)),
        ValueError,
        "^RNN: expected rngs with a stream of params",
    ),
    "start of the inputs": (lambda: layer().start(X), TypeError, SIZES),
}


@pytest.mark.parametrize("row", CALLS)
def test_the_error_says_what_to_do(row):
    """Each mistake raises an error with advice, without private names."""
    call, error, fragment = CALLS[row]
    with says(error, fragment):
        call()


def test_shapes_of_the_arguments_of_a_failing_callback_are_noted():
    """The error of a callback is raised as it is, with a note of the shapes that it received."""
    with pytest.raises(TypeError) as caught:
        decode(logits=lambda output: output @ TABLE)
    notes = [note for note in caught.value.__notes__ if "was called with" in note]
    assert notes == ["logits was called with output, [2, 5]"]


def test_repr_of_a_cell_that_is_not_a_dataclass():
    """Inside of a stack it is printed with Python's default repr."""
    assert "Looks object" in repr(rnn.MultiRNNCell([Looks(), GRU]))


def test_tile_batch_leaves_empty_trees_and_rank_0_leaves():
    """A state may be empty, or have leaves that the batch shares."""
    assert rnn.tile_batch((), 2) == () and rnn.tile_batch(jnp.int32(3), 2) == 3


def test_zero_state_accepts_symbolic_sizes():
    """The symbolic sizes of `jax.export` are not ints."""
    batch = jax.export.symbolic_shape("b")[0]
    exported = jax.export.export(jax.jit(lambda x: GRU.zero_state(x.shape[0])))
    assert str(exported(jax.ShapeDtypeStruct((batch,), jnp.float32)).out_avals[0]) == "float32[b,5]"


def test_pad_sequences_of_complex_numbers():
    batch, _ = rnn.pad_sequences([np.ones(1, complex), np.full(2, 1j)])
    np.testing.assert_array_equal(batch, [[1, 0], [1j, 1j]])
