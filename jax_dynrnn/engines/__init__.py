"""The engines: one table, one function that chooses, one that explains.

An engine is a module (or any object) with two functions:

* `unsupported(call) -> str | None`: why it cannot run this `Call`, or `None`;
* `run(call) -> (outputs, final_state)`: equal to what `scan` returns;

and, if it makes one launch of all that `vmap` maps over, `one_launch = True`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from .._memoize import why_not_cached
from . import blocked, choice, cudnn, pallas, scan
from .call import Call as Call
from .call import platform

ENGINES: dict[str, Any] = {"scan": scan, "blocked": blocked, "cudnn": cudnn, "pallas": pallas}
"""Every engine by the name that `implementation=` gives it."""

AUTOMATIC: dict[str, Callable[[Call], str | None]] = {
    name: functools.partial(choice.against, name) for name in choice.RULES
}
"""Those that `implementation=None` may choose: the first that can, and that nothing is said
against. Each says of a call why another engine is faster, or `None`.

Only an engine that passes `grad`, `jvp`, second order and `vmap` may have nothing against it.
"""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Which engine runs a call, and why each other one would not.

    Attributes:
        chosen: the name of the engine; `None` where the one asked for by name refuses.
        reasons: for each engine why it cannot run the call, or `None` if it can.
        slower: for an engine that can, why another one is faster.
        why: the figures that speak for the one that was chosen, where there are any.
        note: why calls outside of `jax.jit` compile every time, for a cell that no cache keeps.
    """

    chosen: str | None
    reasons: dict[str, str | None]
    slower: dict[str, str] = dataclasses.field(default_factory=dict)
    why: str | None = None
    note: str | None = None

    def __str__(self) -> str:
        width = max(len(name) for name in self.reasons)
        lines = []
        for name, reason in self.reasons.items():
            can = "can run it" + (f"; {self.slower[name]}" if name in self.slower else "")
            chosen = f"chosen: {self.why}" if self.why else "chosen"
            verdict = chosen if name == self.chosen else (reason or can)
            lines.append(f"{name:<{width}}  {verdict}")
        if self.note:
            lines.append(f"note: each call outside of jax.jit is compiled again; {self.note}")
        return "\n".join(lines)


def explain(call: Call, implementation: str | None = None) -> Explanation:
    """Asks every engine about `call`."""
    if not (
        implementation is None or isinstance(implementation, str) and implementation in ENGINES
    ):
        raise ValueError(
            f"implementation: expected None or one of {', '.join(map(repr, ENGINES))}, got "
            f"{implementation!r}"
        )
    reasons = {name: engine.unsupported(call) for name, engine in ENGINES.items()}
    note = why_not_cached(call.cell)
    if implementation is not None:
        chosen = None if reasons[implementation] else implementation
        return Explanation(chosen, reasons, note=note)
    able = [name for name in AUTOMATIC if reasons[name] is None]
    against = {name: AUTOMATIC[name](call) for name in able}
    chosen = next((name for name in able if against[name] is None), None)
    slower = {name: why for name, why in against.items() if why}
    why = choice.CHOSEN.get((chosen, platform()))
    return Explanation(chosen, reasons, slower, why, note)


def choose(call: Call, implementation: str | None = None) -> tuple[Call, Any]:
    """`call` as it should run, and the engine that runs it.

    An engine asked for by its name gets the call as it is: what is measured is what was asked.

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
    return choice.unrolled(call) if implementation is None else call, ENGINES[explanation.chosen]
