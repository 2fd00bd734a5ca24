"""Describes how a framework lays out the weights of a layer: which arrays, made of which pieces.

The pieces of a layer are the same in all frameworks, one for each field and gate:

    input        [D, H]   multiplies the inputs
    hidden       [P, H]   multiplies the hidden state
    bias         [1, H]   is added to the pre-activations
    hidden_bias  [1, H]   is added to the product with the hidden state
    projection   [H, P]   maps the memory to the hidden state of size `P`; without it `P = H`

Those that multiply have the axes of the kernel before these two in a convolutional LSTM.

The gates are `i` (input), `f` (forget), `g` (cell input) and `o` (output) of an LSTM, `r` (reset),
`z` (update: the weight of the old state) and `n` (candidate) of a GRU, `h` of a plain RNN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .layers import hidden_size, units_of

Pieces = dict[tuple[str, str], Any]
BIASES = ("bias", "hidden_bias")


class Block(NamedTuple):
    """One array: its pieces are stacked along the rows by field, along the columns by gate."""

    fields: str
    """One or more names, separated by spaces."""
    gates: str
    transposed: bool = False
    """Whether the array is `[gates, fields]`."""
    negated: str = ""
    """The gates that are stored with the opposite sign."""
    optional: bool = False
    """Whether a layer without biases lacks it, together with all other optional arrays."""


Blocks = Mapping[str, Block]
"""The arrays of a layer, by name."""


class Sizes(NamedTuple):
    """The sizes that determine the shapes of a layer's arrays."""

    inputs: int
    units: int
    hidden: int
    kernel: tuple[int, ...] = ()
    """Of the convolution of a convolutional cell."""

    def rows(self, block: Block) -> list[int]:
        """The number of rows of each field."""
        by_field = {"input": self.inputs, "hidden": self.hidden, "projection": self.units}
        return [by_field.get(field, 1) for field in block.fields.split()]

    def columns(self, block: Block) -> int:
        """The number of columns of one gate."""
        return self.hidden if block.fields == "projection" else self.units

    def shape(self, block: Block) -> tuple[int, ...]:
        """The shape of the array."""
        gates = len(block.gates) * self.columns(block)
        if block.fields in BIASES:
            return (gates,)
        shape = (sum(self.rows(block)), gates)
        return shape[::-1] if block.transposed else (*self.kernel, *shape)


def sizes_of(cell: Any, blocks: Blocks, arrays: Mapping[str, Any]) -> Sizes:
    """The sizes of a layer: of its cell, and the input size inferred from its input kernel."""
    kernel = tuple(getattr(cell, "kernel_shape", ()))
    sizes = Sizes(0, units_of(cell), hidden_size(cell), kernel)
    if kernel:
        return sizes._replace(inputs=cell.input_shape[-1])
    name, block = next((n, b) for n, b in blocks.items() if "input" in b.fields.split())
    shape = np.shape(arrays[name])
    # A wrong rank is reported with the shapes of all arrays, by the caller.
    if len(shape) != 2:
        return sizes
    return sizes._replace(inputs=shape[block.transposed] - sum(sizes.rows(block)))


def split_arrays(blocks: Blocks, arrays: Mapping[str, Any], sizes: Sizes) -> Pieces:
    """Splits the arrays of a layer into its pieces."""
    pieces: Pieces = {}
    for name, block in blocks.items():
        if name not in arrays:
            continue
        matrix = arrays[name].T if block.transposed else arrays[name]
        columns, row = sizes.columns(block), 0
        # A vector becomes a matrix of one row.
        matrix = matrix[None] if np.ndim(matrix) == 1 else matrix
        for field, rows in zip(block.fields.split(), sizes.rows(block), strict=True):
            for i, gate in enumerate(block.gates):
                piece = matrix[..., row : row + rows, i * columns : (i + 1) * columns]
                pieces[field, gate] = -piece if gate in block.negated else piece
            row += rows
    return pieces


def reconcile_biases(pieces: Pieces, blocks: Blocks) -> Pieces:
    """Adapts the biases among the pieces to a target that has other ones.

    A second bias is added to the first, since only their sum matters, except for the candidate of a
    GRU: the reset gate multiplies only the second one. Biases that the source lacks are 0.
    """
    pieces = dict(pieces)
    for field, gate in list(pieces):
        if field == "hidden_bias" and gate != "n":
            pieces["bias", gate] = pieces["bias", gate] + pieces.pop((field, gate))
    for field, gate in piece_names(blocks) - set(pieces):
        # The kernel has the dtype and the array library of the bias.
        like = pieces["hidden", gate]
        library = jnp if isinstance(like, jax.Array) else np
        pieces[field, gate] = library.zeros_like(like, shape=(1, like.shape[-1]))
    return pieces


def piece_names(blocks: Blocks) -> set[tuple[str, str]]:
    """The field and the gate of each piece of these arrays."""
    return {(f, g) for block in blocks.values() for f in block.fields.split() for g in block.gates}


def join_pieces(blocks: Blocks, pieces: Pieces) -> dict[str, Any]:
    """Joins the pieces of a layer into its arrays."""
    return {name: _join_block(block, pieces) for name, block in blocks.items()}


def _join_block(block: Block, pieces: Pieces) -> Any:
    """Joins pieces into one array."""

    def side_by_side(field: str) -> Any:
        parts = [pieces[field, gate] for gate in block.gates]
        signs = [gate in block.negated for gate in block.gates]
        return _concatenate([-p if s else p for p, s in zip(parts, signs, strict=True)], -1)

    matrix = _concatenate([side_by_side(field) for field in block.fields.split()], -2)
    if block.fields in BIASES:
        return matrix[0]
    return matrix.T if block.transposed else matrix


def _concatenate(parts: Sequence[Any], axis: int) -> Any:
    """Concatenates with NumPy, which keeps 64 bits, or with JAX if an array is JAX's, or traced."""
    if len(parts) == 1:
        return parts[0]
    return (jnp if any(isinstance(p, jax.Array) for p in parts) else np).concatenate(parts, axis)
