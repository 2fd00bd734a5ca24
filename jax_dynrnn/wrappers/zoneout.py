"""Zoneout: at each step, random units keep their old state."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Params, State
from .._tools import check_probability
from .._types import Key, Projected
from ._wrapper import Wrapper


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ZoneoutWrapper(Wrapper):
    """Randomly keeps the old state of units (zoneout); the output does not change.

        y, s' = cell(x, s);  new_state = where(mask, s', s)     # mask ~ Bernoulli(state_keep_prob)

    Without a `key` (evaluation) the new state is its expectation,
    `state_keep_prob * s' + (1 - state_keep_prob) * s`.

    Args:
        cell: the cell to run.
        state_keep_prob: probability in (0, 1] that a unit takes its new value; 1.0 draws
            nothing. The `z` of Krueger et al. is `1 - state_keep_prob`.

    Params, state, output: those of `cell`. Integers and rank-0 leaves always take their new
    values.

    Raises:
        TypeError, ValueError: `cell` is not a cell, or the probability not in (0, 1].

    Reference: TF1 had zoneout only in its models, not in its library; Krueger et al.,
    arXiv:1606.01305.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> inputs = jnp.ones((2, 1, 3))
        >>> cell = rnn.ZoneoutWrapper(rnn.GRUCell(64), state_keep_prob=0.5)
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> _, train = rnn.dynamic_rnn(cell, params, inputs, key=jax.random.key(1))
        >>> outputs, test = rnn.dynamic_rnn(cell, params, inputs)
        >>> bool((train == 0).any()), bool((test == 0.5 * outputs[:, 0]).all())
        (True, True)
    """

    same_features = same_output = True

    _: dataclasses.KW_ONLY
    state_keep_prob: float

    def __post_init__(self) -> None:
        # Before check_options, which would convert a probability that is an array to a float.
        check_probability(self, "state_keep_prob")
        super().__post_init__()

    def why_not_separable(self, key: Key) -> str | None:
        del key
        return "it mixes the state of the step before into each new state"

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        inner_key, own_key = (None, None) if key is None else jax.random.split(key)
        output, new = self.cell_step(params, projected, state, inner_key)
        if self.state_keep_prob == 1.0:
            return output, new
        leaves, structure = jax.tree.flatten(new)
        old = jax.tree.leaves(state)
        mixed = [self._mix(own_key, i, *x) for i, x in enumerate(zip(old, leaves, strict=True))]
        return output, structure.unflatten(mixed)

    def _mix(self, key: Key, i: int, old: jax.Array, new: jax.Array) -> jax.Array:
        """Combines leaf i of the old and the new state."""
        # As in DropoutWrapper, counters (integers, or rank 0) are never masked.
        if not (new.ndim and jnp.issubdtype(new.dtype, jnp.floating)):
            return new
        if key is None:
            return self.state_keep_prob * new + (1 - self.state_keep_prob) * old
        mask = jax.random.bernoulli(jax.random.fold_in(key, i), self.state_keep_prob, new.shape)
        return jnp.where(mask, new, old)
