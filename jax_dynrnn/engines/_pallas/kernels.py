"""The kernels: the recurrent matrix stays on the chip, and all steps are one program.

Between the steps each warpgroup hands its part of the hidden state (backward: of the gates'
cotangents) to the others in shared memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp

from .._loops import repeat
from . import mosaic
from .launch import bring_matrix, factors, hand_over, launch, together
from .place import Place, Sizes, Steps, split, wide


def forward(sizes: Sizes, keep: bool) -> Callable:
    """`(kernel, projected, vectors, state, start, flags, ends, counts) -> (outputs, final, kept)`.

    All but the first and last two are lists of arrays: of each leaf. `kernel` is `cut(R)` of
    each group, `vectors` are `[..., groups ROWS]`, `flags` is empty or one int32 `[T, UNITS, B]`,
    `ends` is int32 `[H, B]`, `counts` int32 `[tiles]`. Past `counts` nothing is written.
    """
    return together(functools.partial(_forward, keep), sizes)


def _forward(keep: bool, sizes: Sizes) -> Callable:
    step, gates, units = sizes.step, sizes.step.gates, sizes.units
    shapes = (
        [sizes.over_time(n * units, sizes.dtype) for n in step.outputs],
        [sizes.rows(units)] * len(step.states),
        [sizes.over_time(units, jnp.float32)] * (len(step.states) if keep else 0),
    )

    def body(
        matrix_ref, projected, vectors, state, start, flags, ends, counts,
        results, shared, barriers,
    ):  # fmt: skip
        place = Place(sizes)
        steps = Steps(place, flags, ends, counts)
        outputs, final, kept = results
        constants = place.vectors(vectors)
        begin = [x for ref in start for x in place.of_rows(ref)]

        def begun(n, state):
            anew = steps.anew(n)
            if anew is None:
                return state
            return [jnp.where(anew, b, s) for b, s in zip(begin, state, strict=True)]

        def give(turn, state):
            hand_over(place, turn, [state[step.hidden]], shared, barriers)

        bring_matrix(place, matrix_ref, shared["matrix"], barriers["matrix"])
        first = [x for ref in state for x in place.of_rows(ref)]
        give(jnp.int32(0), begun(0, first))

        def read(n):
            return [place.at_step(ref, steps.time(n)) for ref in projected]

        def run(n, carry):
            state, here = carry
            t, state = steps.time(n), begun(n, state)
            after = read(steps.inside(n + 1))
            recurred = mosaic.matmuls([factors(place, n, g, 0, shared) for g in range(gates)])
            output, new = step.run(constants, wide(here), state, recurred)
            valid = steps.valid(n)
            for ref, x in zip(kept, state, strict=True) if keep else ():
                place.put(ref, t, [x])
            for ref, x in zip(outputs, output, strict=True):
                place.put(ref, t, x)
            new = [jnp.where(valid, a, b) for a, b in zip(new, state, strict=True)]
            give(n + 1, begun(n + 1, new))
            return new, after

        last, _ = repeat(steps.count, run, (first, read(steps.inside(jnp.int32(0)))))
        for ref, x in zip(final, last, strict=True):
            place.put_rows(ref, [x])

    return launch(sizes, body, shapes, 1)


def backward(sizes: Sizes) -> Callable:
    """`(kernel, projected, vectors, recurred, kept, d_outputs, d_final, flags, ends, counts) ->
    (d_projected, d_recurred, d_vectors, d_initial, d_start)`.

    `kernel` is `cut(R)`; `d_vectors` are float32 `[..., B]`, sums over time. Past
    `counts` nothing is written.
    """
    return together(_backward, sizes)


def _backward(sizes: Sizes) -> Callable:
    step, gates, units = sizes.step, sizes.step.gates, sizes.units
    shapes = (
        [sizes.over_time(n * units, sizes.dtype) for n in step.projected],
        [sizes.over_time(gates * units, sizes.dtype)] * (not step.added),
        [sizes.rows(n * units) for n in step.vectors],
        [sizes.rows(units)] * len(step.states),
        [sizes.rows(units)] * len(step.states) * sizes.flagged,
    )

    def body(
        matrix_ref, projected, vectors, recurred, kept, d_outputs, d_final, flags, ends, counts,
        results, shared, barriers,
    ):  # fmt: skip
        place = Place(sizes)
        steps = Steps(place, flags, ends, counts)
        d_projected, d_recurred, d_vectors, d_initial, d_start = results
        constants = place.vectors(vectors)
        bring_matrix(place, matrix_ref, shared["matrix"], barriers["matrix"])
        nothing = mosaic.zeros()
        hand_over(place, jnp.int32(0), [nothing] * gates, shared, barriers)

        def before(n, turn, d_state):
            """The cotangent of what step n began with: of rows that began anew, and of others."""
            every = [pair for g in range(gates) for pair in factors(place, turn, g, g, shared)]
            d_state = list(d_state)
            d_state[step.hidden] = d_state[step.hidden] + mosaic.matmuls([every])[0]
            return split(steps.anew(n), d_state)

        def read(n):
            t = steps.time(n)
            return [
                [place.at_step(ref, t) for ref in refs]
                for refs in (projected, recurred, kept, d_outputs)
            ]

        def run(i, carry):
            d_state, d_begin, sums, read_before = carry
            n = steps.count - 1 - i
            t, valid = steps.time(n), steps.valid(n)
            after = read(steps.inside(n - 1))
            here, back, state, d_y = wide(read_before)
            only = lambda gates: [jnp.where(valid, x, nothing) for x in gates]  # noqa: E731
            back = [x for gates in back for x in gates] or [nothing] * gates
            state = [x for gates in state for x in gates]
            d_y = [only(x) for x in d_y]
            d_anew, d_new = before(n + 1, i, d_state)
            d_v, d_here, d_old, d_back = step.transposed(
                constants, here, state, back, d_y, only(d_new)
            )
            d_back = only(d_back)
            for ref, x in zip(d_projected, d_here, strict=True):
                place.put(ref, t, only(x))
            for ref in d_recurred:
                place.put(ref, t, d_back)
            hand_over(place, i + 1, d_back, shared, barriers)
            d_state = [jnp.where(valid, a, b) for a, b in zip(d_old, d_new, strict=True)]
            sums = [
                [s + x for s, x in zip(a, only(b), strict=True)]
                for a, b in zip(sums, d_v, strict=True)
            ]
            if sizes.flagged:
                d_begin = [a + b for a, b in zip(d_begin, d_anew, strict=True)]
            return d_state, d_begin, sums, after

        begin = [x for ref in d_final for x in place.of_rows(ref)]
        zeros = [nothing] * len(begin), [[nothing] * n for n in step.vectors]
        last = read(steps.inside(steps.count - 1))
        d_state, d_begin, sums, _ = repeat(steps.count, run, (begin, *zeros, last))
        d_anew, d_state = before(0, steps.count, d_state)
        for ref, x in zip(d_initial, d_state, strict=True):
            place.put_rows(ref, [x])
        for ref, a, b in zip(d_start, d_begin, d_anew, strict=True) if sizes.flagged else ():
            place.put_rows(ref, [a + b])
        for ref, x in zip(d_vectors, sums, strict=True):
            place.put_rows(ref, x)

    return launch(sizes, body, shapes, gates)
