"""The passes around the kernels: what is the same for all steps, before and after them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .._parts import Parts, Weights
from ..call import Call, resets, seen, spread, valid, varying
from . import kernels
from .launch import blocks_for, cut
from .mosaic import ROWS, UNITS
from .place import ANEW, VALID, Sizes, whole
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
        batch = whole(call.batch, ROWS)
        flagged = call.mask is not None or call.resets is not None
        blocks = blocks_for(step, dtype, batch // ROWS)
        assert blocks is not None  # `unsupported` says so
        sizes = Sizes(step, batch, call.time, call.reverse, dtype, flagged, blocks)
        return cls(parts, call, sizes)

    def project(self, weights: list, inputs: Any) -> Any:
        """Of all steps, as one matmul."""
        weights_ = dataclasses.replace(self.call.params, project=weights)
        return self.parts.project_steps(weights_, inputs)

    def steps(self, tree: Any, fill: str = "edge") -> list[jax.Array]:
        """The leaves of what has time, `[T, ..., B]`, for whole warpgroups and tiles."""
        order = (1, 2, 0) if self.call.time_axis == 1 else (0, 2, 1)
        wider = [self.wider(x, fill) for x in jax.tree.leaves(tree)]
        return [self.more(x.transpose(order)) for x in wider]

    def rows(self, tree: Any, fill: str = "edge") -> list[jax.Array]:
        """The leaves of a state, `[..., B]`, for whole warpgroups and tiles, in float32."""
        wider = [self.wider(x, fill) for x in jax.tree.leaves(tree)]
        return [self.more(x.T).astype(jnp.float32) for x in wider]

    def wider(self, x: jax.Array, fill: str = "edge") -> jax.Array:
        """`[..., k H]` with the units that fill the last warpgroup.

        They are copies of each gate's last unit, which does not take part in the others' sums: its
        arithmetic is as finite as that unit's. Cotangents are filled with 0, of `fill="constant"`.
        """
        units, more = self.sizes.step.units, self.sizes.units - self.sizes.step.units
        gates = x.reshape(*x.shape[:-1], x.shape[-1] // units, units)
        gates = jnp.pad(gates, [(0, 0)] * x.ndim + [(0, more)], mode=fill)  # pyright: ignore
        return gates.reshape(*x.shape[:-1], -1)

    def narrower(self, x: jax.Array) -> jax.Array:
        """Without them."""
        gates = x.reshape(*x.shape[:-1], x.shape[-1] // self.sizes.units, self.sizes.units)
        return gates[..., : self.sizes.step.units].reshape(*x.shape[:-1], -1)

    def kernel(self) -> jax.Array:
        """The recurrent matrix, 0 in the rows of the units that are filled in."""
        more = self.sizes.units - self.sizes.step.units
        return jnp.pad(self.wider(self.call.params.kernels[0]), [(0, more), (0, 0)])

    def more(self, x: jax.Array) -> jax.Array:
        """With the rows that fill the last tile."""
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.sizes.batch - self.call.batch)])

    def fewer(self, x: jax.Array) -> jax.Array:
        """Without them."""
        return x[..., : self.call.batch]

    def fewer_steps(self, xs: list[jax.Array], like: Any) -> Any:
        """What has time, 0 in the padding, as the call has it and of the dtypes of `like`."""
        order = (2, 0, 1) if self.call.time_axis == 1 else (0, 2, 1)
        real = [self.real(self.fewer(x)).transpose(order) for x in xs]
        return _as([self.narrower(x) for x in real], like)

    def fewer_rows(self, xs: list[jax.Array], like: Any) -> Any:
        """A state, as the call has it and of the dtypes of `like`."""
        return _as([self.narrower(self.fewer(x).T) for x in xs], like)

    def real(self, x: jax.Array) -> jax.Array:
        """`[T, ..., B]`, 0 in the padding, where kernels write nothing."""
        flags = valid(self.call)
        return x if flags is None else jnp.where(flags[:, None], x, jnp.zeros_like(x))

    def vectors(self) -> list[jax.Array]:
        """What the arithmetic wants of the params, for each row of a tile."""
        between = [self.wider(x.reshape(1, -1)) for x in self.call.params.between]
        between = [x.astype(jnp.float32) for x in between]
        return [jnp.broadcast_to(x.T, (x.shape[1], ROWS)) for x in between]

    def which(self) -> tuple[list[jax.Array], jax.Array, jax.Array]:
        """The flags of all steps, if any, int32; each row's length, and of a tile the longest."""
        lengths = self.call.lengths
        if lengths is None:
            lengths = jnp.full(self.call.batch, self.call.time, jnp.int32)
        lengths = self.more(spread(lengths, varying(self.call)))
        counts = lengths.reshape(self.sizes.tiles, ROWS).max(1)
        every = jnp.broadcast_to(lengths, (self.sizes.units, self.sizes.batch))
        return self._flags(), every, counts

    def _flags(self) -> list[jax.Array]:
        if not self.sizes.flagged:
            return []
        call, is_valid = self.call, valid(self.call)
        flags = jnp.ones((call.time, call.batch), bool) if is_valid is None else is_valid
        flags = jnp.where(flags, VALID, 0).astype(jnp.int32)
        if (anew := resets(call, is_valid)) is not None:
            flags = jnp.where(anew, ANEW, flags)
        return [self.more(jnp.broadcast_to(flags[:, None], (call.time, UNITS, call.batch)))]


