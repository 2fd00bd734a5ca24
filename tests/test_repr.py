"""The repr of a cell is the call that constructs it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
import toys
from cases import CASES

import jax_dynrnn as rnn
from jax_dynrnn.interop._code import code

MODULES = {"functools": functools, "jax": jax, "jax_dynrnn": rnn, "jnp": jnp, "toys": toys}
NAMES = {**vars(rnn), **vars(toys), **MODULES}
WRITTEN = [case for case in CASES if case.configuration]


@pytest.mark.parametrize("case", WRITTEN, ids=lambda case: case.name)
def test_evaluating_the_repr_gives_an_equal_cell(case):
    """`eval(repr(cell)) == cell`, for all configurations."""
    assert eval(repr(case.cell), dict(NAMES)) == case.cell
    assert eval(code(case.cell), {**NAMES, "rnn": rnn}) == case.cell


def test_defaults_are_not_printed():
    """Only options that differ from their default are printed."""
    wrapped = rnn.DropoutWrapper(rnn.ResidualWrapper(rnn.LSTMCell(4, forget_bias=0.5)), 0.9)
    expected = "DropoutWrapper(ResidualWrapper(LSTMCell(4, forget_bias=0.5)), input_keep_prob=0.9)"
    assert repr(wrapped) == expected
    assert repr(rnn.MultiRNNCell([wrapped, rnn.GRUCell(2)])) == (
        f"MultiRNNCell([{expected}, GRUCell(2)])"
    )
    assert repr(rnn.LSTMCell(4, cell_clip=0)) == "LSTMCell(4, cell_clip=0.0)"
    assert repr(rnn.CudnnCompatibleGRUCell(4)) == "CudnnCompatibleGRUCell(4)"
    assert repr(rnn.LuongAttention(4, memory_size=2)) == "LuongAttention(4, memory_size=2)"


@pytest.mark.parametrize(
    "function, printed",
    [
        (jnp.tanh, "jnp.tanh"),
        (jax.nn.relu, "jax.nn.relu"),
        (jax.nn.initializers.zeros, "jax.nn.initializers.zeros"),
        (toys.everything, "toys.everything"),
        (functools.partial(jax.nn.elu, alpha=0.5), "functools.partial(jax.nn.elu, alpha=0.5)"),
        (lambda x: x, "<lambda>"),
    ],
)
def test_functions_are_printed_with_their_import_path(function, printed):
    """Activations are printed as code that imports them."""
    assert repr(rnn.GRUCell(4, activation=function)) == f"GRUCell(4, activation={printed})"


@toys.config
class Own(rnn.GRUCell):
    _: dataclasses.KW_ONLY
    sizes: tuple = ()
    scale: float = 1.0


@toys.config
class Named(rnn.GRUCell):
    def __repr__(self):
        return "mine"


class Plain(rnn.Cell):
    pass


@dataclasses.dataclass(frozen=True)
class Mechanism(rnn.LuongAttention):
    depth: int = 1


def test_repr_of_user_defined_cells_and_mechanisms():
    """Subclasses inherit the repr, even if they are dataclasses, unless they define their own."""
    assert repr(Own(4)) == "Own(4)"
    assert repr(Own(4, sizes=(1, 2), scale=0.5)) == "Own(4, sizes=(1, 2), scale=0.5)"
    assert repr(Named(4)) == "mine"
    assert repr(rnn.MultiRNNCell([Named(4)])) == "MultiRNNCell([mine])"
    assert repr(Plain()).startswith(f"<{Plain.__module__}.Plain object")
    assert repr(Mechanism(4, memory_size=2, depth=3)) == "Mechanism(4, depth=3, memory_size=2)"
    assert code(rnn.ResidualWrapper(Own(4))) == "rnn.ResidualWrapper(Own(4))"


def test_errors_do_not_print_long_cells():
    """The message of an error about a large stack stays short."""
    stack = rnn.MultiRNNCell([rnn.DropoutWrapper(rnn.LSTMCell(4), 0.5)] * 3)
    with pytest.raises(ValueError) as error:
        rnn.dynamic_rnn(stack, {}, jnp.ones((2, 3)))
    assert len(str(error.value)) < 350
