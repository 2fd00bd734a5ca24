"""What a framework can hold: cells that compute something else there are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...cells import (
    BasicLSTMCell,
    BasicRNNCell,
    CudnnCompatibleGRUCell,
    GRUCell,
    LSTMBlockCell,
    LSTMCell,
)
from .._code import code
from .blocks import Table
from .layers import Layer

KINDS = {
    BasicLSTMCell: "lstm",
    LSTMCell: "lstm",
    LSTMBlockCell: "lstm",
    GRUCell: "gru",
    CudnnCompatibleGRUCell: "cudnn_gru",
    BasicRNNCell: "rnn",
}
"""The equations of each cell that other frameworks have; a subclass may have others."""

RESETS = {
    "gru": "before the matmul, as in TF1, Haiku and Keras with reset_after=False",
    "cudnn_gru": "after the matmul, as in cuDNN, PyTorch, Flax, Equinox and Keras",
}


class Framework(NamedTuple):
    """What a framework can hold, and how."""

    name: str
    table: Callable[[Layer], Table]
    kinds: tuple[str, ...]
    forget_bias: float = 0.0
    """What it adds to the forget gate at run time."""
    projection: bool = False
    activations: Mapping[str, Callable[..., Any]] = {}
    """Of each kind, where it is not tanh."""
    activation_hint: str = ""
    """What to do where a cell has another one."""
    names_hint: str = "give as many cells as there are layers"
    """What to do where the weights have other names."""
    apart: bool = False
    """Whether it has two stacks each of which receives only its own direction."""
    uniform: bool = False
    """Whether the layers of a module are alike."""


def kind(cell: Any) -> str:
    """The equations of a cell: `lstm`, `gru`, `cudnn_gru` or `rnn`."""
    return KINDS[type(cell)]


def check(framework: Framework, layers: list[Layer]) -> list[Layer]:
    """`layers`, or an error that says which of them the framework cannot hold, and why."""
    for layer in layers:
        reason = _unsupported(framework, layer.cell)
        if reason:
            where = f"cells, {layer.path}: " if layer.path else "cells: "
            raise ValueError(
                f"{where}{code(layer.cell)} has no counterpart in {framework.name}: {reason}"
            )
    if layers[0].apart and not framework.apart:
        raise ValueError(
            f"cells: {framework.name} has no pair of stacks each of which receives only its own "
            "direction; convert the two one after the other, into params['fw'] and params['bw'] "
            "(two lists of cells are a stack whose layers see both directions)"
        )
    if framework.uniform:
        _check_uniform(framework, layers)
    return layers


def _check_uniform(framework: Framework, layers: list[Layer]) -> None:
    first = layers[0]
    for layer in layers[1:]:
        if _size(layer.cell) != _size(first.cell):
            raise ValueError(
                f"cells: the layers of one module of {framework.name} are alike; expected cells "
                f"like {code(first.cell)} at {first.path}, got {code(layer.cell)} at {layer.path}; "
                "convert them one by one"
            )


def _size(cell: Any) -> tuple[Any, ...]:
    return kind(cell), cell.num_units, getattr(cell, "num_proj", None), _activation(cell)


def _unsupported(framework: Framework, cell: Any) -> str | None:
    if type(cell) not in KINDS:
        names = [c.__name__ for c, k in KINDS.items() if k in framework.kinds]
        return (
            f"expected one of {', '.join(names)} (in a MultiRNNCell, in wrappers without "
            "variables); of a wrapper with variables convert the cell inside, into params['cell']"
        )
    if kind(cell) not in framework.kinds:
        return _other_kind(framework, cell)
    if kind(cell) == "lstm":
        reason = _lstm_option(framework, cell)
        if reason:
            return reason
    there = framework.activations.get(kind(cell), jnp.tanh)
    if _activation(cell) != there:
        got, expected = (getattr(f, "__name__", f) for f in (_activation(cell), there))
        expected = f"another function, also {expected}" if got == expected else expected
        hint = framework.activation_hint if kind(cell) in framework.activations else ""
        return f"its activation is {got}, and there it is {expected}{hint and f'; {hint}'}"
    return None


def _other_kind(framework: Framework, cell: Any) -> str:
    other = {"gru": "cudnn_gru", "cudnn_gru": "gru"}.get(kind(cell))
    if other not in framework.kinds:
        return (
            f"only {', '.join(c.__name__ for c in KINDS if KINDS[c] in framework.kinds)} have one"
        )
    right = next(c.__name__ for c, k in KINDS.items() if k == other)
    return (
        f"its reset gate acts {RESETS[kind(cell)]}; the GRU of {framework.name} is {right}, and "
        "weights of one do not fit the other"
    )


def _lstm_option(framework: Framework, cell: Any) -> str | None:
    options = {
        "peepholes": cell.use_peepholes,
        f"cell_clip={cell.cell_clip}": cell.cell_clip is not None,
        f"proj_clip={cell.proj_clip}": cell.proj_clip is not None,
        f"num_proj={cell.num_proj}": cell.num_proj is not None and not framework.projection,
    }
    found = [name for name, given in options.items() if given]
    return f"there is no {found[0].split('=')[0]} there, and it has {found[0]}" if found else None


def _activation(cell: Any) -> Callable[..., Any]:
    activation = getattr(cell, "activation", None)
    return jnp.tanh if activation in (None, jax.nn.tanh, jax.lax.tanh) else activation