def forward(parts: Parts, call: Call, keep: bool) -> tuple[Any, Any]:
    """`((outputs, final_state), kept)`: of each leaf of the state, what each step began with."""
    fused = Fused.of(parts, call)
    inputs = seen(call)
    projected = fused.project(call.params.project, inputs)
    matrix = cut(fused.kernel(), transposed=True)[None]
    run = kernels.forward(fused.sizes, keep)
    states = fused.rows(call.initial_state), fused.rows(call.start_state)
    outputs, final, kept = run(
        matrix, fused.steps(projected), fused.vectors(), *states, *fused.which()
    )
    row = jax.tree.map(lambda x: x[:1, 0], (inputs, projected))
    one = jax.tree.map(lambda s: s[:1], call.initial_state)
    like, _ = jax.eval_shape(parts.step, call.params, row[1], one)
    outputs = fused.fewer_steps(outputs, like)
    final = fused.fewer_rows(final, call.initial_state)
    return (outputs, final), [fused.fewer(x) for x in kept]


def backward(parts: Parts, call: Call, kept: Any, cotangents: Any) -> tuple[Any, Any, Any, Any]:
    """The cotangents of the params, inputs, initial and start state of `call`."""
    fused, (d_outputs, d_final) = Fused.of(parts, call), cotangents
    step, (kernel,) = fused.sizes.step, call.params.kernels
    projected, pull = jax.vjp(fused.project, call.params.project, seen(call))
    (hidden,) = fused.fewer_steps([kept[step.hidden]], [kernel])
    recurred = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    before, again = fused.steps(projected), fused.steps([recurred])
    if step.added:
        before, again = [before[0].astype(jnp.float32) + again[0]], []
    run = kernels.backward(fused.sizes)
    d_projected, d_recurred, d_vectors, d_initial, d_start = run(
        cut(fused.kernel(), transposed=False)[None], before, fused.vectors(), again,
        [fused.more(x) for x in kept], fused.steps(d_outputs, "constant"),
        fused.rows(d_final, "constant"), *fused.which(),
    )  # fmt: skip
    d_projected = fused.fewer_steps(d_projected, projected)
    (d_recurred,) = (
        jax.tree.leaves(d_projected) if step.added else fused.fewer_steps(d_recurred, [hidden])
    )
    flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
    d_kernel = jnp.matmul(flat(hidden).T, flat(d_recurred), preferred_element_type=jnp.float32)
    between = call.params.between
    sums = [fused.narrower(d.sum(-1)) for d in d_vectors]
    d_between = [d.reshape(x.shape) for d, x in zip(sums, between, strict=True)]
    d_project, d_inputs = pull(d_projected)
    d_weights = Weights(d_project, _as([d_kernel], [kernel]), _as(d_between, between))
    d_initial = fused.fewer_rows(d_initial, call.initial_state)
    if fused.sizes.flagged:
        d_start = fused.fewer_rows(d_start, call.start_state)
    else:
        d_start = jax.tree.map(jnp.zeros_like, call.start_state)
    return d_weights, d_inputs, d_initial, d_start


def _as(xs: list[jax.Array], like: Any) -> Any:
    """`xs` as the leaves of a pytree, of its dtypes."""
    leaves, structure = jax.tree.flatten(like)
    return structure.unflatten([x.astype(y.dtype) for x, y in zip(xs, leaves, strict=True)])
