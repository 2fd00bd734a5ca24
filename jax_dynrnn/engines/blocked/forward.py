"""The forward pass: tile by tile, block by block."""

from __future__ import annotations

from typing import Any

import jax

from ..devices import zeros
from ..loops import repeat
from .blocks import Blocks, write_steps


def forward(blocks: Blocks, save: bool) -> tuple[Any, Any]:
    """`((outputs, final_state), residuals)`; the residuals are `None` unless they are to be saved.

    They are `[steps, B, ...]`; with `remat` the states that the blocks begin with,
    `[blocks, B, ...]`.
    """
    run, tiling = blocks.run, blocks.tiling
    outputs, residuals = _outputs(blocks), _residuals(blocks) if save else None
    final = jax.tree.map(lambda s: zeros(s.shape, s.dtype, like=run), run.initial_state)

    def run_tile(i, carry):
        tile = tiling.tile(i)
        outputs, final, residuals = carry
        state = jax.tree.map(lambda s: tiling.read_rows(s, tile), run.initial_state)

        def run_block(i, carry):
            state, outputs, residuals = carry
            block, row = blocks.index(tile, i), tiling.first_row(tile)
            if save and tiling.rematerialises:
                residuals = jax.tree.map(
                    lambda buffer, s: write_steps(buffer, s[None], block, row), residuals, state
                )
                state, y, _ = blocks.forward(tile, block, state)
            else:
                at = block * tiling.steps, row
                state, y, residuals = blocks.forward(tile, block, state, residuals, at)
            outputs = jax.tree.map(lambda o, y: tiling.write(o, y, tile, block), outputs, y)
            return state, outputs, residuals

        carry = state, outputs, residuals
        state, outputs, residuals = repeat(tiling.num_blocks_of(tile), run_block, carry)
        final = jax.tree.map(lambda f, s: tiling.write_rows(f, s, tile), final, state)
        return outputs, final, residuals

    carry = outputs, final, residuals
    outputs, final, residuals = repeat(tiling.num_tiles, run_tile, carry)
    return (outputs, final), residuals


def _outputs(blocks: Blocks) -> Any:
    run = blocks.run
    leading = (run.time, run.batch) if run.time_axis == 0 else (run.batch, run.time)
    return jax.tree.map(
        lambda y: zeros((*leading, *y.shape[1:]), y.dtype, like=run), blocks.one_output
    )


def _residuals(blocks: Blocks) -> Any:
    run, tiling = blocks.run, blocks.tiling
    if not tiling.rematerialises:
        return blocks.residual_buffers(tiling.num_blocks * tiling.steps, run.batch)
    return jax.tree.map(
        lambda s: zeros((tiling.num_blocks, *s.shape), s.dtype, like=run), run.initial_state
    )
