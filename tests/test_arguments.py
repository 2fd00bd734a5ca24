"""Errors for arguments with the names of TF1, Flax, Keras or PyTorch, for too many and too few."""

import functools
import inspect

import jax
import jax.numpy as jnp
import pytest
import toys
from flax import nnx
from messages import says

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx
from jax_dynrnn._arguments import FOREIGN, Advice
from jax_dynrnn._rnn import RunOptions

X = jnp.ones((2, 3, 4), jnp.float32)
GRU = rnn.GRUCell(4)
RNGS = nnx.Rngs(0)

FUNCTIONS = [
    rnn.dynamic_rnn,
    rnn.explain,
    rnn.bidirectional_dynamic_rnn,
    rnn.stack_bidirectional_dynamic_rnn,
    rnn.init_bidirectional,
    rnn.init_stack_bidirectional,
    rnn.static_rnn,
    rnn.static_bidirectional_rnn,
    rnn.stack_bidirectional_rnn,
    rnn.static_state_saving_rnn,
    rnn.raw_rnn,
    rnn.greedy_decode,
    rnn.beam_search,
    rnn.tile_batch,
]


@functools.cache
def nnx_layers():
    given = {"in_features": 4, "rngs": RNGS}
    return rnnx.RNN(GRU, **given), rnnx.Bidirectional(GRU, **given)


def linen_call(layer, *arguments, **options):
    return layer.init(jax.random.key(0), *arguments, **options)


CALLS = {
    **{function.__name__: function for function in FUNCTIONS},
    "RNN": functools.partial(linen_call, rnnl.RNN(GRU), X),
    "RNN of NNX": lambda **options: nnx_layers()[0](X, **options),
    "RNN.step": lambda **options: nnx_layers()[0].step(X[:, 0], X[:, 0], **options),
    "RNN.start": lambda **options: nnx_layers()[0].start(2, **options),
    "Bidirectional": functools.partial(linen_call, rnnl.Bidirectional(GRU), X),
    "Bidirectional of NNX": lambda **options: nnx_layers()[1](X, **options),
    "StackedBidirectional": functools.partial(linen_call, rnnl.StackedBidirectional([GRU]), X),
}
SIGNATURES = {
    **CALLS,
    "RNN": rnnl.RNN.__call__,
    "RNN of NNX": rnnx.RNN.__call__,
    "RNN.step": rnnx.RNN.step,
    "RNN.start": rnnx.RNN.start,
    "Bidirectional": rnnl.Bidirectional.__call__,
    "Bidirectional of NNX": rnnx.Bidirectional.__call__,
    "StackedBidirectional": rnnl.StackedBidirectional.__call__,
}


OF_FLAX = {"rngs", "scope"}
"""Arguments that Flax itself consumes in every call of a Linen module."""


@pytest.mark.parametrize("name", CALLS)
def test_foreign_argument_names(name):
    """A foreign argument name is refused, with its name here or with advice."""
    known = inspect.signature(SIGNATURES[name]).parameters
    owner = name.removesuffix(" of NNX")
    own = OF_FLAX if hasattr(CALLS[name], "func") else set()
    for foreign in {*FOREIGN, "lenghts", "anything"} - {*known} - own:
        with says(TypeError, rf"^{owner}: no argument is named {foreign}; ") as caught:
            CALLS[name](**{foreign: 1})
        message = str(caught.value.args[0]).partition("; ")[2]
        advice = FOREIGN.get(foreign, Advice())
        here = [n for n in advice[0] if n in known]
        expected = f"{here[0]}=" if here else advice.otherwise
        assert message and expected in message


@pytest.mark.parametrize(
    ("foreign", "advice"),
    [
        ("seq_lengths", "its name here is sequence_length="),
        ("lengths", "its name here is sequence_length="),
        ("initial_carry", "its name here is initial_state="),
        ("return_carry", "always returned: leave it out"),
        ("swap_memory", "remat='offload'"),
        ("parallel_iterations", "unroll="),
        ("scope", "params are an argument here: leave it out"),
        ("go_backwards", "its name here is reverse="),
        ("batch_first", "time_major=True is the opposite"),
        ("state_is_tuple", "always a tuple here: leave it out"),
        ("training", "give key= to a run to draw"),
        ("sequence_lenth", "did you mean sequence_length="),
        ("anything", "expected cell, params, inputs, sequence_length, .*implementation"),
    ],
)
def test_advice_of_dynamic_rnn(foreign, advice):
    """The error for a foreign argument says what to use instead."""
    with says(TypeError, advice):
        rnn.dynamic_rnn(GRU, {}, X, **{foreign: None})


def test_advice_of_flax_layers():
    """Layers give advice of their own about directions and randomness."""
    with says(TypeError, "^RNN: no argument is named training; training=False is determin"):
        CALLS["RNN"](training=False)
    with says(TypeError, "^Bidirectional: .* initial_state; its name here is initial_state_fw="):
        CALLS["Bidirectional of NNX"](initial_state=None)
    with says(TypeError, "^Bidirectional: no argument is named reverse; the order of steps is"):
        CALLS["Bidirectional"](reverse=True)


