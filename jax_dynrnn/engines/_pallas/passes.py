"""The passes around the kernels: what is the same for all steps, before and after them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .._parts import Parts, Weights
from ..call import Call, resets, rows, seen, spread, valid, valid_inputs, varying
from . import kernels
from .mosaic import ROWS, UNITS
from .place import ANEW, VALID, Sizes, whole_tiles
from .step import Step


@dataclasses.dataclass(frozen=True)
class Fused:
    """A call whose params are `Weights`, as the kernels take it."""

    parts: Parts
    call: Call
    sizes: Sizes

    @classmethod
    def of(cls, parts: Parts, call: Call) -> Fused:
        row = jax.tree.map(lambda x: x[:1, 0], call.inputs)
        step = Step(parts, call.params, row, jax.tree.map(lambda s: s[:1], call.initial_state))
        dtype = call.params.kernels[0].dtype
        batch = whole_tiles(call.batch)
        flagged = call.mask is not None or call.resets is not None
        sizes = Sizes(step, batch, call.time, call.time_axis, call.reverse, dtype, flagged)
        return cls(parts, call, sizes)

    def project(self, weights: list, inputs: Any) -> Any:
        """Of all steps, as one matmul."""
        weights_ = dataclasses.replace(self.call.params, project=weights)
        return self.parts.project_steps(weights_, inputs)

    def steps(self, tree: Any) -> list[jax.Array]:
        """The leaves of what has time, with rows for whole tiles."""
        return [self._more(x, 1 - self.call.time_axis) for x in jax.tree.leaves(tree)]

    def rows(self, tree: Any) -> list[jax.Array]:
        """The leaves of a state, with rows for whole tiles, in float32."""
        leaves = [self._more(x, 0) for x in jax.tree.leaves(tree)]
        return [x.astype(jnp.float32) for x in leaves]

    def _more(self, x: jax.Array, axis: int) -> jax.Array:
        width = [(0, 0)] * x.ndim
        width[axis] = (0, self.sizes.batch - self.call.batch)
        return jnp.pad(x, width)

    def fewer(self, x: jax.Array, axis: int) -> jax.Array:
        """Without the rows that only fill a tile."""
        return jax.lax.slice_in_dim(x, 0, self.call.batch, axis=axis)

    def fewer_steps(self, xs: list[jax.Array], like: Any) -> Any:
        """What has time, 0 in the padding, of the dtypes of `like`."""
        found = [self.fewer(x, 1 - self.call.time_axis) for x in xs]
        return _as([self.real(x) for x in found], like)

    def real(self, x: jax.Array) -> jax.Array:
        """What has time, 0 in the padding, where kernels write nothing."""
        flags = valid_inputs(self.call)
        return x if flags is None else jnp.where(rows(flags, x), x, jnp.zeros_like(x))

    def vectors(self) -> list[jax.Array]:
        """What the arithmetic wants of the params, for each row of a tile."""
        between = [x.reshape(1, -1).astype(jnp.float32) for x in self.call.params.between]
        return [jnp.broadcast_to(x, (ROWS, x.shape[1])) for x in between]

    def which(self) -> tuple[list[jax.Array], jax.Array, jax.Array]:
        """The flags of all steps, if any, int32; each row's length, and of a tile the longest."""
        lengths = self.call.lengths
        if lengths is None:
            lengths = jnp.full(self.call.batch, self.call.time, jnp.int32)
        lengths = self._more(spread(lengths, varying(self.call)), 0)
        counts = lengths.reshape(self.sizes.tiles, ROWS).max(1)
        every = jnp.broadcast_to(lengths[:, None], (self.sizes.batch, self.sizes.step.units))
        return self._flags(), every, counts

    def _flags(self) -> list[jax.Array]:
        if not self.sizes.flagged:
            return []
        call, is_valid = self.call, valid(self.call)
        flags = jnp.ones((call.time, call.batch), bool) if is_valid is None else is_valid
        flags = jnp.where(flags, VALID, 0).astype(jnp.int32)
        if (anew := resets(call, is_valid)) is not None:
            flags = jnp.where(anew, ANEW, flags)
        flags = (flags.T if call.time_axis == 1 else flags)[..., None]
        return self.steps(jnp.broadcast_to(flags, (*flags.shape[:2], UNITS)))


def forward(parts: Parts, call: Call, keep: bool) -> tuple[Any, Any]:
    """`((outputs, final_state), kept)`: of each leaf of the state, what each step began with."""
    fused = Fused.of(parts, call)
    inputs = seen(call)
    projected = fused.project(call.params.project, inputs)
    matrix = kernels.blocks(call.params.kernels[0])
    run = kernels.forward(fused.sizes, keep)
    states = fused.rows(call.initial_state), fused.rows(call.start_state)
    outputs, final, kept = run(
        matrix, fused.steps(projected), fused.vectors(), *states, *fused.which()
    )
    row = jax.tree.map(lambda x: x[:1, 0], (inputs, projected))
    one = jax.tree.map(lambda s: s[:1], call.initial_state)
    like, _ = jax.eval_shape(parts.step, call.params, row[1], one)
    outputs = fused.fewer_steps(outputs, like)
    final = _as([fused.fewer(x, 0) for x in final], call.initial_state)
    return (outputs, final), [fused.fewer(x, 1 - call.time_axis) for x in kept]


def backward(parts: Parts, call: Call, kept: Any, cotangents: Any) -> tuple[Any, Any, Any, Any]:
    """The cotangents of the params, inputs, initial and start state of `call`."""
    fused, (d_outputs, d_final) = Fused.of(parts, call), cotangents
    step, (kernel,) = fused.sizes.step, call.params.kernels
    projected, pull = jax.vjp(fused.project, call.params.project, seen(call))
    hidden = fused.real(kept[step.hidden].astype(kernel.dtype))
    recurred = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    before, again = jax.tree.leaves(projected), [recurred]
    if step.added:
        before, again = [before[0].astype(jnp.float32) + recurred], []
    run = kernels.backward(fused.sizes)
    d_projected, d_recurred, d_vectors, d_initial, d_start = run(
        kernels.blocks_transposed(kernel), fused.steps(before), fused.steps(again),
        fused.vectors(), fused.steps(kept), fused.steps(d_outputs), fused.rows(d_final),
        *fused.which(),
    )  # fmt: skip
    d_projected = fused.fewer_steps(d_projected, projected)
    (d_recurred,) = (
        jax.tree.leaves(d_projected) if step.added else fused.fewer_steps(d_recurred, [hidden])
    )
    flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
    d_kernel = jnp.matmul(flat(hidden).T, flat(d_recurred), preferred_element_type=jnp.float32)
    between = call.params.between
    d_between = [d.sum(0).reshape(x.shape) for d, x in zip(d_vectors, between, strict=True)]
    d_project, d_inputs = pull(d_projected)
    d_weights = Weights(d_project, _as([d_kernel], [kernel]), _as(d_between, between))
    d_initial = _as([fused.fewer(x, 0) for x in d_initial], call.initial_state)
    if fused.sizes.flagged:
        d_start = _as([fused.fewer(x, 0) for x in d_start], call.start_state)
    else:
        d_start = jax.tree.map(jnp.zeros_like, call.start_state)
    return d_weights, d_inputs, d_initial, d_start


def _as(xs: list[jax.Array], like: Any) -> Any:
    """`xs` as the leaves of a pytree, of its dtypes."""
    leaves, structure = jax.tree.flatten(like)
    return structure.unflatten([x.astype(y.dtype) for x, y in zip(xs, leaves, strict=True)])
