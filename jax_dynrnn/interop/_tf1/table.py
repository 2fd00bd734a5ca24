"""The weights among variables, under one name each."""

from __future__ import annotations

import copy
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
    """

    def __init__(self, variables: Mapping[str, Any]):
        self._variables = variables
        self._names: dict[str, dict[int, str]] = {}
        self._twice: dict[str, tuple[str, str]] = {}
        self._nested = "", ""
        for name in variables:
            if kind(name) == "weight" and not self._is_slot(name):
                self._add(name, *canonical(name))

    def _add(self, name: str, key: str, shard: int) -> None:
        shards = self._names.setdefault(key, {})
        if shard in shards:
            self._twice[key] = shards[shard], name
        shards[shard] = name

    def _is_slot(self, name: str) -> bool:
        """Whether it lies below a variable of its shape: of an optimizer with a name of its own."""
        above = name.removesuffix(":0").rpartition("/")[0]
        of = next((n for n in (above, f"{above}:0") if n in self._variables), None)
        try:
            return of is not None and self._shape(of) == self._shape(name)
        except ValueError:  # of a dtype that NumPy lacks
            return False

    def _shape(self, name: str) -> tuple[int, ...]:
        return np.shape(self._variables[name])

    def wrong(self, key: str) -> KeyError | None:
        """Why a variable cannot be told: two have its name, or not all of its shards are there."""
        if key in self._twice:
            one, other = self._twice[key]
            return KeyError(
                f"variables: {one} and {other} are names of the same variable; expected one of "
                "them, got both; leave one out"
            )
        shards = self._names.get(key, {})
        if sorted(shards) != list(range(len(shards))):
            return KeyError(
                f"variables: expected shards 0 to {max(shards)} of {key}, got {self.name(key)}"
            )
        return None

    def nested(self, scope: str, cell: str) -> Table:
        """The table with all that is in `scope` in the scope of a cell inside of it instead."""
        table = copy.copy(self)
        table._nested = f"{scope}/{cell}/", f"{scope}/"

        def placed(key: str) -> str:
            inside = key.startswith(f"{scope}/")
            return f"{scope}/{cell}/{key.removeprefix(f'{scope}/')}" if inside else key

        table._names = {placed(key): shards for key, shards in self._names.items()}
        table._twice = {placed(key): names for key, names in self._twice.items()}
        return table

    def has(self, scope: str) -> bool:
        """Whether anything is in a scope."""
        return any(key.startswith(f"{scope}/") for key in self)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, key: str) -> bool:
        return key in self._names

    def name(self, key: str) -> str:
        """The variable's own name, or those of its shards; what it would be, if it is missing."""
        return ", ".join(self._names.get(key, {0: key.replace(*self._nested, 1)}).values())

    def scope(self, scope: str) -> str:
        """A scope as the variables have it: `RNN` for `rnn`."""
        for key, shards in self._names.items():
            if f"{key}/".startswith(f"{scope}/"):
                name = next(iter(shards.values()))
                return "/".join(name.split("/")[: len(scope.split("/"))])
        return scope

    def is_weight(self, key: str) -> bool:
        """Whether it may be one, and not a constant of an operation in a frozen graph."""
        if self.wrong(key):
            return False
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
        if len({np.shape(x)[1:] for x in arrays}) > 1:
            raise ValueError(
                f"variables: expected shards of {key} that fit one below the other, got shapes "
                f"{', '.join(str(np.shape(x)) for x in arrays)}; join them under that name"
            )
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def sharded(self, key: str) -> bool:
        """Whether it is made of several."""
        return len(self._names[key]) > 1
