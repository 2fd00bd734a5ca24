"""The kernels: the recurrent matrix stays on the chip, and all steps are one program.

In each step a warpgroup loads its inputs (those of the next step ahead), computes its units, stores
its results, and exchanges its part of the hidden state (backward: of the cotangents of the gates)
with the others in shared memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...._types import Index, PyTree
from ...loops import repeat
from . import mosaic
from .indexing import Position, Sizes, Steps, split_by_flags, widen
from .launch import SharedMemory, batched_by_vmap, exchange, launch, load_matrix, operand_pairs


class ForwardArguments(NamedTuple):
    """Arrays, and lists of the arrays of each leaf."""

    matrix: Any
    """`matrix_tiles(R, transposed=True)` of each group."""
    projected: list[Any]
    """`[T, k H, B]`."""
    vectors: list[Any]
    """float32 `[k H, groups ROWS]`."""
    state: list[Any]
    start: list[Any]
    """float32 `[H, B]`."""
    flags: list[Any]
    """Empty, or one int32 `[T, UNITS, B]`."""
    ends: Any
    """int32 `[H, B]`: the steps of each row up to its last valid one."""
    counts: Any
    """int32 `[tiles]`: the greatest of them in each tile. Past it nothing is written."""


class BackwardArguments(NamedTuple):
    """Arrays, and lists of the arrays of each leaf."""

    matrix: Any
    """`matrix_tiles(R, transposed=False)` of each group."""
    projected: list[Any]
    vectors: list[Any]
    products: list[Any]
    """Empty where `projected` has been added to it, or one array `[T, Z, B]`."""
    states: list[Any]
    """float32 `[T, H, B]`: the state that each step began with."""
    d_outputs: list[Any]
    d_final: list[Any]
    flags: list[Any]
    ends: Any
    counts: Any


def forward(sizes: Sizes, save: bool) -> Callable[[ForwardArguments], tuple[Any, ...]]:
    """`arguments -> (outputs, final, states)`, lists of arrays; `states` is empty unless saved."""
    return batched_by_vmap(functools.partial(_forward, save), sizes)


def _forward(save: bool, sizes: Sizes) -> Callable[..., Any]:
    step, units = sizes.step, sizes.units
    result_types = (
        [sizes.over_time(n * units, sizes.dtype) for n in step.outputs],
        [sizes.rows(units)] * step.states,
        [sizes.over_time(units, jnp.float32)] * (step.states if save else 0),
    )

    def program(arguments, results, shared):
        _Forward(sizes, arguments, results, shared).run()

    return launch(sizes, program, result_types, num_exchanged=1)


class _Forward:
    """The program of one warpgroup."""

    def __init__(
        self, sizes: Sizes, arguments: ForwardArguments, results: PyTree, shared: SharedMemory
    ):
        self.position, self.shared, self.arguments = Position(sizes), shared, arguments
        self.steps = Steps(self.position, arguments.flags, arguments.ends, arguments.counts)
        self.step = sizes.step
        self.outputs, self.final, self.states = results
        self.vectors = self.position.load_vectors(arguments.vectors)
        self.start = self._load_state(arguments.start)

    def run(self) -> None:
        load_matrix(self.position, self.arguments.matrix, self.shared)
        first = self._load_state(self.arguments.state)
        self._exchange(jnp.int32(0), self._after_reset(0, first))
        ahead = self._load(self.steps.inside(jnp.int32(0)))
        last, _ = repeat(self.steps.count, self._run_step, (first, ahead))
        for ref, x in zip(self.final, last, strict=True):
            self.position.store_rows(ref, [x])

    def _run_step(self, n: Any, carry: PyTree) -> Any:
        """Step n: loads ahead, computes, stores, and exchanges the new hidden state."""
        state, loaded = carry
        t, state = self.steps.time(n), self._after_reset(n, state)
        # Loaded while this step is computed: global memory takes longer than a step.
        ahead = self._load(self.steps.inside(n + 1))
        products = mosaic.matmuls(
            [operand_pairs(self.position, n, g, 0, self.shared) for g in range(self.step.gates)]
        )
        output, new = self.step.run(self.vectors, widen(loaded), state, products)
        valid = self.steps.valid(n)
        # Stored in rows that are not valid too: XLA masks the outputs of all steps later.
        self._store(t, state, output)
        new = [jnp.where(valid, a, b) for a, b in zip(new, state, strict=True)]
        self._exchange(n + 1, self._after_reset(n + 1, new))
        return new, ahead

    def _load(self, n: Any) -> list[Any]:
        """The projected inputs of step n."""
        t = self.steps.time(n)
        return [self.position.load_step(ref, t) for ref in self.arguments.projected]

    def _load_state(self, refs: list[Any]) -> list[Any]:
        return [x for ref in refs for x in self.position.load_rows(ref)]

    def _store(self, t: Index, state: list[Any], output: list[Any]) -> None:
        if self.states:
            for ref, x in zip(self.states, state, strict=True):
                self.position.store_step(ref, t, [x])
        for ref, x in zip(self.outputs, output, strict=True):
            self.position.store_step(ref, t, x)

    def _after_reset(self, n: Any, state: list[Any]) -> list[Any]:
        """The state that step n begins with."""
        resets = self.steps.resets(n)
        if resets is None:
            return state
        return [jnp.where(resets, b, s) for b, s in zip(self.start, state, strict=True)]

    def _exchange(self, iteration: jax.Array, state: list[Any]) -> None:
        exchange(self.position, iteration, [state[self.step.hidden]], self.shared)


def backward(sizes: Sizes) -> Callable[[BackwardArguments], tuple[Any, ...]]:
    """`arguments -> (d_projected, d_products, d_vectors, d_initial, d_start)`, lists of arrays.

    `d_products` is empty where it equals `d_projected`; `d_vectors` are float32 `[k H, B]`, sums
    over time; `d_start` is empty where nothing is reset.
    """
    return batched_by_vmap(_backward, sizes)


def _backward(sizes: Sizes) -> Callable[..., Any]:
    step, gates, units = sizes.step, sizes.step.gates, sizes.units
    result_types = (
        [sizes.over_time(n * units, sizes.dtype) for n in step.projected],
        [] if step.only_adds_product else [sizes.over_time(gates * units, sizes.dtype)],
        [sizes.rows(n * units) for n in step.vectors],
        [sizes.rows(units)] * step.states,
        [sizes.rows(units)] * step.states if sizes.has_flags else [],
    )

    def program(arguments, results, shared):
        _Backward(sizes, arguments, results, shared).run()

    return launch(sizes, program, result_types, num_exchanged=gates)


class _Loaded(NamedTuple):
    """What the backward kernel loads of a step: the gates of each leaf."""

    projected: list[Any]
    products: list[Any]
    states: list[Any]
    d_outputs: list[Any]


class _Backward:
    """The program of one warpgroup."""

    def __init__(
        self, sizes: Sizes, arguments: BackwardArguments, results: PyTree, shared: SharedMemory
    ):
        self.position, self.shared, self.arguments = Position(sizes), shared, arguments
        self.sizes, self.step, self.gates = sizes, sizes.step, sizes.step.gates
        self.steps = Steps(self.position, arguments.flags, arguments.ends, arguments.counts)
        self.d_projected, self.d_products, self.d_vectors, self.d_initial, self.d_start = results
        self.vectors = self.position.load_vectors(arguments.vectors)

    def run(self) -> None:
        load_matrix(self.position, self.arguments.matrix, self.shared)
        self.zero = mosaic.zeros()
        # No step follows the last one: its state has no cotangent through the matrix.
        exchange(self.position, jnp.int32(0), [self.zero] * self.gates, self.shared)
        refs = self.arguments.d_final
        d_state = [x for ref in refs for x in self.position.load_rows(ref)]
        d_start = [self.zero] * len(d_state)
        sums = [[self.zero] * n for n in self.step.vectors]
        ahead = self._load(self.steps.inside(self.steps.count - 1))
        carry = d_state, d_start, sums, ahead
        d_state, d_start, sums, _ = repeat(self.steps.count, self._run_step, carry)
        d_reset, d_state = self._before_step(0, self.steps.count, d_state)
        self._store_sums(d_state, d_start, d_reset, sums)

    def _run_step(self, i: Any, carry: PyTree) -> Any:
        """Iteration i, of step n: loads ahead, computes, stores, and exchanges cotangents."""
        d_state, d_start, sums, loaded = carry
        n = self.steps.count - 1 - i
        t, valid = self.steps.time(n), self.steps.valid(n)
        ahead = self._load(self.steps.inside(n - 1))
        loaded = widen(loaded)

        def where_valid(gates):
            return [jnp.where(valid, x, self.zero) for x in gates]

        products = [x for gates in loaded.products for x in gates] or [self.zero] * self.gates
        state = [x for gates in loaded.states for x in gates]
        d_output = [where_valid(x) for x in loaded.d_outputs]
        d_reset, d_new = self._before_step(n + 1, i, d_state)
        d_vectors, d_projected, d_old, d_products = self.step.vjp(
            self.vectors, loaded.projected, state, products, d_output, where_valid(d_new)
        )
        d_products = where_valid(d_products)
        for ref, x in zip(self.d_projected, d_projected, strict=True):
            self.position.store_step(ref, t, where_valid(x))
        for ref in self.d_products:
            self.position.store_step(ref, t, d_products)
        exchange(self.position, i + 1, d_products, self.shared)
        d_state = [jnp.where(valid, a, b) for a, b in zip(d_old, d_new, strict=True)]
        sums = [
            [s + x for s, x in zip(a, where_valid(b), strict=True)]
            for a, b in zip(sums, d_vectors, strict=True)
        ]
        if self.sizes.has_flags:
            d_start = [a + b for a, b in zip(d_start, d_reset, strict=True)]
        return d_state, d_start, sums, ahead

    def _load(self, n: Any) -> _Loaded:
        t, given = self.steps.time(n), self.arguments
        leaves = given.projected, given.products, given.states, given.d_outputs
        return _Loaded(*([self.position.load_step(ref, t) for ref in refs] for refs in leaves))

    def _before_step(
        self, n: Any, iteration: jax.Array, d_state: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """The cotangents of the state before step n: in rows that were reset, and in the others.

        The product with the matrix is that of the cotangents exchanged before `iteration`.
        """
        pairs = [
            pair
            for g in range(self.gates)
            for pair in operand_pairs(self.position, iteration, g, g, self.shared)
        ]
        d_state, hidden = list(d_state), self.step.hidden
        d_state[hidden] = d_state[hidden] + mosaic.matmuls([pairs])[0]
        return split_by_flags(self.steps.resets(n), d_state)

    def _store_sums(
        self, d_state: list[Any], d_start: list[Any], d_reset: list[Any], sums: list[Any]
    ) -> None:
        for ref, x in zip(self.d_initial, d_state, strict=True):
            self.position.store_rows(ref, [x])
        if self.sizes.has_flags:
            for ref, a, b in zip(self.d_start, d_start, d_reset, strict=True):
                self.position.store_rows(ref, [a + b])
        for ref, x in zip(self.d_vectors, sums, strict=True):
            self.position.store_rows(ref, x)
