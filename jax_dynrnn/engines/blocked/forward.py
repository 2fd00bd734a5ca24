"""The forward pass: tile by tile, block by block."""

from __future__ import annotations

from typing import Any

from ..devices import zeros
from ..loops import repeat
from ..types import with_leading
from .blocks import Blocks, write_step


def forward(blocks: Blocks, save: bool) -> tuple[Any, Any]:
    """`((outputs, final_state), residuals)`; the residuals are `None` unless they are to be saved.

    They are `[T, B, ...]`; with `remat` the states that the blocks begin with,
    `[blocks, B, ...]`.
    """
    run, tiling = blocks.run, blocks.tiling
    outputs, residuals = _outputs(blocks), _residuals(blocks) if save else None
    final = zeros(run.initial_state, like=run)

    def run_tile(i, carry):
        tile = tiling.tile(i)
        outputs, final, residuals = carry
        state = tiling.read_rows(run.initial_state, tile)

        def run_block(block, carry):
            state, outputs, residuals = carry
            row = tiling.first_row(tile)

            def place(k):
                return tiling.residual_step(block, k), row

            if save and tiling.rematerialises:
                residuals = write_step(residuals, state, block, row)
                state, y, _ = blocks.forward(tile, block, state)
            else:
                state, y, residuals = blocks.forward(tile, block, state, residuals, place)
            return state, tiling.write(outputs, y, tile, block), residuals

        carry = state, outputs, residuals
        state, outputs, residuals = blocks.repeat(tile, run_block, carry)
        return outputs, tiling.write_rows(final, state, tile), residuals

    carry = outputs, final, residuals
    outputs, final, residuals = repeat(tiling.num_tiles, run_tile, carry)
    return (outputs, final), residuals


def _outputs(blocks: Blocks) -> Any:
    run = blocks.run
    leading = (run.time, run.batch) if run.time_axis == 0 else (run.batch, run.time)
    return zeros(with_leading(blocks.one_output, *leading), like=run)


def _residuals(blocks: Blocks) -> Any:
    run, tiling = blocks.run, blocks.tiling
    if not tiling.rematerialises:
        return blocks.residual_buffers(run.time, run.batch)
    one_state = blocks.one_residual.state
    return zeros(with_leading(one_state, tiling.num_blocks, run.batch), like=run)
