"""Cycles and memory traffic of a program for a TPU, from what its compiler writes of it.

libtpu writes on request (`DUMP`) the schedule of each operation of a program: a list of bundles of
instructions, of which a core issues one in a cycle, empty ones included, in which it waits for its
own units. So an operation takes its bundles, each as often as the loops around it run. Added to
that are the HBM's latency and bandwidth, where the program's text says that arrays are there; a
copy beside operations is waited for where its result is needed.

What is not counted: the scalar code between operations (some tens of cycles for each iteration of a
loop), and all that only a chip could tell.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from pathlib import Path
from typing import NamedTuple

from .collectives import computations

DUMP = (
    "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=packed-bundles-post-ra$"
)
"""Flags of libtpu that write the bundles of a program into a folder."""


class Chip(NamedTuple):
    """What it takes to copy from and to the HBM, in cycles."""

    bytes_per_cycle: float
    """The published bandwidth by an assumed clock."""
    read_latency: int
    """Of small copies, as they are in libtpu's static profiles."""
    write_latency: int


CHIPS = {"v5e": Chip(819 / 1.5, 1139, 437), "v6e": Chip(1640 / 1.75, 548, 452)}


class Cost(NamedTuple):
    cycles: float
    hbm_bytes: float


_OPERATION = re.compile(
    r"^\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*?)\)(.*)$", re.MULTILINE
)
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]\{([\d,]*)(?::([^}]*))?\}")
_CALLED = re.compile(r"(calls|body|condition)=%?([\w.-]+)")
_UNRELATED = re.compile(r", (calls|to_apply|metadata|backend_config)=.*")
_NOT_EXECUTED = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "custom-call", "after-all"),
    *("opt-barrier", "partition-id"),
}
"""What is no code. The custom calls that are no kernels only name memory."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of a program's text."""

    is_root: bool
    name: str
    type: str
    kind: str
    arguments: str
    rest: str

    @functools.cached_property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.arguments)

    @functools.cached_property
    def called(self) -> dict[str, str]:
        """The computations that it calls, by their part in it."""
        return dict(_CALLED.findall(self.rest))

    @property
    def is_kernel(self) -> bool:
        """Whether it is a Pallas kernel."""
        return "tpu_custom_call" in self.rest

    @property
    def is_scalar(self) -> bool:
        """Whether it is computed by the scalar core, or by one vector operation."""
        return all(math.prod(array.sizes) <= 1 for array in arrays(self.type))


