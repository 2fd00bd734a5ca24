"""The weights among variables, under one name each."""

from __future__ import annotations

import bisect
import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._escape import escaped
from .._formats.bundle import Checkpoint
from .._formats.tensors import Spec
from .kinds import kind
from .names import canonical, is_memory

MOST_MEMORIES = 100
AFTER_SLASH = chr(ord("/") + 1)


class Table:
    """Weights by canonical name; slots of optimisers, steps and averages are left out.

    Args:
        variables: arrays by their own names, or only a `Spec` of each. Each array of a file is read
            once, when `array` asks for it.
    """

    def __init__(self, variables: Mapping[str, Any]):
        self.variables = variables
        self._specs: dict[str, Spec] = {}
        self._order: list[str] | None = None  # these two when they are asked for
        self._memories: list[str] | None = None
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
        of = next((n for n in (above, f"{above}:0") if n in self.variables), None)
        try:
            return of is not None and self._spec(of).shape == self._spec(name).shape
        except ValueError:  # of a dtype that NumPy lacks
            return False

    def _spec(self, name: str) -> Spec:
        if name not in self._specs:
            self._specs[name] = spec_of(self.variables, name)
        return self._specs[name]

    def wrong(self, key: str) -> KeyError | None:
        """Why a variable cannot be identified: two have its name, or not all of its shards are there."""
        if key in self._twice:
            one, other = map(escaped, self._twice[key])
            return KeyError(
                f"variables: {one} and {other} are names of the same variable; expected one of "
                "them, got both; leave one out"
            )
        shards = self._names.get(key, {})
        if sorted(shards) != list(range(len(shards))):
            return KeyError(
                f"variables: expected shards 0 to {max(shards)} of {escaped(key)}, got "
                f"{self.name(key)}"
            )
        return None

    def nested(self, scope: str, cell: str) -> Table:
        """The table with all that is in `scope` in the scope of a cell inside of it instead."""
        table = copy.copy(self)
        table._order = table._memories = None
        table._nested = f"{scope}/{cell}/", f"{scope}/"

        def placed(key: str) -> str:
            inside = key.startswith(f"{scope}/")
            return f"{scope}/{cell}/{key.removeprefix(f'{scope}/')}" if inside else key

        table._names = {placed(key): shards for key, shards in self._names.items()}
        table._twice = {placed(key): names for key, names in self._twice.items()}
        return table

    def within(self, scope: str) -> Table:
        """The table of what is in a scope, and of the memory layers nearest to it."""
        table = copy.copy(self)
        table._order = table._memories = None
        keys = [*self._below(scope), *self.nearest_memories(scope)] if scope else list(self)
        table._names = {key: self._names[key] for key in keys}
        return table

    def nearest_memories(self, scope: str) -> list[str]:
        """The memory layers that have most scopes in common with `scope`, in the order of making.

        Those that lie directly in one of its scopes come before others below that one. They are
        at most `MOST_MEMORIES`: more belong to no cell.
        """
        if self._memories is None:
            self._memories = sorted(filter(is_memory, self))
        scopes = scope.split("/") if scope else []
        for depth in range(len(scopes), -1, -1):
            common = "".join(f"{part}/" for part in scopes[:depth])
            start = bisect.bisect_left(self._memories, common)
            found = self._memories[start : start + MOST_MEMORIES]
            found = [key for key in found if key.startswith(common)]
            if found:
                direct = [key for key in found if key.count("/") == common.count("/") + 1]
                return sorted(direct or found, key=_number)
        return []

    def has(self, scope: str) -> bool:
        """Whether anything is in a scope."""
        return bool(self._below(scope))

    def _below(self, scope: str) -> list[str]:
        """The keys in a scope, sorted."""
        if self._order is None:
            self._order = sorted(self._names)
        start, end = (bisect.bisect_left(self._order, scope + c) for c in ("/", AFTER_SLASH))
        return self._order[start:end]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, key: str) -> bool:
        return key in self._names

    def name(self, key: str) -> str:
        """The variable's own name, or those of its shards; what it would be, if it is missing.

        For messages, and so on one line.
        """
        shards = self._names.get(key, {0: key.replace(*self._nested, 1)})
        return ", ".join(map(escaped, shards.values()))

    def scope(self, scope: str) -> str:
        """A scope as the variables have it: `RNN` for `rnn`."""
        for key in [scope] if scope in self else self._below(scope)[:1]:
            name = next(iter(self._names[key].values()))
            return "/".join(name.split("/")[: len(scope.split("/"))])
        return scope

    def is_weight(self, key: str) -> bool:
        """Whether it may be one, and not a constant of an operation in a frozen graph."""
        if self.wrong(key):
            return False
        try:
            spec = self.spec(key)
        except ValueError:  # of a dtype that NumPy lacks
            return False
        scalar = not spec.shape and not key.endswith("/attention_g")
        return jnp.issubdtype(spec.dtype, jnp.floating) and not scalar

    def spec(self, key: str) -> Spec:
        """Shape and dtype of a variable, of its shards one below the other."""
        shards = self._names[key]
        specs = [self._spec(shards[i]) for i in sorted(shards)]
        if len(specs) == 1:
            return specs[0]
        if len({spec.shape[1:] for spec in specs}) > 1 or not all(spec.shape for spec in specs):
            raise ValueError(
                f"variables: expected shards of {escaped(key)} that fit one below the other, got "
                f"shapes {', '.join(str(spec.shape) for spec in specs)}; join them under that name"
            )
        rows = sum(spec.shape[0] for spec in specs)
        return Spec((rows, *specs[0].shape[1:]), specs[0].dtype)

    def array(self, key: str) -> Any:
        """The values of the same variable."""
        shards = self._names[key]
        arrays = [self.variables[shards[i]] for i in sorted(shards)]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def sharded(self, key: str) -> bool:
        """Whether it is made of several."""
        return len(self._names[key]) > 1


def _number(memory: str) -> int:
    """Which memory layer of its scope it is: the first has no number."""
    return int(re.sub(r".*memory_layer_?(\d*)/kernel", r"0\1", memory))


def spec_of(variables: Mapping[str, Any], name: str) -> Spec:
    """Shape and dtype of a variable: from the index of a checkpoint, else from the array."""
    if isinstance(variables, Checkpoint):
        return variables.spec(name)
    found = variables[name]
    if isinstance(found, Spec):
        return found
    if not isinstance(getattr(found, "dtype", None), np.dtype):
        found = np.asarray(found)
    return Spec(np.shape(found), found.dtype)
