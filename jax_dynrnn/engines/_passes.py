"""The forward and the backward pass: tile by tile, block by block."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ._blocks import Blocks, write
from ._loops import repeat
from ._parts import Parts
from ._transposed import Transposed, wide
from .call import Call, zeros


def forward(parts: Parts, call: Call, keep: bool) -> tuple[Any, Any]:
    """`((outputs, final_state), residuals)`; the residuals are `None` unless `keep`."""
    blocks = Blocks.of(parts, call)
    tiles = blocks.tiles
    outputs, kept = _buffers(blocks, keep)
    final = jax.tree.map(lambda s: zeros(call, s.shape, s.dtype), call.initial_state)

    def run_tile(i, carry):
        tile = tiles.at(i)
        outputs, final, kept = carry
        state = jax.tree.map(lambda s: tiles.take_rows(s, tile), call.initial_state)

        def run_block(i, carry):
            state, outputs, kept = carry
            block = blocks.number(tile, i)
            row = tiles.first_row(tile)
            if keep and tiles.remade:
                begin = jax.tree.map(lambda s: s[None], state)
                kept = jax.tree.map(lambda k, x: write(k, x, block, row), kept, begin)
                state, y, _ = blocks.run(tile, block, state)
            else:
                state, y, kept = blocks.run(tile, block, state, kept, (block * tiles.steps, row))
            outputs = jax.tree.map(lambda o, y: tiles.put(o, y, tile, block), outputs, y)
            return state, outputs, kept

        state, outputs, kept = repeat(tiles.blocks(tile), run_block, (state, outputs, kept))
        final = jax.tree.map(lambda f, s: tiles.put_rows(f, s, tile), final, state)
        return outputs, final, kept

    outputs, final, kept = repeat(tiles.count, run_tile, (outputs, final, kept))
    return (outputs, final), kept


def _buffers(blocks: Blocks, keep: bool) -> tuple[Any, Any]:
    """Room for the outputs, and for what is kept: `[steps, B, ...]` or `[blocks, B, ...]`."""
    call, tiles = blocks.call, blocks.tiles

    def output(y):
        axes = (call.time, call.batch) if call.time_axis == 0 else (call.batch, call.time)
        return zeros(call, (*axes, *y.shape[1:]), y.dtype)

    outputs = jax.tree.map(output, blocks.row[0])
    if not keep:
        return outputs, None
    if not tiles.remade:
        return outputs, blocks.room(tiles.whole * tiles.steps, call.batch)
    every = lambda s: zeros(call, (tiles.whole, *s.shape), s.dtype)  # noqa: E731
    return outputs, jax.tree.map(every, call.initial_state)


def backward(parts: Parts, call: Call, kept: Any, cotangents: Any) -> tuple[Any, Any, Any, Any]:
    """The cotangents of the params, inputs, initial and start state of `call`."""
    blocks = Blocks.of(parts, call)
    tiles = blocks.tiles
    d_outputs, d_final = cotangents
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    like = lambda x: zeros(call, x.shape, x.dtype)  # noqa: E731
    d_inputs = jax.tree.map(lambda x: like(x) if floating(x) else None, call.inputs)
    d_states = jax.tree.map(like, (call.initial_state, call.start_state))
    d_weights = jax.tree.map(lambda w: zeros(call, w.shape, wide(w.dtype)), call.params)
    kernels = [kernel.T for kernel in call.params.kernels]  # once: not in every block

    def run_tile(i, carry):
        tile = tiles.at(i)
        d_weights, d_inputs, (d_initial, d_start) = carry
        d_state = jax.tree.map(lambda d: tiles.take_rows(d, tile), d_final)
        none = jax.tree.map(lambda d: zeros(call, d.shape, d.dtype), d_state)

        def run_block(i, carry):
            d_state, d_begin, d_weights, d_inputs = carry
            block = blocks.number(tile, i, backward=True)
            step = Transposed(blocks, kernels, tile, block)
            d_state, d_reset, d_new, d_x = step.run(kept, d_outputs, d_state)
            d_begin = jax.tree.map(jnp.add, d_begin, d_reset)
            d_weights = jax.tree.map(lambda d, n: d + n.astype(d.dtype), d_weights, d_new)
            d_inputs = jax.tree.map(lambda d, x: tiles.put(d, x, tile, block), d_inputs, d_x)
            return d_state, d_begin, d_weights, d_inputs

        d_state, d_begin, d_weights, d_inputs = repeat(
            tiles.blocks(tile), run_block, (d_state, none, d_weights, d_inputs)
        )
        d_initial = jax.tree.map(lambda d, s: tiles.put_rows(d, s, tile), d_initial, d_state)
        d_start = jax.tree.map(lambda d, s: tiles.put_rows(d, s, tile), d_start, d_begin)
        return d_weights, d_inputs, (d_initial, d_start)

    d_weights, d_inputs, (d_initial, d_start) = repeat(
        tiles.count, run_tile, (d_weights, d_inputs, d_states)
    )
    d_weights = jax.tree.map(lambda d, w: d.astype(w.dtype), d_weights, call.params)
    return d_weights, d_inputs, d_initial, d_start
