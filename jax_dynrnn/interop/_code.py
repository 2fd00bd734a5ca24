"""Cells as code to paste."""

from __future__ import annotations

import dataclasses
from typing import Any


def code(cells: Any) -> str:
    """A cell, or a tuple or list of them, with what is not the default.

    >>> import jax_dynrnn as rnn
    >>> code((rnn.LSTMCell(8, num_proj=4), rnn.MultiRNNCell([rnn.GRUCell(8)])))
    '(rnn.LSTMCell(8, num_proj=4), rnn.MultiRNNCell([rnn.GRUCell(8)]))'
    """
    if isinstance(cells, tuple | list):
        left, right = "()" if isinstance(cells, tuple) else "[]"
        return left + ", ".join(map(code, cells)) + right
    if isinstance(cells, type) or not type(cells).__module__.startswith("jax_dynrnn."):
        return getattr(cells, "__name__", repr(cells))
    given = []
    for field in dataclasses.fields(cells):
        value = getattr(cells, field.name)
        value = list(value) if isinstance(value, tuple) else value
        if field.default is dataclasses.MISSING:
            given.append(code(value))
        elif value != field.default:
            given.append(f"{field.name}={code(value)}")
    return f"rnn.{type(cells).__name__}({', '.join(given)})"
