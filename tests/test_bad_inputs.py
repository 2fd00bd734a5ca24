"""Invalid inputs: the error says what was expected and what was received."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from messages import says

import jax_dynrnn as rnn

B, T, D, H = 3, 5, 2, 4
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
LSTM, GRU = rnn.LSTMCell(H), rnn.GRUCell(H)
PARAMS = {cell: cell.init(jax.random.key(0), X.shape) for cell in (LSTM, GRU)}


def run(inputs=X, lengths=None, state=None, cell=LSTM, params=None, **options):
    params = PARAMS[cell] if params is None else params
    return rnn.dynamic_rnn(cell, params, inputs, lengths, state, **options)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


class Foreign:
    """An array of another framework."""

    shape, ndim, dtype = X.shape, X.ndim, "its own float32"


RAGGED = [zeros(2, D), zeros(3, D), zeros(1, D)]
LSTM_STATE = r"LSTMStateTuple\(c=\[3, 4\], h=\[3, 4\]\)"
C, W = zeros(B, H), zeros(B, H + 1)
STATE = rnn.LSTMStateTuple

# row: (keyword arguments of `run`, error, fragments that its message must contain)
ERRORS = {
    "1 rank 1": ({"inputs": zeros(T)}, ValueError, ["rank 3", "rank 1", r"\(5,\)"]),
    "2 rank 2": ({"inputs": zeros(T, D)}, ValueError, ["rank 3", "rank 2", r"x\[None\]"]),
    "3 rank 4": (
        {"inputs": zeros(B, T, D, 1)},
        ValueError,
        ["rank 3", "feature_ndim=1", "rank 4", r"\(3, 5, 2, 1\)"],
    ),
    "4 integers": (
        {"inputs": zeros(B, T, D, dtype=np.int32)},
        TypeError,
        ["expected a real floating", "int32", "embed or one-hot first"],
    ),
    "7 complex": (
        {"inputs": zeros(B, T, D, dtype=np.complex64)},
        TypeError,
        ["expected a real", "complex64"],
    ),
    "8 objects": (
        {"inputs": np.array([[["a"] * D] * T] * B, object)},
        TypeError,
        ["expected an array of numbers", "object"],
    ),
    "8 strings": (
        {"inputs": np.array([[["a"] * D] * T] * B)},
        TypeError,
        ["expected an array of numbers", "<U1"],
    ),
    "9 ragged list": (
        {"inputs": RAGGED},
        TypeError,
        ["expected one padded array", "list of 3 items", "pad_sequences"],
    ),
    "10 features": (
        {"inputs": zeros(B, T, D + 3)},
        ValueError,
        [r"\(9, 16\)", r"\(6, 16\)", "5 features", "made for 2"],
    ),
    "11 lengths of B + 1": ({"lengths": [1, 2, 3, 4]}, ValueError, ["3 rows", "got 4"]),
    "13 lengths of rank 2": (
        {"lengths": zeros(B, 1, dtype=int)},
        ValueError,
        ["a vector", r"\(3, 1\)"],
    ),
    "14 scalar length": ({"lengths": 3}, ValueError, ["a vector", r"shape \(\)"]),
    "15 float lengths": ({"lengths": [1.7, 2.0, 3.0]}, TypeError, ["integer", "float64"]),
    "16 NaN lengths": (
        {"lengths": np.full(B, np.nan, np.float32)},
        TypeError,
        ["integer", "float32"],
    ),
    "17 a mask as lengths": (
        {"lengths": np.ones((B, T), bool)},
        ValueError,
        ["a vector", r"\(3, 5\)", "mask="],
    ),
    "18 bools as lengths": ({"lengths": [True, False, True]}, TypeError, ["integer", "bool"]),
    "19 negative length": (
        {"lengths": [5, -1, 2]},
        ValueError,
        [r"\[0, 5\]", "got -1 in row 1"],
    ),
    "20 length over T": ({"lengths": [5, 1, 6]}, ValueError, [r"\[0, 5\]", "got 6 in row 2"]),
    "20 length over T in a JAX array": (
        {"lengths": jnp.array([9, 1, 2])},
        ValueError,
        [r"\[0, 5\]", "got 9 in row 0"],
    ),
    "24 no lengths for 3 rows": ({"lengths": []}, ValueError, ["3 rows", "got 0"]),
    "26 one array for an LSTM": ({"state": C}, ValueError, [LSTM_STATE, r"got \[3, 4\]"]),
    "27 a triple": ({"state": (C, C, C)}, ValueError, [LSTM_STATE, "tuple of 3"]),
    "28 another named tuple": (
        {"state": collections.namedtuple("Swapped", "h c")(C, C)},
        ValueError,
        [LSTM_STATE, r"Swapped\(h="],
    ),
    "2 ids": ({"inputs": zeros(B, T, dtype=int)}, ValueError, ["rank 3", "rank 2", "embedded"]),
    "28 a list": ({"state": [C, C]}, ValueError, [LSTM_STATE, "list of 2"]),
    "29 batch of the state": (
        {"state": STATE(C, zeros(2, H))},
        ValueError,
        [r"initial_state\.h", r"\(3, 4\)", r"\(2, 4\)"],
    ),
    "30 batch of 1": (
        {"state": zeros(1, H), "cell": GRU},
        ValueError,
        [r"\(3, 4\)", r"\(1, 4\)", "not broadcast"],
    ),
    "31 units of the state": (
        {"state": W, "cell": GRU},
        ValueError,
        [r"\(3, 4\)", r"\(3, 5\)"],
    ),
    "32 float16 state": (
        {"state": STATE(C.astype(np.float16), C)},
        TypeError,
        [r"initial_state\.c", "float32", "float16"],
    ),
    "32 float64 state": (
        {"state": C.astype(np.float64), "cell": GRU},
        TypeError,
        ["initial_state", "float32", "float64"],
    ),
    "32 integer state": (
        {"state": STATE(C, C.astype(np.int32))},
        TypeError,
        [r"initial_state\.h", "float32", "int32"],
    ),
    "43 no cell": (
        {"cell": None, "params": {}},
        TypeError,
        ["expected a cell", "NoneType", "init, zero_state, __call__"],
    ),
    "43 a class": (
        {"cell": rnn.LSTMCell, "params": {}},
        TypeError,
        ["expected a cell", "class LSTMCell", r"LSTMCell\(128\)"],
    ),
    "47 batch-major data as time-major": (
        {"lengths": [1, 2, 3], "time_major": True},
        ValueError,
        ["5 rows", "got 3", "time_major=False"],
    ),
    "47 time-major data as batch-major": (
        {"inputs": X.swapaxes(0, 1), "lengths": [1, 2, 3]},
        ValueError,
        ["5 rows", "got 3", "time_major=True"],
    ),
    "49 parameter names": (
        {"params": {"kernel": 0, "biases": 0}},
        KeyError,
        ["bias, kernel", "missing: bias", "unexpected: biases"],
    ),
    "49 flat names": (
        {
            "params": {
                "gates/kernel": 0,
                "gates/bias": 0,
                "candidate/kernel": 0,
                "candidate/bias": 0,
            },
            "cell": GRU,
        },
        KeyError,
        [r'\["candidate"\]\["bias"\]', "candidate/bias"],
    ),
    "49 another cell's params": (
        {"params": PARAMS[GRU]},
        KeyError,
        ["bias, kernel", "missing: bias, kernel", "unexpected: candidate/bias", "cell, params"],
    ),
    "51 TF1's argument order": (
        {"params": X, "inputs": [1, 2, 3]},
        TypeError,
        ["bias, kernel", r"array of shape \(3, 5, 2\)", r"\(cell, params, inputs"],
    ),
    "51 params are the inputs": (
        {"params": X},
        TypeError,
        ["bias, kernel", r"array of shape \(3, 5, 2\)", r"\(cell, params, inputs"],
    ),
    "mask shape": ({"mask": np.ones((B, 2), bool)}, ValueError, [r"\(3, 5\)", r"\(3, 2\)"]),
    "mask dtype": ({"mask": zeros(B, T)}, TypeError, ["bool", "float32"]),
    "resets shape": ({"resets": np.ones(B, bool)}, ValueError, [r"\(3, 5\)", r"\(3,\)"]),
    "nested batch": (
        {
            "inputs": {"a": zeros(B, T, 3), "b": [zeros(B, T, 2), zeros(2, T, 1)]},
            "cell": toys.Nested(),
            "params": {},
        },
        ValueError,
        [r"\['b'\]\[1\]", r"\(3, 5\)", r"\(2, 5\)"],
    ),
    "no inputs": ({"inputs": {}}, ValueError, ["at least one array", "{}"]),
    "unroll": ({"unroll": 0}, ValueError, ["int >= 1", "got 0"]),
    "remat": ({"remat": "all"}, ValueError, ["'sqrt'", "got 'all'"]),
    "dtype": ({"dtype": jnp.int32}, TypeError, ["floating", "int32"]),
    "reverse": ({"reverse": "no"}, TypeError, ["reverse: expected True or False, got 'no'"]),
    "time_major": ({"time_major": 1}, TypeError, ["time_major: expected True or False, got 1"]),
    "foreign inputs": ({"inputs": Foreign()}, TypeError, ["inputs: .* JAX or NumPy", "Foreign of"]),
    "foreign mask": ({"mask": Foreign()}, TypeError, ["mask: expected .* of JAX or NumPy"]),
    "foreign lengths": ({"lengths": Foreign()}, TypeError, ["sequence_length: .* JAX or NumPy"]),
    "two keys": (
        {"key": jax.random.split(jax.random.key(0))},
        ValueError,
        ["one key", r"\(2,\)"],
    ),
    "engine": ({"implementation": "fast"}, ValueError, ["'scan'", "'fast'"]),
    "ragged lengths": (
        {"lengths": [[1], [2, 3]]},
        TypeError,
        [r"^sequence_length: expected a list of integers, got \[\[1\], \[2, 3\]\]"],
    ),
    "text as state": (
        {"state": "zeros"},
        TypeError,
        ["^initial_state: expected an array, got str 'zeros'"],
    ),
    "text in the params": (
        {"params": {"kernel": "a", "bias": C}},
        TypeError,
        [r"^params\['kernel'\]: expected an array, got str 'a'"],
    ),
    "objects in the params": (
        {"params": {"kernel": np.array([["a"]]), "bias": C}},
        TypeError,
        [r"^params\['kernel'\]: expected an array, got ndarray of <U1"],
    ),
    "init as params": (
        {"params": LSTM.init},
        TypeError,
        ["^params: expected an array, got method$"],
    ),
    "a key of floats": (
        {"key": jnp.ones(2)},
        ValueError,
        ["^key: expected one key.*got shape .*float64"],
    ),
    "text as a key": ({"key": "seed"}, ValueError, ["^key: expected one key.*got 'seed'"]),
    "a list of engines": (
        {"implementation": ["scan"]},
        ValueError,
        ["implementation: expected None or one of 'scan'", r"got \['scan'\]"],
    ),
    "a flag as unroll": ({"unroll": True}, ValueError, ["unroll: expected an int >= 1, got True"]),
    "a float as unroll": ({"unroll": 2.0}, ValueError, ["unroll: expected an int >= 1, got 2.0"]),
    "an array as remat": ({"remat": np.ones(2)}, ValueError, ["remat: expected None, an int >= 1"]),
    "a list as remat": ({"remat": ["sqrt"]}, ValueError, [r"remat: .*'sqrt'.*, got \['sqrt'\]"]),
    "a flag as remat": ({"remat": True}, ValueError, ["remat: .*, got True"]),
    "an array as a flag": ({"reverse": np.ones(2, bool)}, TypeError, ["reverse: .*got array"]),
    "a short dtype": ({"dtype": "bf16"}, TypeError, ["got 'bf16'; did you mean 'bfloat16'"]),
    "a half dtype": ({"dtype": "fp32"}, TypeError, ["got 'fp32'; did you mean 'float32'"]),
    "no dtype at all": ({"dtype": 3}, TypeError, ["dtype: expected a real floating dtype, got 3"]),
    "a complex dtype": ({"dtype": "complex64"}, TypeError, ["floating dtype, got complex64"]),
    "a state in another dtype than that asked for": (
        {"dtype": jnp.float32, "state": STATE(C, C.astype(np.float16))},
        TypeError,
        [r"initial_state\.h: expected float32, .*got float16; cast it$"],
    ),
}


@pytest.mark.parametrize("row", ERRORS)
def test_error(row):
    """Each invalid argument of `dynamic_rnn` raises its error, with all fragments."""
    arguments, error, fragments = ERRORS[row]
    with says(error, *fragments):
        run(**arguments)


@pytest.mark.parametrize("row", ["11 lengths of B + 1", "15 float lengths", "18 bools as lengths"])
def test_traced_lengths_are_checked(row):
    """Shapes and dtypes are static, so the error is the same under jit."""
    arguments, error, fragments = ERRORS[row]
    traced = jax.jit(lambda lengths: run(lengths=lengths))
    with says(error) as caught:
        traced(jnp.asarray(arguments["lengths"]))
    caught.match(fragments[0])


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("unroll", 2, ValueError),
        ("remat", 2, ValueError),
        ("reverse", True, TypeError),
        ("time_major", False, TypeError),
    ],
)
def test_a_traced_option(option, value, error):
    """An option that changes the program is refused if traced, and accepted if static."""
    with says(error, rf"^{option}: expected .*, got a traced .*static_argnames"):
        jax.jit(lambda given: run(**{option: given}))(value)
    outputs, _ = jax.jit(run, static_argnames=option)(**{option: value})
    np.testing.assert_allclose(outputs, run(**{option: value})[0], rtol=1e-6)


DECODING = {"embed": None, "logits": None, "start": 0, "end": 0, "initial_state": C}
COMMON = {"cell": GRU, "params": PARAMS[GRU], "maximum_iterations": 2}


OF_TWO_OUTPUTS = rnn.EmitState(GRU)


@pytest.mark.parametrize(
    "cell",
    [
        rnn.OutputProjectionWrapper(OF_TWO_OUTPUTS, 2),
        rnn.AttentionCellWrapper(OF_TWO_OUTPUTS, 2, attn_size=2),
        rnn.AttentionWrapper(OF_TWO_OUTPUTS, rnn.LuongAttention(H, memory_size=2)),
        rnn.NTMCell(OF_TWO_OUTPUTS, 5, 3, 1, 1),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_wrappers_that_need_one_array_as_the_inner_output(cell):
    """A wrapper that needs one output array refuses a cell that returns a pair."""
    with says(
        TypeError, rf"{type(cell).__name__}: expected a cell whose output is one .*EmitState"
    ):
        cell.init(jax.random.key(0), (D,))


@pytest.mark.parametrize(
    ("function", "count", "given"),
    [
        (rnn.raw_rnn, "maximum_iterations", COMMON | {"loop_fn": None}),
        (rnn.greedy_decode, "maximum_iterations", COMMON | DECODING),
        (rnn.beam_search, "maximum_iterations", COMMON | DECODING | {"beam_width": 2}),
        (rnn.beam_search, "beam_width", COMMON | DECODING),
        (rnn.tile_batch, "multiplier", {"tree": X}),
    ],
)
def test_a_traced_count(function, count, given):
    """A count that sizes the results is refused if traced or negative."""

    def call(n):
        return function(**given | {count: n})

    expected = rf"^{count}: expected an int >= \d, got"
    with says(ValueError, rf"{expected} a traced int64\[\].*static_argnames"):
        jax.jit(call)(2)
    with says(ValueError, rf"{expected} -1"):
        call(-1)


def test_float64_without_x64():
    """`dtype=jnp.float64` is refused while x64 is off; Python's `float` means the default dtype."""
    with jax.enable_x64(False):
        with says(ValueError, "^dtype: float64 needs 64-bit types.*'jax_enable_x64', True"):
            run(dtype=jnp.float64)
        assert run(dtype=float)[0].dtype == np.float32
    assert run(dtype="float64")[0].dtype == run(dtype=float)[0].dtype == np.float64