class Schedule:
    """A compiled program.

    Args:
        text: `compiled.as_text()`.
        folder: where libtpu wrote its bundles.
        chip: what copies take.
        dynamic_trips: how often a loop runs whose end is computed at run time.
    """

    def __init__(self, text: str, folder: Path, chip: Chip, dynamic_trips: int):
        self.chip, self.dynamic_trips = chip, dynamic_trips
        self.entry = re.findall(r"^ENTRY %?([\w.-]+)", text, re.MULTILINE)[0]
        self.computations: dict[str, dict[str, Operation]] = {}
        """The operations of each computation by name, in the order in which they run."""
        for name, body in computations(text).items():
            found = (Operation(bool(m[1]), *m.groups()[1:]) for m in _OPERATION.finditer(body))
            self.computations[name] = {operation.name: operation for operation in found}
        self._numbers: dict[tuple, int] = {}
        self._bundles = self._known_bundles(folder)

    def cost(self, computation: str | None = None) -> Cost:
        """The cost of a computation; `None`: of the whole program."""
        computation = computation or self.entry
        time = total_bytes = bus_is_free = 0.0
        arrivals: dict[str, float] = {}
        for operation in self.computations[computation].values():
            if operation.kind.endswith("-start"):
                size = min(filter(None, map(padded_bytes, arrays(operation.type))))
                bus_is_free = max(time, bus_is_free) + size / self.chip.bytes_per_cycle
                arrivals[operation.name] = bus_is_free + self.chip.read_latency
                total_bytes += size
            elif operation.kind.endswith("-done"):
                time = max(time, arrivals[operation.operands[0]])
            elif operation.kind == "while":
                trips = self._trips(computation, operation)
                cycles, size = self.cost(operation.called["body"])
                time, total_bytes = time + trips * cycles, total_bytes + trips * size
            elif operation.is_kernel or not (
                operation.is_scalar or operation.kind in _NOT_EXECUTED
            ):
                cycles, size = self._operation_cost(computation, operation)
                time, total_bytes = time + cycles, total_bytes + size
        return Cost(time, total_bytes)

    def _operation_cost(self, computation: str, operation: Operation) -> Cost:
        read, written = self._hbm_bytes(computation, operation)
        copies = (read + written) / self.chip.bytes_per_cycle
        bundles = self._bundles.get(self._number(computation, operation))
        if bundles is None:
            raise ValueError(f"libtpu wrote no bundles of {operation.kind} {operation.name}")
        latency = self.chip.write_latency if written else 0
        latency = self.chip.read_latency if read else latency
        # Arrays come in windows: while one is computed, the next is copied. Kernels have many.
        first_window = 0 if operation.is_kernel else min(bundles, copies) / windows_of(operation)
        return Cost(latency + max(bundles, copies) + first_window, read + written)

    def _trips(self, computation: str, loop: Operation) -> int:
        """The iterations of a loop that counts from 0."""
        condition = self.computations[loop.called["condition"]]
        root = next(operation for operation in condition.values() if operation.is_root)
        bound = condition[root.operands[1]] if root.kind == "compare" else root
        if root.kind != "compare" or "direction=LT" not in root.rest:
            raise ValueError(f"the end of {loop.name} was not found")
        if bound.kind == "get-tuple-element":  # the bound is what the loop was given
            given = self.computations[computation]
            index = int(re.findall(r"index=(\d+)", bound.rest)[0])
            bound = given[given[loop.operands[0]].operands[index]]
        return int(bound.arguments) if bound.kind == "constant" else self.dynamic_trips

    def _number(self, computation: str, operation: Operation) -> int:
        """A number that operations share which do the same with the same types: libtpu compiles
        only one of them."""
        types = self.computations[computation]
        of_operands = tuple(types[name].type for name in operation.operands)
        return self._numbered(operation, of_operands, {})

    def _numbered(self, operation: Operation, operands: tuple, seen: dict[str, int]) -> int:
        inside = self.computations.get(operation.called.get("calls", ""), {})
        called = [self._numbered_inside(o, inside, seen) for o in inside.values() if o.is_root]
        own = "" if operands else operation.arguments
        attributes = _UNRELATED.sub("", operation.rest)
        key = (operation.type, operation.kind, own, attributes, operands, *called)
        return self._numbers.setdefault(key, len(self._numbers))

    def _numbered_inside(
        self, operation: Operation, around: dict[str, Operation], seen: dict[str, int]
    ) -> int:
        """The number of an operation of a fusion, by those that it depends on."""
        if operation.name not in seen:
            operands = (self._numbered_inside(around[o], around, seen) for o in operation.operands)
            seen[operation.name] = self._numbered(operation, tuple(operands), seen)
        return seen[operation.name]

    def _known_bundles(self, folder: Path) -> dict[int, float]:
        """How many bundles libtpu wrote for each operation, by the number of the operation."""
        pattern = re.compile(r"\d+-(.*)-\d+-packed-bundles-post-ra\.txt")
        names = {m[1]: path for path in folder.iterdir() if (m := pattern.fullmatch(path.name))}
        return {
            self._number(computation, operation): issued_bundles(
                names[name].read_text(), None if operation.is_kernel else windows_of(operation)
            )
            for computation, operations in self.computations.items()
            for name, operation in operations.items()
            if name in names
        }

    def _hbm_bytes(self, computation: str, operation: Operation) -> tuple[float, float]:
        """The bytes that an operation reads from the HBM, and that it writes."""
        types = self.computations[computation]
        read = sum(
            self._read_bytes(operation, i, padded_bytes(array))
            for i, operand in enumerate(operation.operands)
            for array in arrays(types[operand].type)
            if array.in_hbm
        )
        written = sum(self._written_bytes(operation, a) for a in arrays(operation.type) if a.in_hbm)
        return read, written

    def _read_bytes(self, operation: Operation, number: int, whole: float) -> float:
        """The bytes of operand `number` that are read: all, or those of slices."""
        if operation.kind == "dynamic-update-slice" and number == 0:
            return 0  # it is updated in place
        if operation.kind in ("dynamic-slice", "slice"):
            return min(whole, sum(map(padded_bytes, arrays(operation.type))))
        if operation.kind != "fusion":
            return whole
        inside = self.computations[operation.called["calls"]]
        (name,) = (
            o.name for o in inside.values() if o.kind == "parameter" and o.arguments == str(number)
        )
        return min(whole, self._read_inside(inside, name, whole))

    def _read_inside(self, inside: dict[str, Operation], name: str, whole: float) -> float:
        total = 0.0
        for user in inside.values():
            for i, operand in enumerate(user.operands):
                if operand != name:
                    continue
                if user.kind == "bitcast" and not user.is_root:
                    total += self._read_inside(inside, user.name, whole)
                else:
                    total += self._read_bytes(user, i, whole)
        return total

    def _written_bytes(self, operation: Operation, result: Array) -> float:
        """The bytes of one result that are written: all, or those of an update."""
        inside = self.computations.get(operation.called.get("calls", ""), {})
        updates = [
            padded_bytes(arrays(inside[o.operands[1]].type)[0])
            for o in inside.values()
            if o.kind == "dynamic-update-slice" and arrays(o.type)[0].sizes == result.sizes
        ]
        return min([padded_bytes(result), *updates])


