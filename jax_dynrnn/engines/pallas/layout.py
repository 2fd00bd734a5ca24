"""What the kernels of all platforms receive alike: projected inputs, flags of steps, sizes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ..._types import Inputs, PyTree
from ..request import Run
from ..staged.split_cell import SplitCell

VALID, RESET = 1, 2
"""The flag of a valid step, and of a valid step before which the state is reset."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A run, of which the params are `Weights`; a platform adds how it lays out arrays."""

    split: SplitCell
    run: Run

    def project(self, projection: list[Any], inputs: Inputs) -> Any:
        """The projected inputs of all steps, as one matmul."""
        weights = dataclasses.replace(self.run.params, projection=projection)
        return self.split.project_steps(weights, inputs)

    def flags(self) -> jax.Array:
        """int32 `[T, B]`: `VALID`, `RESET`, or 0 for a step that is not valid."""
        run, masks = self.run, self.run.masks
        valid = jnp.ones((run.time, run.batch), bool) if masks.valid is None else masks.valid
        flags = jnp.where(valid, VALID, 0).astype(jnp.int32)
        return flags if masks.resets is None else jnp.where(masks.resets, RESET, flags)


def has_flags(run: Run) -> bool:
    """Whether lengths do not say everything: valid steps may follow others, or there are resets."""
    return run.masks.may_have_gaps or run.masks.resets is not None


def as_pytree(xs: list[jax.Array], like: PyTree) -> Any:
    """`xs` as the leaves of a pytree, of its dtypes."""
    leaves, structure = jax.tree.flatten(like)
    return structure.unflatten([x.astype(y.dtype) for x, y in zip(xs, leaves, strict=True)])


def round_up(size: int, multiple: int) -> int:
    """`size`, rounded up to a multiple."""
    return math.ceil(size / multiple) * multiple
