"""What the kernels of a platform are asked."""

from __future__ import annotations

import abc
from typing import Any

from ..request import Request, Run
from ..staged.split_cell import SplitCell


class Platform(abc.ABC):
    """The kernels of one platform: what they can run, and the two passes around them."""

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

    @abc.abstractmethod
    def forward(self, split: SplitCell, run: Run, save: bool) -> tuple[Any, Any]:
        """`((outputs, final_state), residuals)`."""

    @abc.abstractmethod
    def backward(
        self, split: SplitCell, run: Run, residuals: Any, cotangents: Any
    ) -> tuple[Any, Any, Any, Any]:
        """The cotangents of the params, the inputs, the initial and the start state of the run."""