CONSTRUCTORS = {
    "LSTMCell": functools.partial(rnn.LSTMCell, 4),
    "MultiRNNCell": functools.partial(rnn.MultiRNNCell, [GRU]),
    "DropoutWrapper": functools.partial(rnn.DropoutWrapper, GRU),
    "LuongAttention": functools.partial(rnn.LuongAttention, 4),
    "Conv2DLSTMCell": functools.partial(rnn.Conv2DLSTMCell, 4, (2, 2)),
    "RNN": functools.partial(rnnl.RNN, GRU),
    "RNN of NNX": functools.partial(rnnx.RNN, GRU, in_features=4, rngs=RNGS),
    "Bidirectional of NNX": functools.partial(rnnx.Bidirectional, GRU, in_features=4, rngs=RNGS),
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_foreign_argument_names_of_constructors(name):
    """Constructors of cells, mechanisms and layers refuse foreign argument names."""
    construct, owner = CONSTRUCTORS[name], name.removesuffix(" of NNX")
    known = inspect.signature(construct.func.__init__).parameters
    for foreign in {*FOREIGN, "anything"} - {*known, "memory"}:
        with says(TypeError, rf"^{owner}: no argument is named {foreign}; "):
            construct(**{foreign: 1})


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("state_is_tuple", "leave it out"),
        ("reuse", "leave it out"),
        ("features", "its name here is num_units="),
        ("dtype", r"init\(key, input_shape, dtype\) makes params"),
        ("initializer", "its name here is kernel_initializer="),
        ("input_size", "read from the input_shape of init"),
        ("proj_size", "its name here is num_proj="),
        ("num_layers", r"MultiRNNCell\(\[cell, cell\]\)"),
    ],
)
def test_advice_of_the_constructor_of_a_cell(option, advice):
    """The error for an option of TF1, PyTorch or Keras says what to use instead."""
    with says(TypeError, rf"^LSTMCell: no argument is named {option}; .*{advice}"):
        rnn.LSTMCell(4, **{option: True})


def test_user_defined_cells_may_take_any_argument():
    """A subclass whose `__init__` takes `**options` receives foreign names."""

    class Own(toys.Sum):
        def __init__(self, **options):
            self.options = options

    assert Own(scope=1).options == {"scope": 1}


@pytest.mark.parametrize(
    ("call", "fragments"),
    [
        (lambda: rnn.dynamic_rnn(GRU, X), ["missing inputs", r"got an array of shape \(2, 3, 4\)"]),
        (lambda: rnn.dynamic_rnn(GRU), ["missing params, inputs$"]),
        (lambda: rnn.dynamic_rnn(), [r"\(cell, params, inputs\), missing cell, params, inputs"]),
        (lambda: rnn.dynamic_rnn(GRU, inputs=X), ["missing params$"]),
        (
            lambda: rnn.dynamic_rnn(GRU, {}, X, None, None, True),
            [r"at most 5 without a name .*, initial_state\), got 6; .* by name: mask, resets"],
        ),
        (
            lambda: rnn.dynamic_rnn(GRU, {}, X, [1], sequence_length=[1]),
            ["multiple values for argument 'sequence_length'"],
        ),
        (lambda: rnn.bidirectional_dynamic_rnn(GRU, GRU, X), ["missing inputs; params are"]),
        (lambda: rnn.raw_rnn(GRU, {}), ["missing loop_fn, maximum_iterations"]),
        (lambda: CALLS["RNN of NNX"](sequence_length=1, inputs=X), ["multiple values"]),
        (lambda: nnx_layers()[0](), [r"^RNN: expected the arguments \(inputs\), missing inputs"]),
        (lambda: nnx_layers()[0](X, None, None, 1), ["^RNN: expected at most 3 without"]),
        (lambda: nnx_layers()[0].step(X), [r"^RNN\.step: .*missing state"]),
        (lambda: rnnx.RNN(), ["^RNN: .*missing cell, in_features, rngs"]),
        (
            lambda: rnnx.RNN(GRU, 4, RNGS),
            ["^RNN: expected at most 1 .* by name: in_features, rngs"],
        ),
        (lambda: rnnx.Bidirectional(GRU), ["^Bidirectional: .*missing in_features, rngs"]),
        (
            lambda: rnnx.RNN(GRU, in_features=4, rngs=0),
            [r"^RNN: expected rngs=nnx.Rngs", "got int"],
        ),
        (lambda: rnnl.RNN(), ["^RNN: .*missing cell"]),
    ],
)
def test_too_few_and_too_many_arguments(call, fragments):
    """Missing, repeated and surplus positional arguments are named in the error."""
    with says(TypeError, *fragments):
        call()


def test_type_errors_inside_of_a_cell_are_not_rewritten():
    """Only a TypeError about the call itself is reworded, not one from the body of a cell."""

    class Own(toys.Sum):
        def __call__(self, params, inputs, state, *, key=None):
            return len(3)

    with pytest.raises(TypeError, match="object of type 'int' has no len"):
        rnn.dynamic_rnn(Own(), {}, X)


def test_signatures_show_every_option():
    """Signatures spell out the options of `dynamic_rnn` with its defaults, as editors show them."""
    like = inspect.signature(rnn.dynamic_rnn).parameters
    own = {"cell", "params", "inputs", "sequence_length", "initial_state", "reverse"}
    assert set(like) - own == set(RunOptions.__annotations__)
    for function in (rnn.stack_bidirectional_dynamic_rnn, rnnl.RNN.__call__, rnnx.RNN.__call__):
        parameters = inspect.signature(function).parameters
        for name in RunOptions.__annotations__:
            assert parameters[name].default == like[name].default
            assert parameters[name].kind == inspect.Parameter.KEYWORD_ONLY