def test_unknown_argument():
    """`parallel_iterations` is refused by name."""
    with says(TypeError, "parallel_iterations"):
        run(parallel_iterations=0)


ATTENDS = rnn.AttentionWrapper(GRU, rnn.LuongAttention(H))
CONSTRUCTIONS = {
    "36 no units": (lambda: rnn.LSTMCell(0), ValueError, ["positive int", "got 0"]),
    "37 negative units": (lambda: rnn.GRUCell(-1), ValueError, ["positive int", "got -1"]),
    "37 fractional units": (lambda: rnn.GRUCell(2.5), TypeError, ["positive int", "got 2.5"]),
    "37 units as text": (lambda: rnn.BasicRNNCell("5"), TypeError, ["positive int", "got '5'"]),
    "37 units as bool": (lambda: rnn.BasicRNNCell(True), TypeError, ["int", "got True"]),
    "41 no cells": (lambda: rnn.MultiRNNCell([]), ValueError, ["at least one", "empty"]),
    "41 one cell": (lambda: rnn.MultiRNNCell(GRU), TypeError, ["list or tuple", "GRUCell"]),
    "43 wrapped class": (lambda: rnn.EmitState(rnn.GRUCell), TypeError, ["class GRUCell"]),
    "46 keep 1.5": (lambda: rnn.DropoutWrapper(GRU, 1.5), ValueError, [r"\(0, 1\]", "1.5"]),
    "46 keep 0": (lambda: rnn.DropoutWrapper(GRU, 1.0, 0), ValueError, [r"\(0, 1\]", "got 0"]),
    "46 keep traced": (
        lambda: rnn.DropoutWrapper(GRU, jnp.ones(())),
        TypeError,
        ["float", "Array", "two cells"],
    ),
    "per row without variational": (
        lambda: rnn.DropoutWrapper(GRU, variational_per_row=True),
        ValueError,
        ["variational_recurrent=True", "False"],
    ),
    "recurrent dropout of a stack": (
        lambda: rnn.DropoutWrapper(rnn.MultiRNNCell([GRU]), recurrent_keep_prob=0.5),
        TypeError,
        ["recurrent_keep_prob expected one cell, got a MultiRNNCell", "wrap each of its layers"],
    ),
    "recurrent dropout of a stack in a wrapper": (
        lambda: rnn.DropoutWrapper(rnn.EmitState(rnn.MultiRNNCell([GRU])), recurrent_keep_prob=0.5),
        TypeError,
        ["got a MultiRNNCell", r"MultiRNNCell\(\[DropoutWrapper\(a, recurrent_keep_prob"],
    ),
    "recurrent dropout without a recurrent kernel": (
        lambda: rnn.DropoutWrapper(rnn.IndRNNCell(2), recurrent_keep_prob=0.5),
        TypeError,
        ["expected a cell that multiplies its hidden state by a recurrent kernel", "IndRNNCell"],
    ),
    "recurrent dropout of a cell that holds another": (
        lambda: rnn.DropoutWrapper(rnn.NTMCell(GRU, 5, 3, 1, 1), recurrent_keep_prob=0.5),
        TypeError,
        ["got NTMCell", "if that holds another cell, wrap the one inside"],
    ),
    "recurrent dropout of an object with three methods": (
        lambda: rnn.DropoutWrapper(toys.Duck(2), recurrent_keep_prob=0.5),
        TypeError,
        ["got Duck"],
    ),
    "recurrent keep 0": (
        lambda: rnn.DropoutWrapper(GRU, recurrent_keep_prob=0),
        ValueError,
        ["recurrent_keep_prob", r"\(0, 1\]", "got 0"],
    ),
    "activation as text": (
        lambda: rnn.GRUCell(2, activation="tanh"),
        TypeError,
        ["function or None", "got 'tanh'"],
    ),
    "clip as text": (lambda: rnn.LSTMCell(2, cell_clip="a"), TypeError, ["float", "got 'a'"]),
    "negative clip": (lambda: rnn.LSTMCell(2, cell_clip=-1.0), ValueError, [">= 0", "-1.0"]),
    "clip without projection": (
        lambda: rnn.LSTMCell(2, proj_clip=1.0),
        ValueError,
        ["num_proj", "None"],
    ),
    "input_size in its old place": (
        lambda: rnn.LSTMCell(4, 3),
        TypeError,
        ["at most 1 without a name", "got 2"],
    ),
    "a memory where TF1 gave it": (
        lambda: rnn.LuongAttention(8, X, [1, 2, 3]),
        TypeError,
        ["LuongAttention: expected no memory, got one", r"params = cell\.attend\(params, memory"],
    ),
    "a memory under TF1's name": (
        lambda: rnn.BahdanauAttention(8, memory=X, normalize=True),
        TypeError,
        ["BahdanauAttention: expected no memory, got one"],
    ),
    "a flag in the memory's place": (
        lambda: rnn.LuongAttention(8, True),
        TypeError,
        ["at most 1 without a name", "got 2"],
    ),
    "a number as text": (
        lambda: rnn.IndyLSTMCell(2, forget_bias="1"),
        TypeError,
        ["expected forget_bias to be a float, got '1'"],
    ),
    "a number as a flag": (
        lambda: rnn.UGRNNCell(2, forget_bias=True),
        TypeError,
        ["expected forget_bias to be a float, got True"],
    ),
    "a flag as a number": (
        lambda: rnn.LuongAttention(8, scale=2),
        TypeError,
        ["expected scale to be True or False, got 2"],
    ),
    "attention inside of attention to outputs": (
        lambda: rnn.AttentionCellWrapper(rnn.MultiRNNCell([GRU, ATTENDS]), 3),
        TypeError,
        ["AttentionCellWrapper: .*fixed size, got MultiRNNCell", "in AttentionWrapper.Attention"],
    ),
    "attention inside of a controller": (
        lambda: rnn.NTMCell(ATTENDS, 8, 2, 1, 1),
        TypeError,
        ["NTMCell: .*fixed size, got AttentionWrapper", r"AttentionWrapper\(NTMCell\(\.\.\.\)"],
    ),
    "times by name": (
        lambda: rnn.PhasedLSTMCell(4).init(jax.random.key(0), {"time": (1,), "x": (2,)}),
        ValueError,
        [r"expected inputs \(time, x\)", "got {'time'"],
    ),
    "inputs for their shape": (
        lambda: GRU.init(jax.random.key(0), X),
        ValueError,
        [r"expected the shape of the inputs, got an array; give its shape, \(3, 5, 2\)"],
    ),
    "features unknown": (
        lambda: GRU.init(jax.random.key(0), (None, None, None)),
        ValueError,
        ["number of features", "None"],
    ),
}


