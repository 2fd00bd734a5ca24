"""Tables and pictures of the results of `benchmarks.gpu`."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .grid import Size
from .peers import family
from .report import aligned, heading
from .timing import PASSES

COMPARISONS = {"Flax/this": ("flax", "nnx"), "PyTorch/this": ("pytorch",)}
"""The families whose fastest implementation is compared with ours."""
PROBLEM = ("kind", "size", "lengths", "dtype")
COLOURS = {"float32": "tab:blue", "bfloat16": "tab:orange", "float16": "tab:green"}
FILLED = {"full": "full", "lognormal": "none"}


def per_step(row: dict[str, Any], what: str) -> float:
    """The median time of a step in microseconds."""
    return 1e3 * row[what]["median"] / row["size"][1]


def table(measured: dict[str, Any]) -> str:
    """Microseconds per step, their ratio to the floor, and the speed-up over the fastest others."""
    lines, problems = [["cell", "size", "lengths", "dtype", "implementation"]], {}
    lines[0] += ["forward, us", "floors", *COMPARISONS, "training, us", *COMPARISONS]
    for row in measured["rows"]:
        problems.setdefault(str([row[k] for k in PROBLEM]), []).append(row)
    for rows in problems.values():
        for row in rows:
            line = [row["kind"], str(Size(*row["size"])), row["lengths"], row["dtype"]]
            line.append(row["implementation"])
            for what in PASSES:
                step = per_step(row, what)
                line.append(f"{step:.2f}")
                line += [_floors(step, row["floor"])] if what == "forward" else []
                line += [_ratio(rows, families, what, step) for families in COMPARISONS.values()]
            lines.append(line)
    machine = measured["machine"]
    setting = f"{machine['device']}, XLA_FLAGS={machine['flags']!r}"
    setting += f", precision {machine['precision']}"
    return f"{heading(measured)}\n{setting}\n\n{aligned(lines, left=5)}"


def _floors(step: float, floor: float | None) -> str:
    return "-" if floor is None else f"{step / floor:.1f}"


def _ratio(rows: list, families: tuple[str, ...], what: str, step: float) -> str:
    theirs = [per_step(r, what) for r in rows if family(r["implementation"]) in families]
    return f"{min(theirs) / step:.2f}" if theirs else "-"


def draw(measured: dict[str, Any], what: str) -> Figure:
    """A panel for each kind and size, with a line for each implementation and a dashed floor."""
    rows = measured["rows"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    sizes = list(dict.fromkeys(tuple(row["size"]) for row in rows))
    shape = {"figsize": (1.5 + 3.5 * len(sizes), 1 + 2.5 * len(kinds)), "squeeze": False}
    figure, axes = plt.subplots(len(kinds), len(sizes), sharex=True, layout="constrained", **shape)
    for i, kind in enumerate(kinds):
        for j, size in enumerate(sizes):
            own = [r for r in rows if r["kind"] == kind and tuple(r["size"]) == size]
            _panel(axes[i, j], own, what)
            axes[i, j].set_title(f"{kind} {Size(*size)}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel(f"µs a step, {what}")
    dtypes = [d for d in COLOURS if any(r["dtype"] == d for r in rows)]
    marks = [Line2D([], [], color=COLOURS[d], marker="o", ls="", label=d) for d in dtypes]
    marks += [
        Line2D([], [], color="gray", marker="o", ls="", fillstyle=fill, label=lengths)
        for lengths, fill in FILLED.items()
    ]
    marks.append(Line2D([], [], color="gray", ls="--", label="floor, forward"))
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), fontsize=8)
    machine = measured["machine"]
    figure.supxlabel(f"{machine['device']}, {machine['date']}, medians", fontsize=8)
    return figure


def _panel(axis: Any, rows: list[dict[str, Any]], what: str) -> None:
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    for row in rows:
        style = {"color": COLOURS[row["dtype"]], "fillstyle": FILLED[row["lengths"]]}
        axis.plot(per_step(row, what), names.index(row["implementation"]), "o", **style)
    if floors := [row["floor"] for row in rows if row["floor"] is not None]:
        axis.axvline(min(floors), color="gray", ls="--")
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.grid(axis="x", alpha=0.3)
