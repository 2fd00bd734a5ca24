"""Draws the picture of the results: speed-ups over the best JAX peer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a display; must precede the import of pyplot

import matplotlib.pyplot as plt  # noqa: E402

from . import compare  # noqa: E402
from .compare import COMPARISONS, Entry  # noqa: E402
from .grid import LENGTHS, Problem  # noqa: E402
from .timing import PASSES  # noqa: E402

COLORS = {"none": "0.75", "full": "0.45", "uniform": "C0", "lognormal": "C3"}
LABELS = {
    "none": "ours: no lengths given",
    "full": "all lengths T",
    "uniform": "uniform in [T/4, T]",
    "lognormal": "log-normal, mean 0.35 T",
}
OTHERS = {"TensorFlow": "x", "PyTorch": "o"}
TITLES = {"forward": "Forward", "training": "Training step"}
NAMES = {
    "lstm": "LSTM",
    "gru": "GRU",
    "gru_after": "GRU, reset after",
    "vanilla": "vanilla RNN",
    "bidirectional": "bidirectional LSTM",
}


def draw(measured: dict[str, Any], path: Path) -> None:
    """Draws a panel for each cell and pass, with a bar for each problem.

    TensorFlow and PyTorch are marks. If only kinds without peers were measured, such as runs under
    `vmap`, no picture is drawn.
    """
    entries = compare.by_problem(measured["rows"])
    kinds = [kind for kind in NAMES if any(p.kind == kind for p in entries)]
    if not kinds:
        return
    figure, axes = plt.subplots(
        len(kinds), 2, figsize=(13, 1 + 2.6 * len(kinds)), sharey=True, squeeze=False
    )
    for line, kind in zip(axes, kinds, strict=True):
        for ax, what in zip(line, PASSES, strict=True):
            _panel(ax, what, {p: entry for p, entry in entries.items() if p.kind == kind})
        line[0].set_ylabel(f"{NAMES[kind]}\nspeed-up")
    for ax, what in zip(axes[0], PASSES, strict=True):
        ax.set_title(f"{TITLES[what]}: speed-up over the best JAX peer")
    handles = {}
    for ax in axes.flat:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    names = [name for name in (*LABELS.values(), *OTHERS) if name in handles]
    figure.legend([handles[n] for n in names], names, ncol=6, loc="upper center", frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / (1 + 2.6 * len(kinds))))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(ax: Any, what: str, entries: dict[Problem, Entry]) -> None:
    sizes = list(dict.fromkeys(p.size for p in entries))
    for lengths in LENGTHS:
        found = [(p, e) for p, e in entries.items() if p.lengths == lengths]
        positions = [sizes.index(p.size) + 0.2 * (LENGTHS.index(lengths) - 1.5) for p, _ in found]
        best = [compare.speed_up(e, what, COMPARISONS["best JAX peer"]) or 1.0 for _, e in found]
        heights = [ratio - 1 for ratio in best]  # bars start at 1, the speed of the peer
        ax.bar(positions, heights, 0.18, 1, color=COLORS[lengths], label=LABELS[lengths])
        for name, marker in OTHERS.items():
            theirs = [compare.speed_up(e, what, COMPARISONS[name]) for _, e in found]
            pairs = zip(positions, best, theirs, strict=True)
            # The height of a mark is their speed on this scale, not our speed-up over them.
            points = [(x, b / t) for x, b, t in pairs if t]
            if points:
                ax.scatter(
                    *zip(*points, strict=True), 18, "black", label=name, marker=marker, zorder=3
                )
    ax.axhline(1, color="black", lw=1)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter("{x:g}")
    labels = [f"B {s.batch}, T {s.time}\nI {s.inputs}, H {s.units}" for s in sizes]
    ax.set_xticks(range(len(sizes)), labels, fontsize=8)
    ax.set_xlim(-0.6, max(len(sizes), 6) - 0.4)  # so that bars have the same width in all panels
    ax.grid(axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
