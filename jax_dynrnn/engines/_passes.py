"""The forward and the backward pass: tile by tile, block by block."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._blocks import Blocks, Kept
from ._parts import Parts, Weights
from ._tiles import repeat
from .call import Call, rows, select, zeros


def forward(parts: Parts, call: Call, keep: bool) -> tuple[Any, Any]:
    """`((outputs, final_state), residuals)`; the residuals are `None` unless `keep`."""
    blocks = Blocks.of(parts, call)
    tiles = blocks.tiles
    outputs, kept = _buffers(blocks, keep)
    final = jax.tree.map(lambda s: zeros(call, s.shape, s.dtype), call.initial_state)

    def run_tile(tile, carry):
        outputs, final, kept = carry
        state = jax.tree.map(lambda s: tiles.take_rows(s, tile), call.initial_state)

        def run_block(i, carry):
            state, outputs, kept = carry
            block = blocks.number(tile, i)
            begin = jax.tree.map(lambda s: s[None], state)
            state, y, new = blocks.run(tile, block, state, keep and call.remat is None)
            new = begin if keep and call.remat is not None else new
            kept = jax.tree.map(lambda k, x: _write(k, x, tile, block), kept, new)
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
    state = jax.tree.map(lambda s: s[: tiles.rows], call.initial_state)
    _, outputs, kept = jax.eval_shape(
        lambda s: blocks.run(np.int32(0), np.int32(0), s, keep), state
    )

    def output(y):
        axes = (call.time, call.batch) if call.time_axis == 0 else (call.batch, call.time)
        return zeros(call, (*axes, *y.shape[2:]), y.dtype)

    def every(x):
        return zeros(call, (tiles.whole * tiles.steps, call.batch, *x.shape[2:]), x.dtype)

    if keep and call.remat is not None:
        kept = jax.tree.map(
            lambda s: zeros(call, (tiles.whole, *s.shape), s.dtype), call.initial_state
        )
        return jax.tree.map(output, outputs), kept
    return jax.tree.map(output, outputs), jax.tree.map(every, kept)


def _write(buffer: jax.Array, x: jax.Array, tile: Any, block: Any) -> jax.Array:
    at = (block * x.shape[0], tile * x.shape[1], *(np.int32(0),) * (x.ndim - 2))
    return jax.lax.dynamic_update_slice(buffer, x, at)


def _read(buffer: jax.Array, steps: int, rows: int, tile: Any, block: Any) -> jax.Array:
    at = (block * steps, tile * rows, *(np.int32(0),) * (buffer.ndim - 2))
    return jax.lax.dynamic_slice(buffer, at, (steps, rows, *buffer.shape[2:]))


def backward(parts: Parts, call: Call, kept: Any, cotangents: Any) -> Call:
    """The cotangents of the params, inputs and states of `call`, laid out as a `Call`."""
    blocks = Blocks.of(parts, call)
    tiles = blocks.tiles
    d_outputs, d_final = cotangents
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    like = lambda x: zeros(call, x.shape, x.dtype)  # noqa: E731
    d_inputs = jax.tree.map(lambda x: like(x) if floating(x) else None, call.inputs)
    d_states = jax.tree.map(like, (call.initial_state, call.start_state))
    wide = jax.tree.map(lambda w: zeros(call, w.shape, _wide(w.dtype)), call.params)
    transposed = [kernel.T for kernel in call.params.kernels]  # once: not in every block

    def run_tile(tile, carry):
        d_weights, d_inputs, (d_initial, d_start) = carry
        d_state = jax.tree.map(lambda d: tiles.take_rows(d, tile), d_final)
        none = jax.tree.map(lambda d: zeros(call, d.shape, d.dtype), d_state)

        def run_block(i, carry):
            d_state, d_begin, d_weights, d_inputs = carry
            block = blocks.number(tile, i, backward=True)
            step = Backward(blocks, transposed, tile, block)
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
        tiles.count, run_tile, (wide, d_inputs, d_states)
    )
    d_weights = jax.tree.map(lambda d, w: d.astype(w.dtype), d_weights, call.params)
    return d_weights, d_inputs, d_initial, d_start


def _wide(dtype: Any) -> Any:
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


@dataclasses.dataclass(frozen=True)
class Backward:
    """One block of the backward pass."""

    blocks: Blocks
    transposed: list[jax.Array]
    """The kernels."""
    tile: Any
    block: Any

    def kept(self, kept: Any) -> Kept:
        tiles, call = self.blocks.tiles, self.blocks.call
        read = lambda k, steps: _read(k, steps, tiles.rows, self.tile, self.block)  # noqa: E731
        if call.remat is None:
            return jax.tree.map(lambda k: read(k, tiles.steps), kept)
        state = jax.tree.map(lambda k: read(k, 1)[0], kept)
        return self.blocks.run(self.tile, self.block, state, keep=True)[2]

    def run(self, kept: Any, d_outputs: Any, d_state: Any) -> tuple[Any, Any, Weights, Any]:
        """`(d_state, d_start, d_weights, d_inputs)` of the block."""
        blocks, tiles = self.blocks, self.blocks.tiles
        weights, parts = blocks.call.params, blocks.parts
        valid = tiles.mask(self.tile, self.block)
        known = self.kept(kept)
        projected, recurred = (
            known.projected,
            [
                zeros(blocks.call, (tiles.steps, tiles.rows, kernel.shape[1]), kernel.dtype)
                if r is None
                else r
                for r, kernel in zip(known.recurred, weights.kernels, strict=True)
            ],
        )  # nothing to add to the sums

        def linear(projected, state, recurred):
            f = lambda *a: parts.between(weights.between, *a)  # noqa: E731
            (multiplied, _, _), pull = jax.vjp(f, projected, state, recurred)
            return multiplied, pull

        multiplied, pull = jax.vmap(linear)(projected, known.state, recurred)
        d_y = jax.tree.map(lambda d: tiles.take(d, self.tile, self.block), d_outputs)
        d_y = select(valid, d_y, jax.tree.map(jnp.zeros_like, d_y))
        reset, sums = blocks.reset(self.tile, self.block, valid), dict(known.added)

        def step(carry, x):
            d_state, d_start = carry
            pull, d_y, valid, reset = x
            nothing = jax.tree.map(jnp.zeros_like, d_state)
            d_new = select(valid, d_state, nothing)
            d_multiplied = [jnp.zeros_like(m[0]) for m in multiplied]
            for i in reversed(range(len(self.transposed))):
                d_recurred = pull((d_multiplied, d_y, d_new))[2]
                d_multiplied[i] = d_recurred[i] @ self.transposed[i]
            d_projected, d_old, d_recurred = pull((d_multiplied, d_y, d_new))
            d_state = jax.tree.map(jnp.add, d_old, select(valid, nothing, d_state))
            if reset is not None:
                d_start = jax.tree.map(jnp.add, d_start, select(reset, d_state, nothing))
                d_state = select(reset, nothing, d_state)
            d_recurred = [None if i in sums else d for i, d in enumerate(d_recurred)]
            d_all = (d_multiplied, d_y, d_new) if weights.between else None
            return (d_state, d_start), (d_projected, d_recurred, d_all)

        nothing = jax.tree.map(jnp.zeros_like, d_state)
        (d_state, d_start), (d_projected, d_recurred, d_all) = jax.lax.scan(
            step, (d_state, nothing), (pull, d_y, valid, reset), reverse=not blocks.call.reverse
        )
        for i, j in known.added:
            d_recurred[i] = jax.tree.leaves(d_projected)[j]
        d_kernels = [_outer(valid, m, d) for m, d in zip(multiplied, d_recurred, strict=True)]
        d_between = []
        if weights.between:
            flat = lambda tree: jax.tree.map(_flat, tree)  # noqa: E731
            f = lambda w: parts.between(w, *flat((projected, known.state, recurred)))  # noqa: E731
            (d_between,) = jax.vjp(f, weights.between)[1](flat(d_all))
        d_project, d_inputs = self._project(valid, d_projected)
        return d_state, d_start, Weights(d_project, d_kernels, d_between), d_inputs

    def _project(self, valid: jax.Array, d_projected: Any) -> tuple[list, Any]:
        """The cotangents of the projection's weights, and of the inputs."""
        blocks = self.blocks
        leaves, structure = jax.tree.flatten(blocks.inputs(self.tile, self.block, valid))
        floats = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

        def project(weights, floating):
            given = [*leaves]
            for i, x in zip(floats, floating, strict=True):
                given[i] = x
            return blocks.project(weights, structure.unflatten(given))

        seen = [_features_first(valid, leaves[i]) for i in floats]
        _, pull = jax.vjp(project, blocks.call.params.project, seen)
        d_weights, d_seen = pull(d_projected)
        d_leaves = [None] * len(leaves)
        for i, d in zip(floats, d_seen, strict=True):
            d_leaves[i] = jnp.where(rows(valid, d), d, jnp.zeros_like(d))
        return d_weights, structure.unflatten(d_leaves)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])


def _outer(valid: jax.Array, x: jax.Array, d: jax.Array) -> jax.Array:
    """The sum over all valid steps of `x` times `d`: the cotangent of a kernel."""
    return jnp.matmul(
        _flat(_features_first(valid, x)).T, _flat(d), preferred_element_type=_wide(d.dtype)
    )


def _features_first(valid: jax.Array, x: jax.Array) -> jax.Array:
    """`x`, copied with the features first.

    A matmul that sums over the steps reads it so: several times faster on a CPU, where XLA
    has its fast matmul only for this layout.
    """
    first = jnp.moveaxis(x, -1, 0)
    return jnp.moveaxis(jnp.where(valid[None], first, jnp.zeros_like(first)), 0, -1)
