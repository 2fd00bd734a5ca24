"""How a framework lays out the weights of a layer: a table of its arrays, and nothing else.

A layer is made of pieces, one for each field and gate, which are the same everywhere:

    input        [D, H]   what multiplies the inputs
    hidden       [P, H]   what multiplies the hidden state
    bias         [1, H]   what is added to it
    hidden_bias  [1, H]   what is added to the product with the hidden state
    projection   [H, P]   from the memory to the hidden state, of `P` then; else `P = H`

The gates are `i` (input), `f` (forget), `g` (what is written) and `o` (output) of an LSTM, `r`
(reset), `z` (how much of the state is kept) and `n` (the candidate) of a GRU, `h` of a plain RNN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .layers import hidden_size

Pieces = dict[tuple[str, str], Any]
BIASES = ("bias", "hidden_bias")


class Block(NamedTuple):
    """How one array is made of pieces: fields one above the other, gates side by side."""

    fields: str
    """One or more, with spaces between them."""
    gates: str
    transposed: bool = False
    """Whether the array is `[gates, fields]`."""
    negated: str = ""
    """The gates that are stored with the other sign."""
    optional: bool = False
    """Whether a layer may lack it, with all others that it may lack: then it is zero."""


Table = Mapping[str, Block]


class Sizes(NamedTuple):
    """What the shapes of a layer are made of."""

    inputs: int
    units: int
    hidden: int

    def rows(self, block: Block) -> list[int]:
        rows = {"input": self.inputs, "hidden": self.hidden, "projection": self.units}
        return [rows.get(field, 1) for field in block.fields.split()]

    def columns(self, block: Block) -> int:
        """Of one gate."""
        return self.hidden if block.fields == "projection" else self.units

    def shape(self, block: Block) -> tuple[int, ...]:
        gates = len(block.gates) * self.columns(block)
        if block.fields in BIASES:
            return (gates,)
        shape = (sum(self.rows(block)), gates)
        return shape[::-1] if block.transposed else shape


def sizes_of(cell: Any, table: Table, arrays: Mapping[str, Any]) -> Sizes:
    """The sizes of a layer: those of the cell, and the inputs' that its first kernel has."""
    sizes = Sizes(0, cell.num_units, hidden_size(cell))
    name, block = next((n, b) for n, b in table.items() if "input" in b.fields.split())
    shape = np.shape(arrays[name])
    if len(shape) != 2:
        return sizes
    return sizes._replace(inputs=shape[block.transposed] - sum(sizes.rows(block)))


def read(table: Table, arrays: Mapping[str, Any], sizes: Sizes) -> Pieces:
    """The pieces that the arrays of a layer are made of."""
    pieces: Pieces = {}
    for name, block in table.items():
        if name not in arrays:
            continue
        matrix = arrays[name].T if block.transposed else arrays[name]
        columns, row = sizes.columns(block), 0
        matrix = matrix.reshape(-1, len(block.gates) * columns)
        for field, rows in zip(block.fields.split(), sizes.rows(block), strict=True):
            for i, gate in enumerate(block.gates):
                piece = matrix[row : row + rows, i * columns : (i + 1) * columns]
                pieces[field, gate] = -piece if gate in block.negated else piece
            row += rows
    return pieces


def settled(pieces: Pieces, table: Table) -> Pieces:
    """The pieces as `table` wants its biases: added up where it has one, 0 where there was none.

    The candidate of a GRU keeps its two: between them stands the reset gate.
    """
    pieces = dict(pieces)
    for field, gate in list(pieces):
        if field == "hidden_bias" and gate != "n":
            pieces["bias", gate] = pieces["bias", gate] + pieces.pop((field, gate))
    for field, gate in wanted(table) - set(pieces):
        like = pieces["hidden", gate][:1]
        pieces[field, gate] = (jnp if isinstance(like, jax.Array) else np).zeros_like(like)
    return pieces


def wanted(table: Table) -> set[tuple[str, str]]:
    """The pieces that the arrays of a table are made of."""
    return {(f, g) for block in table.values() for f in block.fields.split() for g in block.gates}


def write(table: Table, pieces: Pieces) -> dict[str, Any]:
    """The arrays of a layer, made of its pieces."""
    return {name: _array(block, pieces) for name, block in table.items()}


def _array(block: Block, pieces: Pieces) -> Any:
    def row(field):
        parts = [pieces[field, gate] for gate in block.gates]
        signs = [gate in block.negated for gate in block.gates]
        return _concatenate([-p if s else p for p, s in zip(parts, signs, strict=True)], 1)

    matrix = _concatenate([row(field) for field in block.fields.split()], 0)
    if block.fields in BIASES:
        return matrix[0]
    return matrix.T if block.transposed else matrix


def _concatenate(parts: Sequence[Any], axis: int) -> Any:
    """Of NumPy's arrays one of NumPy's, which keeps 64 bits; of JAX's, traced or not, JAX's."""
    if len(parts) == 1:
        return parts[0]
    return (jnp if any(isinstance(p, jax.Array) for p in parts) else np).concatenate(parts, axis)
