"""The thresholds of `blocked`, by platform. All were measured.

"Elements" are those of the recurrent products of a step: `H` for each gate of each row.
"""

from __future__ import annotations

import dataclasses

INFINITY = float("inf")


@dataclasses.dataclass(frozen=True)
class RowTuning:
    """How rows are sorted by length and cut into tiles, each of which ends at its longest row."""

    rows_by_kernel_bytes: tuple[tuple[float, int], ...] = ((2**19, 16), (2**20, 32), (INFINITY, 64))
    """`(bytes of all recurrent kernels, rows of a tile)`: the target below this size, if rows may
    differ in length. Each tile reads the kernels again, from the cache if they fit. Half of it is
    the target for less than two such tiles."""

    min_elements: int = 2**12
    """Of a tile, if the batch then has two tiles: with fewer, dispatching an operation takes longer
    than the operation."""

    full_elements: int = 2**15
    """Target for a tile if no row ends early: large tiles then lose nothing."""

    rows_range: tuple[float, float] = (7 / 8, 9 / 8)
    """Allowed rows of a tile, as multiples of the target."""

    scan_if_full: float = 0.55
    """The part of a batch that is valid, from which on the forward pass of `scan` is faster."""

    projection_bytes: float = 2**18
    """The bytes of the kernels that multiply the inputs, from which on the forward pass of `scan`
    on one row is slower, since it reads them at every step."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How a batch is cut, and what the backward pass recomputes."""

    row_tuning: RowTuning | None
    """`None` on accelerators, which compute all rows at once: there the batch is one tile, in its
    own order, and every block is run to its end, since a GPU asks the host after each iteration of
    a loop whose trip count is computed."""

    block_elements: float
    """Target for a block: few enough for the cache, enough for fast matmuls over all steps."""

    block_bytes: float
    """The same in bytes, if that is fewer. On a TPU, arrays of larger blocks go through the main
    memory; with smaller blocks, the gradients of the kernels do so more often."""

    max_block_steps: int
    """The largest target for the steps of a block."""

    max_block_rows: float
    """The same for its rows times its steps, which are the rows of its matmuls. On a TPU more of
    them make no matmul faster, and arrays that are larger go through the main memory."""

    block_range: tuple[float, float]
    """Allowed steps of a block, as multiples of the target."""

    counts_in_carry: bool
    """Whether the number of a step is carried from step to step, not read from an array. A TPU
    waits for such a read at every step; it was not timed on a GPU."""

    max_repeated_flags: int
    """The rows times units up to which the flags of rows are repeated for each unit before the loop
    over steps. If no mask has gaps, the ends of rows are repeated instead, and each step compares
    its number with them. A TPU has rows and units on different axes of its registers: to repeat
    flags in a step takes 150 cycles. Larger arrays go through the main memory."""

    max_forward_bytes: float
    """The largest recurrent products of a step for which a forward pass without residuals is run in
    blocks, and not by `scan` (-1: never). On a GPU `scan` takes half the time of one tile in
    blocks. On a TPU the projected inputs of large steps go through the main memory. On a CPU it
    depends on the run too."""

    max_forward_rows: float
    """The most rows per unit for which such a forward pass is run in blocks, and not by `scan`.
    With more rows, the inputs' projection is a large matmul even for one step alone."""

    arranges_first: bool
    """Whether batch-major inputs and outputs are transposed as a whole, not block by block; and
    the outputs of a forward pass are in memory step by step. XLA might lay them out as their users
    have them: with steps inside of a TPU's tiles, where to write a block takes 450 cycles a step.
    In a training step this costs more than it saves."""

    replaces_padding: bool
    """Whether a forward pass without residuals replaces the padding of its inputs, although it
    discards what is computed from it. On a TPU this takes 2 to 12 % of the cycles; it was not timed
    elsewhere."""

    recompute_flops: float
    """Multiplications for each element of a matmul's result, up to which the backward pass
    recomputes it. Up to there it takes less time than to write and read the result, or is some
    percent slower where all residuals fit into the cache (up to 10 % for one row alone)."""

    recompute_bytes: float
    """The size of a run's residuals, in bytes, from which on the backward pass recomputes. Smaller
    ones stay in the vector memory of a TPU, where reading them costs little."""


CPU = Tuning(
    row_tuning=RowTuning(),
    block_elements=2**18,
    block_bytes=INFINITY,
    max_block_steps=56,
    max_block_rows=INFINITY,
    # Narrow: a longer sequence must not take much less memory because its blocks are shorter.
    block_range=(52 / 56, 64 / 56),
    counts_in_carry=False,
    max_repeated_flags=0,
    max_forward_bytes=INFINITY,
    max_forward_rows=INFINITY,
    arranges_first=False,
    replaces_padding=True,
    recompute_flops=256,
    recompute_bytes=0,
)

GPU = Tuning(
    row_tuning=None,
    block_elements=INFINITY,
    block_bytes=INFINITY,
    max_block_steps=64,  # the host is asked once in a block
    max_block_rows=INFINITY,
    block_range=(2 / 3, 3 / 2),
    counts_in_carry=False,
    max_repeated_flags=0,
    max_forward_bytes=-1,
    max_forward_rows=INFINITY,
    arranges_first=False,
    replaces_padding=True,
    recompute_flops=0,
    recompute_bytes=0,
)

TPU = dataclasses.replace(
    GPU,
    block_bytes=2**24,
    max_block_rows=2**12,
    counts_in_carry=True,
    max_repeated_flags=2**17,
    max_forward_bytes=2**20,
    max_forward_rows=7,
    arranges_first=True,
    replaces_padding=False,
    recompute_flops=600,
    recompute_bytes=2**27,
)
"""Estimated from the schedules of libtpu: see `benchmarks/results/tpu_static.json`."""