@pytest.mark.parametrize("row", CONSTRUCTIONS)
def test_invalid_constructor_arguments(row):
    """Each invalid argument of a constructor or of `init` raises its error."""
    construct, error, fragments = CONSTRUCTIONS[row]
    with says(error, *fragments):
        construct()


def test_residual_of_another_size():
    """A residual connection needs outputs of the size of the inputs."""
    cell = rnn.ResidualWrapper(GRU)
    with says(ValueError, r"\(3, 2\).*\(3, 4\)"):
        run(cell=cell, params=PARAMS[GRU])


@toys.config
class Drifting(toys.Sum):
    """A broken cell whose step changes the dtype, shape or structure of its state."""

    change: str = ""

    def __call__(self, params, inputs, state, *, key=None):
        new = {
            "dtype": state.astype(jnp.int32),
            "shape": state[:, 0],
            "structure": (state, state),
        }
        return inputs, new[self.change]


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ("dtype", [r"expected state of float32\[3, 1\]", r"got int32\[3, 1\]"]),
        ("shape", [r"expected state of float32\[3, 1\]", r"got float32\[3\]"]),
        ("structure", [r"expected \[3, 1\]", r"got tuple of 2"]),
    ],
)
def test_a_step_that_changes_its_state(change, fragments):
    """A step must return a state of the same structure, shapes and dtypes."""
    with says(TypeError, "^Drifting", *fragments):
        run(cell=Drifting(change), params={})