class Array(NamedTuple):
    """The type of an array, as a program's text has it."""

    item_bytes: int
    sizes: tuple[int, ...]
    """From the axis that varies fastest to the one that varies slowest."""
    tile: tuple[int, ...]
    """In the same order."""
    in_hbm: bool


def arrays(text: str) -> list[Array]:
    """The arrays of a type, which may be a tuple."""
    found = []
    for letters, bits, sizes, order, layout in _ARRAY.findall(text):
        shape = [int(n) for n in sizes.split(",") if n]
        fastest_first = [shape[int(axis)] for axis in order.split(",") if axis]
        tile = re.match(r"T\(([\d,]+)\)", layout)
        found.append(
            Array(
                item_bytes=1 if letters == "pred" else max(1, int(bits) // 8),
                sizes=tuple(fastest_first),
                tile=tuple(int(n) for n in reversed(tile[1].split(","))) if tile else (),
                in_hbm=bool(fastest_first) and "S(" not in layout,
            )
        )
    return found


def padded_bytes(array: Array) -> int:
    """The bytes that are moved: whole tiles. None for a scalar."""
    sizes = [
        math.ceil(size / tile) * tile if tile else size
        for size, tile in zip(array.sizes, [*array.tile, *[0] * len(array.sizes)], strict=False)
    ]
    return array.item_bytes * math.prod(sizes) if sizes else 0


def windows_of(operation: Operation) -> int:
    """The windows in which an operation copies its arrays."""
    found = re.search(r'"iteration_bounds":\[([\d",]+)\]', operation.rest)
    return math.prod(map(int, re.findall(r"\d+", found[1]))) if found else 1


_BUNDLE = re.compile(r"^\s*(0x[0-9a-f]+|0)\s+(?:[A-Z]{2})?\s*:[ >]*\{", re.MULTILINE)
_BRANCH = re.compile(r"sbr\.rel .*?target bundleno = (\d+)")
_LOOP_END = re.compile(r"scmp\.ge\.s32\.totalorder %\w+, (\d+) /\* loop exit test \*/")
_DELAY = 5
"""Bundles from a branch to the first that it may leave out."""


def issued_bundles(listing: str, windows: int | None) -> float:
    """The bundles that an operation issues.

    The outer loop of an operation with several windows runs over these, and once or twice more:
    then arrays are only copied. `None` stands for a Pallas kernel, whose windows are the blocks of
    its grid, with two more iterations. Of what our kernels run on a condition, only the longest
    part is counted: the others are for the first block, or for blocks past the longest row.
    """
    starts = [*_BUNDLE.finditer(listing)]
    ends = [m.start() for m in starts[1:]] + [len(listing)]
    bundles = [listing[m.end() : end] for m, end in zip(starts, ends, strict=True)]
    branches = [(i, int(m[1])) for i, text in enumerate(bundles) for m in _BRANCH.finditer(text)]
    loops = [range(target, i + _DELAY) for i, target in branches if target <= i]
    trips = dict.fromkeys(loops, 1)
    for i, text in enumerate(bundles):
        for count in _LOOP_END.findall(text):
            trips[min((loop for loop in loops if i in loop), key=len)] = int(count)
    outer, rare = max(loops, key=len, default=None), []
    if outer and windows != 1:
        trips[outer] = windows or trips[outer] - 2
    if windows is None:
        parts = [range(i + _DELAY, target) for i, target in branches if target > i + _DELAY]
        rare = [r for r in parts if any(_apart(r, o) and len(o) > len(r) for o in parts)]
    return sum(
        math.prod(count for loop, count in trips.items() if i in loop)
        for i in range(len(bundles))
        if not any(i in part for part in rare)
    )


def _apart(one: range, other: range) -> bool:
    return one.stop <= other.start or other.stop <= one.start
