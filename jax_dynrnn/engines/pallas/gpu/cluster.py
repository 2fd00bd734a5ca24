"""How the thread blocks of a cluster exchange arrays.

Pallas would send registers: a store of 4 bytes and an arrival at a barrier for each two numbers.
Here one thread copies an array from shared memory to shared memory (PTX's `cp.async.bulk`), and
each block counts the bytes at its own barrier. There are two barriers, used in alternate
exchanges, so that what arrives late in one is not counted in the next.

Source: NVIDIA's PTX ISA, "Asynchronous copy" and "mbarrier".
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from ...._types import Ref
from . import mosaic

BARRIERS: dict[str, Any] = {"shape": (4,), "dtype": jnp.int32}
"""Two barriers of 64 bits, in shared memory."""


def begin(barriers: Ref, arrivals: int) -> None:
    """Initialises both barriers, each for `arrivals` arrivals, and waits until all blocks have."""
    mosaic.inline(
        f"""{{
        .reg .pred first; .reg .b32 thread;
        mov.u32 thread, %tid.x;
        setp.eq.u32 first, thread, 0;
        @first mbarrier.init.shared::cta.b64 [$0], {arrivals};
        @first mbarrier.init.shared::cta.b64 [$0 + 8], {arrivals};
        @first fence.mbarrier_init.release.cluster;
        }}
        {ALL_BLOCKS_WAIT}""",
        [barriers],
    )


def end(barriers: Ref) -> None:
    """Waits for all blocks: none may end before the others have read its shared memory."""
    mosaic.inline(ALL_BLOCKS_WAIT, [barriers])


def exchange(arrays: list[Any], barriers: Ref, iteration: jax.Array, blocks: int) -> None:
    """Copies arrays in shared memory to the same place in all other blocks, and waits for theirs.

    All blocks have the same number of warpgroups, each of which sends the same number of bytes.
    """
    size = 2 * math.prod(arrays[0].shape)
    expected = (blocks - 1) * len(arrays) * size
    copies = "".join(
        f"""
        mapa.shared::cluster.u32 there, ${i + 2}, {block};
        mapa.shared::cluster.u32 its, mine, {block};
        setp.ne.and.u32 sends, rank, {block}, first;
        @sends cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes
            [there], [${i + 2}], {size}, [its];"""
        for block in range(blocks)
        for i in range(len(arrays))
    )
    mosaic.inline(
        f"""{{
        .reg .pred first, sends, done; .reg .b32 thread, rank, mine, its, there, parity;
        and.b32 mine, $1, 1;
        shl.b32 mine, mine, 3;
        add.u32 mine, mine, $0;
        shr.u32 parity, $1, 1;
        and.b32 parity, parity, 1;
        mov.u32 rank, %cluster_ctarank;
        mov.u32 thread, %tid.x;
        and.b32 thread, thread, 127;
        setp.eq.u32 first, thread, 0;
        @first mbarrier.arrive.expect_tx.shared::cta.b64 _, [mine], {expected};
        {copies}
        AGAIN:
        mbarrier.try_wait.parity.shared::cta.b64 done, [mine], parity;
        @!done bra AGAIN;
        }}""",
        [barriers, iteration, *arrays],
    )


ALL_BLOCKS_WAIT = "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;"
"""All threads of all blocks wait for each other."""