def test_a_state_leaf_without_the_batch_axis():
    """A state leaf must have rank 0 or start with the batch axis."""

    @toys.config
    class Shared(toys.Sum):
        def zero_state(self, batch_shape=(), dtype=jnp.float32):
            return {"table": jnp.zeros((7, 2), dtype)}

    with says(ValueError, r"\['table'\].*batch of 3.*\(7, 2\)"):
        run(cell=Shared(), params={})


def test_bidirectional_params_must_have_fw_and_bw():
    """Params of both directions are a dict of `fw` and `bw`."""
    with says(TypeError, r"dict of fw, bw.*array of shape \(3, 5, 2\)"):
        rnn.bidirectional_dynamic_rnn(GRU, GRU, X, [1, 2, 3])
    with says(KeyError, r"missing: bw; unexpected: back"):
        rnn.bidirectional_dynamic_rnn(GRU, GRU, {"fw": 0, "back": 0}, X)


BOTH = {"fw": PARAMS[GRU], "bw": PARAMS[GRU]}
OTHER = GRU.init(jax.random.key(0), (B, T, D + 1))
SMALL = {"fw": PARAMS[GRU], "bw": OTHER}
WITHOUT = {
    "candidate": PARAMS[GRU]["candidate"],
    "gates": {"kernel": PARAMS[GRU]["gates"]["kernel"]},
}


