"""Says what a framework can hold: cells that it would compute differently are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...cells import (
    BasicLSTMCell,
    BasicRNNCell,
    Conv1DLSTMCell,
    Conv2DLSTMCell,
    Conv3DLSTMCell,
    ConvLSTMCell,
    CudnnCompatibleGRUCell,
    GRUCell,
    LSTMBlockCell,
    LSTMCell,
)
from .._code import code
from .blocks import Blocks
from .layers import RunLayer

FAMILIES = {
    BasicLSTMCell: "lstm",
    LSTMCell: "lstm",
    LSTMBlockCell: "lstm",
    GRUCell: "gru",
    CudnnCompatibleGRUCell: "cudnn_gru",
    BasicRNNCell: "rnn",
    ConvLSTMCell: "conv_lstm",
    Conv1DLSTMCell: "conv_lstm",
    Conv2DLSTMCell: "conv_lstm",
    Conv3DLSTMCell: "conv_lstm",
}
"""The family of each cell that other frameworks have: cells of a family compute the same."""

RESET_POSITIONS = {
    "gru": "before the matmul, as in TF1, Haiku and Keras with reset_after=False",
    "cudnn_gru": "after the matmul, as in cuDNN, PyTorch, Flax, Equinox and Keras",
}
"""Where the reset gate of each family of GRUs acts, for messages."""


class Framework(NamedTuple):
    """What a framework can hold, and how it lays it out."""

    name: str
    blocks: Callable[[RunLayer], Blocks]
    families: tuple[str, ...]
    forget_bias: float = 0.0
    """What the framework adds to the forget gate at run time."""
    projection: bool = False
    """Whether its LSTMs can have a projection."""
    activations: Mapping[str, Callable[..., Any] | None] = {}
    """By family, where it is not tanh; `None` for that of the cell, whatever it is."""
    activation_hint: str = ""
    """The advice of an error message where a cell has another activation."""
    recurrent_activation: Callable[..., Any] | None = jax.nn.sigmoid
    """Of the gates of its LSTMs and GRUs; `None` for that of the cell."""
    recurrent_activation_hint: str = ""
    """The advice of an error message where a cell has another one."""
    names_hint: str = "give as many cells as there are layers"
    """The advice of an error message where names do not match."""
    separate_stacks: bool = False
    """Whether it has pairs of stacks each of which receives only its own direction."""
    uniform_layers: bool = False
    """Whether all layers of a module have the same family, sizes and activation."""


def family(cell: Any) -> str:
    """The family of a cell: `lstm`, `gru`, `cudnn_gru` or `rnn`; empty if it has none.

    A user's subclass belongs to that of its parent if it has the same params: it is theirs to say
    that the other framework computes as it does.
    """
    for cell_class, name in FAMILIES.items():
        is_own = type(cell) is cell_class or not type(cell).__module__.startswith("jax_dynrnn.")
        if isinstance(cell, cell_class) and is_own and type(cell).init is cell_class.init:
            return name
    return ""


def cell_of_gates(width: int, units: int, *, reset_after: bool = True) -> Any:
    """The cell of so many units whose kernels have `width` columns, or `None` if there is none.

    Its weights are those of a framework that stores the forget bias in the bias.
    """
    gates, rest = divmod(width, units)
    if rest:
        return None
    if gates == 4:
        return LSTMCell(units, forget_bias=0.0)
    if gates == 3:
        return (CudnnCompatibleGRUCell if reset_after else GRUCell)(units)
    return BasicRNNCell(units) if gates == 1 else None


def check_supported(framework: Framework, layers: list[RunLayer]) -> list[RunLayer]:
    """Returns `layers`, or raises if the framework cannot hold one, with the reason."""
    for layer in layers:
        reason = _unsupported(framework, layer.cell)
        if reason:
            where = f"cells, {layer.path}: " if layer.path else "cells: "
            raise ValueError(
                f"{where}{code(layer.cell)} has no counterpart in {framework.name}: {reason}"
            )
    if layers[0].separate_stacks and not framework.separate_stacks:
        raise ValueError(
            f"cells: {framework.name} has no pair of stacks each of which receives only its own "
            "direction; convert the two one after the other, into params['fw'] and params['bw'] "
            "(two lists of cells are a stack whose layers receive both directions)"
        )
    if framework.uniform_layers:
        _check_uniform(framework, layers)
    return layers


def _check_uniform(framework: Framework, layers: list[RunLayer]) -> None:
    """Raises unless all layers are alike."""
    first = layers[0]
    for layer in layers[1:]:
        if _signature(layer.cell) != _signature(first.cell):
            raise ValueError(
                f"cells: the layers of one module of {framework.name} are alike; expected cells "
                f"like {code(first.cell)} at {first.path}, got {code(layer.cell)} at {layer.path}; "
                "convert them one by one"
            )


def _signature(cell: Any) -> tuple[Any, ...]:
    """What cells of one module must have in common."""
    functions = activation_of(cell), recurrent_activation_of(cell)
    return family(cell), cell.num_units, getattr(cell, "num_proj", None), functions


def _unsupported(framework: Framework, cell: Any) -> str | None:
    """Why a framework cannot hold a cell, or `None`."""
    if not family(cell):
        names = [c.__name__ for c, k in FAMILIES.items() if k in framework.families]
        return (
            f"expected one of {', '.join(names)} (in a MultiRNNCell, in wrappers without "
            "variables); of a wrapper with variables convert the cell inside, into params['cell']"
        )
    if family(cell) not in framework.families:
        return _wrong_family(framework, cell)
    if family(cell) in ("lstm", "conv_lstm"):
        reason = _lstm_option(framework, cell)
        if reason:
            return reason
    needed = framework.activations.get(family(cell), jnp.tanh)
    hint = framework.activation_hint if family(cell) in framework.activations else ""
    found = _other_function(framework, "activation", activation_of(cell), needed, hint)
    if found is None and family(cell) != "rnn":
        gate, hint = framework.recurrent_activation, framework.recurrent_activation_hint
        gate = None if gate is None else _as_gate(gate)
        actual = recurrent_activation_of(cell)
        found = _other_function(framework, "recurrent_activation", actual, gate, hint)
    return found


def _other_function(framework: Framework, what: str, got: Any, needed: Any, hint: str) -> Any:
    """Why a framework cannot hold a cell with a function, if it needs another, or `None`."""
    if needed is None or got == needed:
        return None
    got, expected = (getattr(f, "__name__", f) for f in (got, needed))
    # Two functions may have the same name.
    expected = f"another function, also {expected}" if got == expected else expected
    return f"its {what} is {got}, and that of {framework.name} is {expected}{hint and f'; {hint}'}"


def _wrong_family(framework: Framework, cell: Any) -> str:
    """Why a framework cannot hold a cell of a family that it lacks."""
    other = {"gru": "cudnn_gru", "cudnn_gru": "gru"}.get(family(cell))
    if other not in framework.families:
        names = [c.__name__ for c, held in FAMILIES.items() if held in framework.families]
        return f"only {', '.join(names)} have one"
    right = next(c.__name__ for c, k in FAMILIES.items() if k == other)
    return (
        f"its reset gate acts {RESET_POSITIONS[family(cell)]}; the GRU of {framework.name} is "
        f"{right}, and weights of one do not fit the other"
    )


def _lstm_option(framework: Framework, cell: Any) -> str | None:
    """Why a framework cannot hold an LSTM with its options, or `None`."""
    if family(cell) == "conv_lstm":
        options = {"skip_connection=True": cell.skip_connection}
    else:
        options = {
            "peepholes": cell.use_peepholes,
            f"cell_clip={cell.cell_clip}": cell.cell_clip is not None,
            f"proj_clip={cell.proj_clip}": cell.proj_clip is not None,
            f"num_proj={cell.num_proj}": cell.num_proj is not None and not framework.projection,
        }
    found = [name for name, given in options.items() if given]
    return (
        f"{framework.name} has no {found[0].split('=')[0]}, and the cell has {found[0]}"
        if found
        else None
    )


def activation_of(cell: Any) -> Callable[..., Any]:
    """The activation of a cell; all functions that are tanh compare equal."""
    activation = getattr(cell, "activation", None)
    return jnp.tanh if activation in (None, jax.nn.tanh, jax.lax.tanh) else activation


def recurrent_activation_of(cell: Any) -> Callable[..., Any]:
    """The function of the gates of a cell."""
    return _as_gate(getattr(cell, "recurrent_activation", None))


def _as_gate(function: Callable[..., Any] | None) -> Callable[..., Any]:
    """The function; all that are sigmoid compare equal."""
    return jax.nn.sigmoid if function in (None, jax.lax.logistic) else function
