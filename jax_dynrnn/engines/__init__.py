"""The engines: one table, one function that chooses, one that explains.

An engine is a module (or any object) with two functions:

* `unsupported(call) -> str | None`: why it cannot run this `Call`, or `None`;
* `run(call) -> (outputs, final_state)`: equal to what `scan` returns.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from . import blocked, scan
from .call import Call as Call

ENGINES: dict[str, Any] = {"scan": scan, "blocked": blocked}
"""Every engine by the name that `implementation=` gives it."""

AUTOMATIC: list[str] = ["scan"]
"""Those that `implementation=None` may choose, the fastest first.

Only an engine that passes `grad`, `jvp`, second order and `vmap` belongs here.
"""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Which engine runs a call, and why each other one would not.

    Attributes:
        chosen: the name of the engine; `None` where the one asked for by name refuses.
        reasons: for each engine why it cannot run the call, or `None` if it can.
    """

    chosen: str | None
    reasons: dict[str, str | None]

    def __str__(self) -> str:
        width = max(len(name) for name in self.reasons)
        lines = []
        for name, reason in self.reasons.items():
            verdict = "chosen" if name == self.chosen else (reason or "can run it")
            lines.append(f"{name:<{width}}  {verdict}")
        return "\n".join(lines)


def explain(call: Call, implementation: str | None = None) -> Explanation:
    """Asks every engine about `call`."""
    if implementation is not None and implementation not in ENGINES:
        raise ValueError(
            f"implementation: expected None or one of {', '.join(map(repr, ENGINES))}, got "
            f"{implementation!r}"
        )
    reasons = {name: engine.unsupported(call) for name, engine in ENGINES.items()}
    asked = AUTOMATIC if implementation is None else [implementation]
    able = [name for name in asked if reasons[name] is None]
    return Explanation(able[0] if able else None, reasons)


def choose(call: Call, implementation: str | None = None) -> Any:
    """The engine that runs `call`.

    Raises:
        ValueError: no engine has the name `implementation`.
        NotImplementedError: that engine cannot run this call; the reason is said.
    """
    explanation = explain(call, implementation)
    if explanation.chosen is None:
        raise NotImplementedError(
            f"implementation={implementation!r} cannot run this call: "
            f"{explanation.reasons[implementation or '']}; implementation=None chooses an "
            "engine that can"
        )
    return ENGINES[explanation.chosen]
