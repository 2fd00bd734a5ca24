"""The weights among a model's variables, by canonical name."""

from __future__ import annotations

import bisect
import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._escape import escaped
from .._formats.bundle import Checkpoint
from .._formats.tensors import Spec
from .graph_cells import GraphCells
from .kinds import kind
from .names import canonical, is_memory

MAX_MEMORIES = 100  # memory layers considered for one cell
AFTER_SLASH = chr(ord("/") + 1)  # sorts after all names in a scope


class CanonicalWeights:
    """The weights of a model by canonical name, without slots, step counters and averages.

    Args:
        variables: arrays by their own names, or only a `Spec` of each. An array in a file is read
            only by `array`.
        graph: of the model, if it is known.
    """

    def __init__(self, variables: Mapping[str, Any], graph: GraphCells | None = None):
        self.variables, self.graph = variables, graph
        self._specs: dict[str, Spec] = {}
        self._sorted_keys: list[str] | None = None  # both are computed on first use
        self._memories: list[str] | None = None
        self._shards_by_key: dict[str, dict[int, str]] = {}
        self._duplicates: dict[str, tuple[str, str]] = {}
        self.aliases: dict[str, str] = {}
        """Variables that have a second name, by that name."""
        # Canonical prefix and own prefix, where `with_cell_scope` renamed one.
        self._renamed_scope = "", ""
        for name in variables:
            if kind(name) == "weight" and not self._is_custom_slot(name):
                self._add(name, *canonical(name))

    def _add(self, name: str, key: str, shard: int) -> None:
        """Records a variable as a shard of its canonical name."""
        shards = self._shards_by_key.setdefault(key, {})
        if shard in shards:
            self._duplicates[key] = shards[shard], name
        shards[shard] = name

    def add_alias(self, key: str, name: str) -> None:
        """Gives the variable `name` a second canonical name."""
        self.aliases[key] = name
        self._add(name, key, 0)
        self._sorted_keys = None

    def _is_custom_slot(self, name: str) -> bool:
        """Whether a variable is a slot of an optimizer with a name of its own.

        Such a slot is below a variable of the same shape: `kernel/mine` below `kernel`.
        """
        above = name.removesuffix(":0").rpartition("/")[0]
        variable = next((n for n in (above, f"{above}:0") if n in self.variables), None)
        try:
            return variable is not None and self._spec(variable).shape == self._spec(name).shape
        except ValueError:  # of a dtype that NumPy lacks
            return False

    def _spec(self, name: str) -> Spec:
        """The spec of a variable by its own name, computed once."""
        if name not in self._specs:
            self._specs[name] = spec_of(self.variables, name)
        return self._specs[name]

    def identification_error(self, key: str) -> KeyError | None:
        """Why a variable is ambiguous or incomplete: two have its name, or shards are missing."""
        if key in self._duplicates:
            first, second = map(escaped, self._duplicates[key])
            return KeyError(
                f"variables: {first} and {second} are names of the same variable; expected one of "
                "them, got both; leave one out"
            )
        shards = self._shards_by_key.get(key, {})
        if sorted(shards) != list(range(len(shards))):
            return KeyError(
                f"variables: expected shards 0 to {max(shards)} of {escaped(key)}, got "
                f"{self.name(key)}"
            )
        return None

    def with_cell_scope(self, scope: str, cell: str) -> CanonicalWeights:
        """The same weights, with everything in `scope` moved into a scope `cell` inside of it."""
        view = copy.copy(self)
        view._sorted_keys = view._memories = None
        view._renamed_scope = f"{scope}/{cell}/", f"{scope}/"

        def renamed(key: str) -> str:
            inside = key.startswith(f"{scope}/")
            return f"{scope}/{cell}/{key.removeprefix(f'{scope}/')}" if inside else key

        view._shards_by_key = {renamed(key): shards for key, shards in self._shards_by_key.items()}
        view._duplicates = {renamed(key): names for key, names in self._duplicates.items()}
        return view

    def within(self, scope: str) -> CanonicalWeights:
        """The weights in a scope, and the memory layers nearest to it."""
        view = copy.copy(self)
        view._sorted_keys = view._memories = None
        keys = [*self._keys_in(scope), *self.nearest_memories(scope)] if scope else list(self)
        view._shards_by_key = {key: self._shards_by_key[key] for key in keys}
        return view

    def nearest_memories(self, scope: str) -> list[str]:
        """The memory layers that share most outer scopes with `scope`, in the order of making.

        Those directly in a shared scope precede others below it. No more than `MAX_MEMORIES` are
        returned: no cell has as many.
        """
        if self._memories is None:
            self._memories = sorted(filter(is_memory, self))
        scopes = scope.split("/") if scope else []
        for depth in range(len(scopes), -1, -1):
            common = "".join(f"{part}/" for part in scopes[:depth])
            # Binary search: with many memory layers beside many cells, comparing all of them would
            # take quadratic time.
            start = bisect.bisect_left(self._memories, common)
            found = self._memories[start : start + MAX_MEMORIES]
            found = [key for key in found if key.startswith(common)]
            if found:
                direct = [key for key in found if key.count("/") == common.count("/") + 1]
                return sorted(direct or found, key=_memory_number)
        return []

    def has(self, scope: str) -> bool:
        """Whether a scope contains any weights."""
        return bool(self._keys_in(scope))

    def _keys_in(self, scope: str) -> list[str]:
        """The canonical names in a scope, sorted."""
        if self._sorted_keys is None:
            self._sorted_keys = sorted(self._shards_by_key)
        start, end = (bisect.bisect_left(self._sorted_keys, scope + c) for c in ("/", AFTER_SLASH))
        return self._sorted_keys[start:end]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards_by_key)

    def __contains__(self, key: str) -> bool:
        return key in self._shards_by_key

    def name(self, key: str) -> str:
        """The own name of a variable, or those of its shards; of a missing one, its expected name.

        It is escaped, on one line, for messages.
        """
        shards = self._shards_by_key.get(key, {0: key.replace(*self._renamed_scope, 1)})
        return ", ".join(map(escaped, shards.values()))

    def names(self, key: str) -> list[str]:
        """The own names of a variable's shards, in order."""
        shards = self._shards_by_key[key]
        return [shards[i] for i in sorted(shards)]

    def scope(self, scope: str) -> str:
        """A scope as the variables spell it: `RNN` for `rnn`."""
        keys = [scope] if scope in self else self._keys_in(scope)
        for key in itertools.islice((key for key in keys if key not in self.aliases), 1):
            name = next(iter(self._shards_by_key[key].values()))
            return "/".join(name.split("/")[: len(scope.split("/"))])
        return scope

    def is_weight(self, key: str) -> bool:
        """Whether it can be a weight, and not a constant of an operation in a frozen graph."""
        if self.identification_error(key):
            return False
        try:
            spec = self.spec(key)
        except ValueError:  # of a dtype that NumPy lacks
            return False
        # The gain and the bias of attention are the only weights that are scalars.
        scalar = not spec.shape and not key.endswith(("/attention_g", "/attention_score_bias"))
        return jnp.issubdtype(spec.dtype, jnp.floating) and not scalar

    def is_row(self, name: str, size: int) -> bool:
        """Whether a variable, by its own name, is a row of `size`, with or without a batch axis."""
        try:
            return name in self.variables and self._spec(name).shape in ((size,), (1, size))
        except ValueError:  # of a dtype that NumPy lacks
            return False

    def spec(self, key: str) -> Spec:
        """The shape and dtype of a variable; shards are concatenated along the first axis."""
        specs = [self._spec(name) for name in self.names(key)]
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
        """The values of a variable; shards are concatenated along the first axis."""
        arrays = [self.variables[name] for name in self.names(key)]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def sharded(self, key: str) -> bool:
        """Whether a variable consists of several shards."""
        return len(self._shards_by_key[key]) > 1


def _memory_number(memory: str) -> int:
    """The number of a memory layer in its scope; the first has none, which is 0."""
    return int(re.sub(r".*memory_layer_?(\d*)/kernel", r"0\1", memory))


def spec_of(variables: Mapping[str, Any], name: str) -> Spec:
    """The shape and dtype of a variable, from a checkpoint's index or from the array."""
    if isinstance(variables, Checkpoint):
        return variables.spec(name)
    found = variables[name]
    if isinstance(found, Spec):
        return found
    if not isinstance(getattr(found, "dtype", None), np.dtype):
        found = np.asarray(found)
    return Spec(np.shape(found), found.dtype)
