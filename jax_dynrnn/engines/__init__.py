"""The engines: one table, one function that chooses, one that explains."""

from __future__ import annotations

import dataclasses

from .._memoize import why_not_cached
from .blocked import Blocked
from .cudnn import Cudnn
from .engine import Engine as Engine
from .exporters import exporter as exporter
from .mesh import RowSharding as RowSharding
from .pallas import Pallas
from .request import Request as Request
from .request import Run as Run
from .scan import Scan
from .selection import unrolled

ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (Scan(), Blocked(), Cudnn(), Pallas())
}
"""Every engine by the name that `implementation=` gives it."""

PREFERENCE = ["pallas", "cudnn", "blocked", "scan"]
"""The order in which `implementation=None` asks engines: it chooses the first that can run a
request and knows of no faster one."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Which engine runs a call, and why each other one would not.

    Attributes:
        chosen: the name of the engine; `None` where the one asked for by name refuses.
        reasons: for each engine why it cannot run the call, or `None` if it can.
        slower: for an engine that can, why another one is faster.
        why: the measured speed of the one that was chosen, if there is any.
        note: why calls outside of `jax.jit` compile every time, for a cell that no cache keeps.
        mesh: on a mesh of devices, which rows each device runs, and which params are gathered.
        vmap: under `jax.vmap`, how the problems are run, if not together.
    """

    chosen: str | None
    reasons: dict[str, str | None]
    slower: dict[str, str] = dataclasses.field(default_factory=dict)
    why: str | None = None
    note: str | None = None
    mesh: str | None = None
    vmap: str | None = None

    def __str__(self) -> str:
        width = max(len(name) for name in self.reasons)
        lines = [f"{name:<{width}}  {self._verdict(name)}" for name in self.reasons]
        if self.note:
            lines.append(f"note: each call outside of jax.jit is compiled again; {self.note}")
        if self.mesh:
            lines.append(f"mesh: {self.mesh}")
        if self.vmap:
            lines.append(f"vmap: {self.vmap}")
        return "\n".join(lines)

    def _verdict(self, name: str) -> str:
        if name == self.chosen:
            return f"chosen: {self.why}" if self.why else "chosen"
        if (reason := self.reasons[name]) is not None:
            return reason
        return "can run it" + (f"; {self.slower[name]}" if name in self.slower else "")


def explain(
    request: Request, implementation: str | None = None, sharding: RowSharding | None = None
) -> Explanation:
    """Asks every engine about `request`, or about the part of one device of its `sharding`."""
    mesh = None
    if sharding is not None:
        mesh, request = sharding.note(request), sharding.local(request)
    if implementation is not None and (
        not isinstance(implementation, str) or implementation not in ENGINES
    ):
        raise ValueError(
            f"implementation: expected None or one of {', '.join(map(repr, ENGINES))}, got "
            f"{implementation!r}"
        )
    reasons = {name: _why_not(engine, request) for name, engine in ENGINES.items()}
    note = why_not_cached(request.cell)
    if implementation is not None:
        chosen = None if reasons[implementation] else implementation
        vmap = _under_vmap(chosen, request)
        return Explanation(chosen, reasons, note=note, mesh=mesh, vmap=vmap)
    able = [name for name in PREFERENCE if reasons[name] is None]
    against = {name: ENGINES[name].slower_because(request) for name in able}
    chosen = next(name for name in able if against[name] is None)
    slower = {name: why for name, why in against.items() if why}
    why = ENGINES[chosen].chosen_because(request)
    return Explanation(chosen, reasons, slower, why, note, mesh, _under_vmap(chosen, request))


def _under_vmap(chosen: str | None, request: Request) -> str | None:
    """How an engine runs the problems of this `jax.vmap`, if there is one."""
    return ENGINES[chosen].under_vmap if chosen is not None and request.is_mapped else None


def _why_not(engine: Engine, request: Request) -> str | None:
    """Why an engine cannot run `request`, or `None`."""
    if (name := exporter()) is not None and not engine.is_exported:
        return f"{name} is tracing, and can export scan only"
    return engine.unsupported(request)


def choose(
    request: Request, implementation: str | None = None, sharding: RowSharding | None = None
) -> tuple[Request, Engine]:
    """`request` as it should run, and the engine that runs it.

    An engine asked for by name gets the request unchanged, so that a benchmark measures it.

    Raises:
        ValueError: no engine has the name `implementation`.
        NotImplementedError: that engine cannot run this request; the message gives the reason.
    """
    explanation = explain(request, implementation, sharding)
    if explanation.chosen is None:
        raise NotImplementedError(
            f"implementation={implementation!r} cannot run this call: "
            f"{explanation.reasons[implementation or '']}; implementation=None chooses an "
            "engine that can"
        )
    if implementation is None:
        request = unrolled(request)
    return request, ENGINES[explanation.chosen]
