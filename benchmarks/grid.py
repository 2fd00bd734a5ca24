"""The problems: kinds of cells, sizes, and lengths. This module imports no framework."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Size(NamedTuple):
    """The batch size `B`, the time steps `T`, the features `I` and the units `H`."""

    batch: int
    time: int
    inputs: int
    units: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @classmethod
    def read(cls, text: str) -> Size:
        """Parses `BxTxIxH`, the printed form."""
        return cls(*map(int, text.split("x")))


class Problem(NamedTuple):
    """A kind of cell, a size, and a kind of lengths."""

    kind: str
    """A key of `SIZES`."""
    size: Size
    lengths: str
    """An element of `LENGTHS`."""

    def __str__(self) -> str:
        return f"{self.kind} {self.size} {self.lengths}"


GRID = (
    Size(32, 100, 64, 128),
    Size(64, 128, 256, 256),
    Size(16, 512, 32, 64),
    Size(128, 50, 512, 512),
    Size(1, 512, 64, 128),
    Size(64, 256, 64, 64),
)
TINY = Size(4, 12, 3, 8)
"""The size of a short run."""
LENGTHS = ("none", "full", "uniform", "lognormal")
"""No lengths given; all equal to `T`; uniform in [T / 4, T]; log-normal with mean 0.35 `T`.

The longest row has `T` steps in all of them.
"""
RAGGED = ("uniform", "lognormal")
MEAN = 0.35

MAPPED = {"vmap_params": "params", "vmap_inputs": "inputs", "vmap_lengths": "lengths"}
"""An LSTM under `jax.vmap`, by the mapped argument. There are no peers: ours against `scan`."""
OTHERS = (
    "projection", "layer_norm", "weight_norm", "coupled", "grouped", "ugrnn", "nas", "cfn",
    "minimal", "sru", "ind_rnn", "indy_gru", "indy_lstm", "stack",
)  # fmt: skip
"""Cells that few of the peers have: ours against `scan`."""
WITHOUT_PEERS = (*MAPPED, *OTHERS)
COPIES = 8
"""The size of the mapped axis."""

SIZES = {kind: GRID for kind in ("lstm", "gru", "gru_after", "vanilla")}
"""The sizes of each kind; `gru_after` is the GRU whose reset gate acts after the matmul."""
SIZES |= {"bidirectional": (Size(32, 100, 64, 128), Size(64, 256, 64, 64))}
SIZES |= {kind: (Size(16, 128, 32, 64),) for kind in MAPPED}
SIZES |= {kind: (Size(64, 256, 64, 64),) for kind in OTHERS}


def lengths_of(kind: str, size: Size) -> tuple[str, ...]:
    """The kinds of lengths that make sense: a single row is not ragged."""
    if kind in WITHOUT_PEERS:
        return ("full", "lognormal")
    return LENGTHS[:2] if size.batch == 1 else LENGTHS


def draw_inputs(problem: Problem) -> np.ndarray:
    """float32 `[B, T, I]`, or `[COPIES, B, T, I]`."""
    batch, time, inputs, _ = problem.size
    copies = (COPIES,) if problem.kind == "vmap_inputs" else ()
    random = np.random.default_rng(1)
    return random.normal(size=(*copies, batch, time, inputs)).astype(np.float32)


def draw_lengths(problem: Problem) -> np.ndarray | None:
    """int32 `[B]`, or `[COPIES, B]`; `None` if the problem has no lengths."""
    if problem.lengths == "none":
        return None
    copies = COPIES if problem.kind == "vmap_lengths" else 1
    draw = {"full": _full, "uniform": _uniform, "lognormal": lognormal}[problem.lengths]
    rows = [draw(problem.size.batch, problem.size.time, seed) for seed in range(copies)]
    return np.stack(rows) if problem.kind == "vmap_lengths" else rows[0]


def _full(batch: int, time: int, seed: int) -> np.ndarray:
    del seed
    return np.full(batch, time, np.int32)


def _uniform(batch: int, time: int, seed: int) -> np.ndarray:
    lengths = np.random.default_rng(seed).integers(-(-time // 4), time + 1, batch)
    lengths[0] = time  # the longest row has `T` steps, as in all kinds of lengths
    return lengths.astype(np.int32)


def lognormal(batch: int, time: int, seed: int, mean: float = MEAN) -> np.ndarray:
    """Log-normal lengths, the longest of which is `time`, with a mean of about `mean * time`.

    They are `time * (x / max(x)) ** p` with normal `log(x)`. p is found by bisection, so that the
    mean is as requested.
    """
    log = np.random.default_rng(seed).normal(size=batch)
    log -= log.max()
    low, high = 0.0, 100.0
    for _ in range(50):
        p = (low + high) / 2
        low, high = (p, high) if np.exp(p * log).mean() > mean else (low, p)
    return np.maximum(1, np.rint(time * np.exp(low * log))).astype(np.int32)
