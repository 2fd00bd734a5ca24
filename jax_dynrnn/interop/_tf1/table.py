"""The weights among variables, under one name each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from .kinds import kind
from .names import canonical


class Table:
    """Weights by canonical name; slots of optimisers, steps and averages are left out.

    Args:
        variables: arrays by their own names; each is read only when it is asked for.

    Raises:
        KeyError: two names of the same variable, or not all shards of one.
    """

    def __init__(self, variables: Mapping[str, Any]):
        self._variables = variables
        self._names: dict[str, dict[int, str]] = {}
        for name in variables:
            if kind(name) == "weight":
                self._add(name, *canonical(name))
        for key, shards in self._names.items():
            if sorted(shards) != list(range(len(shards))):
                raise KeyError(
                    f"variables: expected shards 0 to {max(shards)} of {key}, got {self.name(key)}"
                )

    def _add(self, name: str, key: str, shard: int) -> None:
        shards = self._names.setdefault(key, {})
        if shard in shards:
            raise KeyError(
                f"variables: {shards[shard]} and {name} are names of the same variable; expected "
                "one of them, got both; leave one out"
            )
        shards[shard] = name

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, key: str) -> bool:
        return key in self._names

    def name(self, key: str) -> str:
        """The variable's own name, or those of its shards; what it would be, if it is missing."""
        return ", ".join(self._names.get(key, {0: key}).values())

    def scope(self, scope: str) -> str:
        """A scope as the variables have it: `RNN` for `rnn`."""
        for key, shards in self._names.items():
            if f"{key}/".startswith(f"{scope}/"):
                name = next(iter(shards.values()))
                return "/".join(name.split("/")[: len(scope.split("/"))])
        return scope

    def is_weight(self, key: str) -> bool:
        """Whether it may be one, and not a constant of an operation in a frozen graph."""
        try:
            array = np.asarray(self.array(key))
        except ValueError:  # of a dtype that NumPy lacks
            return False
        scalar = array.ndim == 0 and not key.endswith("/attention_g")
        return jnp.issubdtype(array.dtype, jnp.floating) and not scalar

    def array(self, key: str) -> Any:
        """The variable, of its shards one below the other."""
        shards = self._names[key]
        arrays = [self._variables[shards[i]] for i in sorted(shards)]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
