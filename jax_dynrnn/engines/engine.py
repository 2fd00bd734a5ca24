"""What an engine is."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

from .request import Request, Run


class Engine(abc.ABC):
    """One way of running cells, equal to what `scan` returns.

    A subclass is a frozen dataclass, or has no fields: compiled runs are cached by the engine.
    """

    name: ClassVar[str]
    """What `implementation=` calls it."""

    checks_vma: ClassVar[bool] = True
    """Whether it runs in a `jax.shard_map` that checks which mesh axes values vary over."""

    is_exported: ClassVar[bool] = False
    """Whether jax2onnx and jax2tf can export it."""

    under_vmap: ClassVar[str | None] = None
    """How it runs the problems that `jax.vmap` maps, if not together."""

    @abc.abstractmethod
    def unsupported(self, request: Request) -> str | None:
        """Why it cannot run `request`, or `None`."""

    @abc.abstractmethod
    def slower_because(self, request: Request) -> str | None:
        """Why another engine is faster, for a request that it can run; `None`: none is.

        Only an engine that passes `grad`, `jvp`, second order and `vmap` may say `None`: then
        `implementation=None` chooses it.
        """

    @abc.abstractmethod
    def run(self, run: Run) -> tuple[Any, Any]:
        """`(outputs, final_state)` of a run whose request it did not refuse."""

    def chosen_because(self, request: Request) -> str | None:
        """Its measured speed on the platform of a request, as `explain` prints it, or `None`."""
        del request
        return None
