"""Memory of training on a long sequence: every engine with every `remat`, and Flax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .grid import Size
from .measure import training_rows
from .peers import flax, ours
from .problems import cells_of, params_of
from .report import aligned, heading

ENGINES = ("scan", "blocked")
REMAT = (None, "sqrt", 250)
RUNS = len(ENGINES) * len(REMAT) + 1


def rows(size: Size, count: int) -> Iterator[dict[str, Any]]:
    """Time and memory of an LSTM's training step without lengths, one row per run."""
    params, cell = params_of("lstm", size), cells_of("lstm", size.units)
    runs = {
        (f"ours: {engine}", remat): (ours.forward(cell, engine, remat=remat), params)
        for engine in ENGINES
        for remat in REMAT
    }
    runs["flax", None] = flax.build("lstm", size, params)["flax: Optimized"]
    for (name, remat), run in runs.items():
        (row,) = training_rows({name: run}, size, None, count)
        yield {"size": list(size), "remat": remat} | row


def table(measured: dict[str, Any]) -> str:
    """The table for the terminal."""
    lines = [["implementation", "remat", "memory, MB", "training step, ms"]]
    for row in measured["memory"]:
        step = row["training"]
        figures = f"{step['memory'] / 1e6:.1f}", f"{step['median']:.4g}"
        lines.append([row["implementation"], str(row["remat"]), *figures])
    size = Size(*measured["memory"][0]["size"])
    return f"{heading(measured)}\n\nLSTM, {size}, no lengths\n{aligned(lines)}"