def test_where_params_of_directions_are_wrong():
    """The error names the direction, the path of the param, and the function that was called."""
    order = r"; the order of arguments is bidirectional_dynamic_rnn\(cell_fw, cell_bw, params, inp"
    where = r'^params\["bw"\]\["candidate"\]\["kernel"\]: expected shape .* made for 3'
    with says(ValueError, where):
        rnn.bidirectional_dynamic_rnn(GRU, GRU, SMALL, X)
    with says(
        TypeError, r'^params\["fw"\]: expected a dict of .*array of shape \(3, 5, 2\)' + order
    ):
        rnn.bidirectional_dynamic_rnn(GRU, GRU, {"fw": X, "bw": OTHER}, X)
    with says(KeyError, r'^params\["bw"\]: expected those of LSTM', order):
        rnn.bidirectional_dynamic_rnn(GRU, LSTM, BOTH, X)
    with says(KeyError, r'^params\["bw"\]\["gates"\]: .*missing: bias; unexpected: none', order):
        rnn.bidirectional_dynamic_rnn(GRU, GRU, {"fw": PARAMS[GRU], "bw": WITHOUT}, X)
    with says(ValueError, where):
        rnn.static_bidirectional_rnn(GRU, GRU, SMALL, list(X.swapaxes(0, 1)))


