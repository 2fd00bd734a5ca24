"""How warpgroups of several multiprocessors hand arrays to each other.

Pallas sends registers, a store of 4 bytes and a count at a barrier for each two numbers. Here one
thread sends a whole array from shared memory to shared memory, as PTX has it (`cp.async.bulk`),
and each block counts at a barrier of its own. There are two, used in turn: what comes late in one
turn does not meet what comes early in the next.

Source: NVIDIA's PTX ISA, "Asynchronous copy" and "mbarrier".
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from . import mosaic

BARRIERS = {"shape": (4,), "dtype": jnp.int32}
"""Two of 64 bits, in shared memory."""


def begin(barriers: Any, arrivals: int) -> None:
    """Both barriers count `arrivals`, and all blocks are there."""
    mosaic.inline(
        f"""{{
        .reg .pred first; .reg .b32 thread;
        mov.u32 thread, %tid.x;
        setp.eq.u32 first, thread, 0;
        @first mbarrier.init.shared::cta.b64 [$0], {arrivals};
        @first mbarrier.init.shared::cta.b64 [$0 + 8], {arrivals};
        @first fence.mbarrier_init.release.cluster;
        }}
        {TOGETHER}""",
        [barriers],
    )


def end(barriers: Any) -> None:
    """No block goes before all have what it sent."""
    mosaic.inline(TOGETHER, [barriers])


def send(arrays: list[Any], barriers: Any, turn: jax.Array, blocks: int) -> None:
    """Arrays in shared memory, to the same place in all other blocks; then waits for theirs.

    Each block has as many warpgroups, and each of them sends as many bytes.
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
        [barriers, turn, *arrays],
    )


TOGETHER = "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;"
"""All threads of all blocks wait for each other."""
