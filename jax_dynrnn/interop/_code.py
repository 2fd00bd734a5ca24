"""Prints cells as Python code."""

from __future__ import annotations

from .._repr import as_code
from .._types import Cells


def code(cells: Cells) -> str:
    """The code that makes a cell, or a tuple or list of cells; default values are left out.

    >>> import jax_dynrnn as rnn
    >>> code((rnn.LSTMCell(8, num_proj=4), rnn.MultiRNNCell([rnn.GRUCell(8)])))
    '(rnn.LSTMCell(8, num_proj=4), rnn.MultiRNNCell([rnn.GRUCell(8)]))'
    """
    # `rnn` is this package in the code that is printed, and `interop` its module.
    return as_code(cells, prefix="rnn.").replace("jax_dynrnn.interop.", "interop.")
