"""What the kernels of a platform are asked."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

from ..request import Request


class Platform(abc.ABC):
    """The kernels of one platform: what they can run, and the two passes around them."""

    forward: ClassVar[Callable[..., tuple[Any, Any]]]
    """`forward(split, run, save)` -> `((outputs, final_state), residuals)`."""

    backward: ClassVar[Callable[..., tuple[Any, Any, Any, Any]]]
    """`backward(split, run, residuals, cotangents)` -> the cotangents of the params, the inputs,
    the initial and the start state of the run."""

    @abc.abstractmethod
    def unsupported(self, request: Request) -> str | None:
        """What they need and the device, dtype or precision of a request lacks, or `None`."""

    @abc.abstractmethod
    def why_no_kernel(self, part: Request) -> str | None:
        """What they cannot compute of a cell that is run as a whole, or `None`."""

    @abc.abstractmethod
    def slower_because(self, request: Request) -> str | None:
        """Why another engine is faster, or `None`."""

    @abc.abstractmethod
    def chosen_because(self) -> str | None:
        """Their measured speed, or `None`."""