def test_where_params_of_layers_are_wrong():
    """The error names the layer, the direction and the path of the param."""
    cells = [GRU, GRU]
    params = rnn.init_stack_bidirectional(jax.random.key(0), cells, cells, X.shape)
    order = r"; the order of arguments is {}\(cells_fw, cells_bw, params, inputs"

    def of(name):
        return order.format(name)

    wrong = params | {"cell_1": params["cell_0"]}
    where = r'^params\["cell_1"\]\["fw"\]\["candidate"\]\["kernel"\]: expected shape \(12, 4\)'
    with says(ValueError, where, "the inputs have 8 features, these params were made for 2"):
        rnn.stack_bidirectional_dynamic_rnn(cells, cells, wrong, X)
    with says(KeyError, r'^params\["cell_1"\]: .*missing: bw; unexpected: none', of("stack_bi.*")):
        wrong = params | {"cell_1": {"fw": params["cell_1"]["fw"]}}
        rnn.stack_bidirectional_dynamic_rnn(cells, cells, wrong, X)
    with says(KeyError, r"^params: .*missing: cell_1", of("stack_bidirectional_rnn")):
        steps = list(X.swapaxes(0, 1))
        rnn.stack_bidirectional_rnn(cells, cells, {"cell_0": params["cell_0"]}, steps)


