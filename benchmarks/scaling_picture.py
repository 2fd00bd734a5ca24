"""Draws the pictures of `benchmarks.scaling`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a display; must precede the import of pyplot

import matplotlib.pyplot as plt  # noqa: E402

from . import odd_sizes  # noqa: E402
from .grid import MEAN  # noqa: E402

LABELS = {
    "time": "time steps T",
    "batch": "batch size B",
    "units": "units H",
    "mean length": "mean length / T",
}
STYLES = {"ours": ("C3", "o-"), "ours: scan": ("C0", "s--"), "flax: Optimized": ("0.4", "^--")}


def draw(measured: dict[str, Any], path: Path) -> None:
    """Draws a panel for each of T, B, H and raggedness, with time above memory."""
    figure, axes = plt.subplots(2, 4, figsize=(15, 7), sharex="col", sharey="row")
    for column, axis in zip(axes.T, LABELS, strict=True):
        rows = [row for row in measured["rows"] if row["axis"] == axis]
        _panel(column, axis, rows)
        column[1].set_xlabel(LABELS[axis])
    axes[0, 0].set_ylabel("training step, ms")
    axes[1, 0].set_ylabel("temporary memory, MB")
    axes[0, 0].legend(frameon=False, fontsize=9)
    batch, steps, inputs, units = measured["base"]
    figure.suptitle(
        f"LSTM, about B {batch}, T {steps}, I {inputs}, H {units}, log-normal lengths of mean "
        f"{MEAN} T; limit: matmuls of valid steps at {measured['gflops']:.0f} GFLOP/s"
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(column: Any, axis: str, rows: list[dict[str, Any]]) -> None:
    for name, (color, style) in STYLES.items():
        own = [row for row in rows if row["implementation"] == name]
        values = [row["value"] for row in own]
        times = [row["training"]["median"] for row in own]
        megabytes = [row["training"]["memory"] / 1e6 for row in own]
        column[0].plot(values, times, style, color=color, label=name, ms=4)
        column[1].plot(values, megabytes, style, color=color, ms=4)
    # The three implementations at a point have the same limit.
    limits = dict(sorted((row["value"], row["limit"]) for row in rows))
    column[0].plot(limits.keys(), limits.values(), ":", color="black", label="limit")
    for ax in column:
        ax.set_yscale("log")
        if axis != "mean length":
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)


def draw_odd_sizes(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws a panel for each of T and B, with memory above time and a line for each kind."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 7), sharex="col")
    kinds = {kind: f"C{i}" for i, kind in enumerate(odd_sizes.KINDS)}
    for line, quantity in zip(axes, ("memory", "training"), strict=True):
        for (axis, lengths, remat), curve in odd_sizes.curves(rows, quantity).items():
            ax = line[0 if axis == "time" else 1]
            label = f"{lengths}, remat={remat!r}"
            ax.plot(*zip(*sorted(curve.items()), strict=True), ".-", color=kinds[lengths, remat],
                    label=label, lw=0.7, ms=4)  # fmt: skip
            ax.set(xscale="log", yscale="log")
            ax.grid(alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("temporary memory, MB")
    axes[1, 0].set_ylabel("training step, ms")
    for ax, axis in zip(axes[1], ("time", "batch"), strict=True):
        ax.set_xlabel(LABELS[axis])
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.suptitle(
        "Sizes that no tile or block divides, and their neighbours: an LSTM's training step"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
