"""The folders of results, and the format in which they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SHORT = Path(__file__).parents[1] / ".cache" / "benchmarks"
"""The folder for short runs, whose figures mean nothing."""


def write(measured: dict[str, Any], path: Path) -> None:
    """Writes results as JSON, with one line for each row."""

    def text(value):
        if not (isinstance(value, list) and value and isinstance(value[0], dict)):
            return json.dumps(value)
        return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]"

    entries = [f" {json.dumps(key)}: {text(value)}" for key, value in measured.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n")