def test_params_of_a_flax_layer_or_of_another_size():
    """All variables of a layer are named as such; a bias says nothing of the number of features."""
    with says(KeyError, r"unexpected: params/cell/bias, .*; of the variables of a Flax"):
        rnn.dynamic_rnn(LSTM, {"params": {"cell": PARAMS[LSTM]}}, X)
    with says(ValueError, r'^params\["bias"\]: .*got \(16,\)$'):
        rnn.dynamic_rnn(rnn.LSTMCell(5), rnn.LSTMCell(4).init(jax.random.key(0), X.shape), X)


INSIDE = {
    "stack": (rnn.MultiRNNCell([GRU, GRU]), "cell_1"),
    "first of a stack": (rnn.MultiRNNCell([GRU, GRU]), "cell_0"),
    "wrapper": (rnn.InputProjectionWrapper(GRU, 3), "cell"),
}


@pytest.mark.parametrize("row", INSIDE)
def test_where_params_of_inner_cells_are_wrong(row):
    """The error names the path of the param through the stack or wrapper."""
    cell, name = INSIDE[row]
    params = cell.init(jax.random.key(0), X.shape)
    inner = params[name]
    for wrong, error, where in (
        (X, TypeError, r": expected a dict of candidate/bias, .*array of shape \(3, 5, 2\)"),
        ({"gates": inner["gates"]}, KeyError, r'\["candidate"\]: .*missing: bias, kernel'),
        (
            PARAMS[LSTM],
            KeyError,
            ": .*missing: candidate/bias, .*unexpected: bias, kernel; the ord",
        ),
        (
            inner | {"gates": {"bias": C, "kernel": inner["gates"]["kernel"]}},
            ValueError,
            r'\["gates"\]\["bias"\]: expected shape \(8,\) .*, got \(3, 4\)$',
        ),
    ):
        with says(error, rf'^params\["{name}"\]{where}'):
            run(cell=cell, params=params | {name: wrong})


def test_wrong_kernel_shape_in_a_later_layer():
    """The error for layer 1 does not compare with the features of the run's inputs."""
    cell = rnn.MultiRNNCell([GRU, GRU])
    params = cell.init(jax.random.key(0), X.shape) | {"cell_1": OTHER}
    with says(ValueError, r'^params\["cell_1"\]\["candidate"\]\["kernel"\]: .*got \(7, 4\)$'):
        run(cell=cell, params=params)


def test_the_function_that_was_called_is_named():
    """The error names the function that the user called, not `dynamic_rnn`, which that calls."""
    steps = list(X.swapaxes(0, 1))
    with says(TypeError, r"the order of arguments is static_rnn\(cell, params, inputs\)$"):
        rnn.static_rnn(GRU, X, steps)
    with says(KeyError, r"the order of arguments is static_state_saving_rnn\(cell, params, inp"):
        rnn.static_state_saving_rnn(GRU, PARAMS[LSTM], steps, {"h": C}, "h")
    with says(TypeError, "^state_saver: expected a dict of arrays by name, got NoneType"):
        rnn.static_state_saving_rnn(GRU, PARAMS[GRU], steps, None, "h")
    decoding = {"embed": lambda ids: X[:, 0], "logits": lambda y: y, "start": 0, "end": 0}
    for function, options in ((rnn.greedy_decode, {}), (rnn.beam_search, {"beam_width": 2})):
        options |= decoding | {"maximum_iterations": 2}
        with says(KeyError, rf"the order of arguments is {function.__name__}\(cell, params, embed"):
            function(GRU, PARAMS[LSTM], initial_state=C, **options)
        with says(ValueError, r"^initial_state: expected shape"):
            function(GRU, PARAMS[GRU], initial_state=W, **options)


def test_bidirectional_arguments():
    """An invalid key, and invalid states under the argument names of their direction."""
    with says(ValueError, "expected one key, as of jax.random.key.*, got 0"):
        rnn.bidirectional_dynamic_rnn(GRU, GRU, BOTH, X, key=0)
    with says(ValueError, r"initial_state_bw: expected shape \(3, 4\)"):
        rnn.bidirectional_dynamic_rnn(GRU, GRU, BOTH, X, None, C, W)
    stack = [GRU, GRU]
    params = rnn.init_stack_bidirectional(jax.random.key(0), stack, stack, X.shape)
    with says(ValueError, r"^initial_states_fw\[1\]: expected shape \(3, 4\)"):
        rnn.stack_bidirectional_dynamic_rnn(stack, stack, params, X, None, [C, W])
    with says(ValueError, "expected one key"):
        rnn.stack_bidirectional_dynamic_rnn(stack, stack, params, X, key=0)


def test_outputs_without_features():
    """Outputs without a feature axis are not concatenated: their last axis is time."""
    cell = toys.Scalar()
    outputs, _ = rnn.bidirectional_dynamic_rnn(cell, cell, {"fw": {}, "bw": {}}, X)
    with says(ValueError, r"with a feature axis, .*got shape \(3, 5\); jnp.stack"):
        rnn.concatenate(*outputs)
    with says(ValueError, r"with a feature axis, .*got shape \(\)"):
        rnn.init_stack_bidirectional(jax.random.key(0), [cell], [cell], X.shape)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([GRU], [GRU, GRU], {}, X), ValueError, "got 1 and 2"),
        ((GRU, [GRU], {}, X), TypeError, "expected a list of cells, got GRUCell"),
        (([], [], {}, X), ValueError, "got 0 and 0"),
        (([GRU], [GRU], {"cell_0": 0}, X, None, [C, C]), ValueError, "list or tuple of 1.*of 2"),
    ],
)
def test_invalid_lists_of_cells_and_states(arguments, error, match):
    """Stacks need lists of equally many cells and states."""
    with says(error, match):
        rnn.stack_bidirectional_dynamic_rnn(*arguments)


def test_accepted_inputs():
    """5, 6, 22, 23, 28: lengths of any integer type, any float dtype, a plain 2-tuple as state."""
    expected = run(lengths=np.array([5, 2, 0], np.int32))
    for lengths in (
        [5, 2, 0],
        (5, 2, 0),
        np.array([5, 2, 0], np.uint8),
        jnp.array([5, 2, 0], jnp.int64),
        [jnp.asarray(5), 2, np.int8(0)],
    ):
        actual = run(lengths=lengths)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)
    assert isinstance(run(state=(C, C))[1], STATE)
    assert run(inputs=X.astype(np.float64))[0].dtype == np.float64
    assert run(inputs=X.astype(jnp.bfloat16))[0].dtype == np.float32
    assert run(inputs=X, dtype=jnp.bfloat16)[0].dtype == jnp.bfloat16


def test_traced_lengths_are_clamped():
    """19, 20, 50: traced lengths cannot be checked, and are clamped to [0, T]."""
    for reverse in (False, True):
        expected = run(lengths=[5, 0, 2], reverse=reverse)
        for dtype in (np.int8, np.int32, np.int64):
            traced = jax.jit(lambda n, reverse=reverse: run(lengths=n, reverse=reverse))
            actual = traced(np.array([100, -100, 2], dtype))
            for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{}, {"remat": 2}, {"remat": "sqrt", "reverse": True}], ids=str)
@pytest.mark.parametrize("cell", [LSTM, GRU])
def test_empty_axes(cell, options):
    """33, 34, 35: T = 0, B = 0, D = 0."""
    outputs, state = run(inputs=X[:, :0], lengths=[0, 0, 0], cell=cell, **options)
    assert outputs.shape == (B, 0, H) and not np.any(jax.tree.leaves(state)[0])
    for lengths in (None, []):
        outputs, state = run(inputs=X[:0], lengths=lengths, cell=cell, **options)
        assert outputs.shape == (0, T, H) and jax.tree.leaves(state)[0].shape == (0, H)
    params = cell.init(jax.random.key(0), (B, T, 0))

    def bias(path, x):
        return x + 1 if "bias" in jax.tree_util.keystr(path) else x

    params = jax.tree_util.tree_map_with_path(bias, params)
    outputs, _ = run(inputs=X[..., :0], cell=cell, params=params, **options)
    # Without features the state still changes at each step.
    assert np.all(np.abs(np.diff(outputs, axis=1)) > 0)


def test_nan_in_a_valid_step_stays_in_its_row():
    """40: NaN in a valid step spreads to the later steps of its row only."""
    corrupted = X.copy()
    corrupted[1, 2] = np.nan
    clean, (outputs, state) = run(), run(inputs=corrupted)
    bad = np.isnan(outputs).any((1, 2))
    assert bad.tolist() == [False, True, False]
    np.testing.assert_array_equal(outputs[np.array([0, 2])], clean[0][np.array([0, 2])])
    np.testing.assert_array_equal(outputs[1, :2], clean[0][1, :2])
    assert np.isnan(state.h[1]).all() and not np.isnan(state.h[0]).any()


def test_the_same_cell_twice_has_two_sets_of_weights():
    """One cell object in two layers has params of its own in each."""
    cell = rnn.MultiRNNCell([GRU, GRU])
    params = cell.init(jax.random.key(0), X.shape)
    kernels = [params[name]["candidate"]["kernel"] for name in ("cell_0", "cell_1")]
    assert kernels[0].shape == (D + H, H) and kernels[1].shape == (H + H, H)
    same = rnn.MultiRNNCell([GRU, GRU]).init(jax.random.key(0), (B, T, H))
    kernels = [same[name]["candidate"]["kernel"] for name in ("cell_0", "cell_1")]
    assert not np.allclose(*kernels)
