"""Prints a program that makes cells and params of the variables of a TensorFlow 1 model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..._types import Cells
from .._code import code
from .._escape import MAX_LENGTH, escaped, shortened
from .._formats.tensors import Spec
from .graph_cells import GraphCells
from .kinds import MAX_SCOPES, kind, moving_averages
from .match import fit
from .names import canonical, is_memory
from .recognise import Found, is_too_long, needed_bytes, recognised
from .scopes import Run, as_run, cells_inside
from .shapes import describe_inputs, placeholder
from .table import CanonicalWeights, spec_of

MAX_LISTED = 1000
"""Scopes, and weights in each, that are left out and listed."""
OPAQUE = (
    ", all weights of a layer in the layout of cuDNN, which is not read: a tf.train.Saver without "
    "var_list, made after the layer was built, saves them by name"
)
FUNCTIONS = {
    "rnn": "dynamic_rnn",
    "bidirectional_rnn": "bidirectional_dynamic_rnn",
    "stack_bidirectional_rnn": "stack_bidirectional_dynamic_rnn",
}
"""The functions that run cells, by the default scope of the run."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far the command goes in a large file."""

    weights_bytes: int = 16 << 20
    """The memory for the names and shapes that are searched for cells, besides the file's index."""
    found: int = 1000
    """The runs that are printed."""


class Specs(Mapping[str, Spec]):
    """A mapping from names to specs, each of which is computed when it is looked up."""

    def __init__(self, variables: Mapping[str, Any], names: Iterable[str]):
        self._variables, self._names = variables, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Spec:
        return spec_of(self._variables, name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Source(NamedTuple):
    """The file that a program is printed for, and the part of it that is looked at."""

    variables: Mapping[str, Any]
    """All variables of the file."""
    read_code: str
    """The code that reads them."""
    specs: Specs
    """Shapes and dtypes of the variables that may belong to cells."""
    scope: str
    """The scope in which cells are searched; empty for all."""
    limits: Limits
    graph: GraphCells | None
    """The graph of the model, if it is known."""


class Entry(NamedTuple):
    """What is printed for the cells of one run."""

    text: str
    """Of the printed `cells`; without cells, a comment with the reason."""
    call: str | None = None
    """The line that runs them."""
    keys: tuple[str, ...] = ()
    """The canonical names of their variables."""


def is_within(name: str, scope: str) -> bool:
    """Whether a name or scope lies in `scope`; every one lies in the empty scope."""
    return not scope or f"{name}/".startswith(f"{scope}/")


def relevant_names(variables: Mapping[str, Any], scope: str, unreadable: set[str]) -> list[str]:
    """The names among which cells of a scope are looked for, sorted as `needed_bytes` expects."""
    return sorted(
        name
        for name in variables
        if name not in unreadable
        and not is_too_long(name)
        # An attention's memory layer is made outside of the scope of its run.
        and (is_within(name, scope) or is_memory(canonical(name)[0]))
    )


def program_lines(source: Source) -> Iterator[str]:
    """Yields the lines of a program that makes params of the cells recognised in a scope."""
    body = list(_body(source))
    yield ""
    yield from (
        f"import {x}" for x in ("collections", "functools") if any(f"{x}." in y for y in body)
    )
    yield "import jax"
    yield "import jax.numpy as jnp"
    yield "import numpy as np"
    yield ""
    yield "import jax_dynrnn as rnn"
    yield "from jax_dynrnn.interop import checkpoint, tf1"
    yield ""
    yield from body


def _body(source: Source) -> Iterator[str]:
    """Yields the lines after the imports."""
    variables, read_code, specs, scope, limits, graph = source
    if needed_bytes(specs) > limits.weights_bytes:
        yield f"variables = {read_code}"
        yield f"# {len(specs)} variables are too many to find cells among; use --scope"
        return
    weights, found = _recognised(specs, source)
    averages = any(kind(name) == "average" for name in variables)
    if averages and not found:
        # An export for inference may have the averages alone.
        weights, found = _recognised(moving_averages(specs), source)
        read_code = f"checkpoint.moving_averages({read_code})" if found else read_code
    yield f"variables = {read_code}"
    if averages and "moving_averages" not in read_code:
        yield "# the averages of the weights: variables = checkpoint.moving_averages(variables)"
    if any(map(is_too_long, variables)):
        yield f"# names above {MAX_LENGTH} characters or {MAX_SCOPES} scopes are not searched"
    if len(found) > limits.found:
        yield f"# there are more cells than these {limits.found}; use --scope for others"
    if not found:
        yield "# no cells were recognised by their names"
        return
    yield from _learned_lines(weights)
    yield from _option_lines(graph)
    yield from _cells_lines(weights, scope, found[: limits.found])


def _recognised(specs: Mapping[str, Spec], source: Source) -> tuple[CanonicalWeights, list[Found]]:
    """The weights among variables, and the cells in a scope, one more than may be printed."""
    weights = CanonicalWeights(specs, source.graph)
    found = recognised(weights, source.limits.found + 1)
    return weights, [run for run in found if is_within(weights.scope(run.scope), source.scope)]


def _learned_lines(weights: CanonicalWeights) -> Iterator[str]:
    """The lines that rename variables that are learned initial states."""
    if weights.aliases:
        yield "# learned initial states, by the graph"
        named = (f"{key!r}: variables[{name!r}]" for key, name in weights.aliases.items())
        yield f"variables = collections.ChainMap({{{', '.join(named)}}}, variables)"


def _option_lines(graph: GraphCells | None) -> Iterator[str]:
    """Comments on the options of the cells."""
    if graph is None:
        yield "# forget_bias, activations and clips are not in variables: add them to the cells"
        return
    yield "# forget_bias, activations and clips are those of the graph"
    for kernel in graph.missing:
        yield f"# (add them to the cell of {escaped(kernel)}, whose operations were not found)"
    for kernel in graph.started:
        yield f"# the graph gives the cell of {escaped(kernel)} a state: pass initial_state="


def _cells_lines(weights: CanonicalWeights, scope: str, found: list[Found]) -> Iterator[str]:
    """Yields the cells, their params and calls, and comments on what is left out."""
    entries = [_entry(weights, run) for run in found]
    yield "cells = {"
    yield from (f"    {entry.text}" for entry in entries)
    yield "}"
    yield "params = {s: tf1.import_params(c, variables, s) for s, c in cells.items()}"
    calls = [entry.call for entry in entries if entry.call]
    if calls:
        yield "# calls, with placeholders for the inputs, and for a memory: [batch, time, features]"
    yield from calls
    used = {key for entry in entries for key in entry.keys}
    units = {size for run in found for size in _units(run.cells)}
    yield from _left_out(weights, scope, used, units)


def _left_out(
    weights: CanonicalWeights, scope: str, used: set[str], units: set[Any]
) -> Iterator[str]:
    """Comments on the weights that belong to no printed cell, by scope; no optimizer's slots.

    Args:
        used: the canonical names of the weights in printed cells.
        units: `num_units` of each of these cells.
    """
    others: dict[str, list[str]] = {}
    renamed = set(weights.aliases.values())
    for key in weights:
        name = escaped(weights.names(key)[0]).removesuffix("/part_0")
        if key in used or not weights.is_weight(key) or not is_within(name, scope):
            continue
        if renamed.intersection(weights.names(key)):
            continue
        around, _, last = name.rpartition("/")
        shape = list(weights.spec(key).shape)
        others.setdefault(around, []).append(f"{last} {shape}{_remark(weights, key, last, units)}")
    if others:
        yield ""
        yield "# What this program leaves out, in variables:"
    for around, found in itertools.islice(others.items(), MAX_LISTED):
        listed = "; ".join(map(shortened, found[:MAX_LISTED]))
        yield f"#   {shortened(around) or 'in no scope'}: {listed}"
    if len(others) > MAX_LISTED:
        yield f"#   and more, in {len(others) - MAX_LISTED} other scopes"


def _remark(weights: CanonicalWeights, key: str, last: str, units: set[Any]) -> str:
    """What is said of a weight that is left out.

    Args:
        weights: of the model.
        key: the canonical name of the weight.
        last: the last part of its own name.
        units: `num_units` of each printed cell.
    """
    *lead, size = weights.spec(key).shape
    if last == "opaque_kernel":
        return OPAQUE
    if last == "moving_variance" and weights.graph is not None:
        epsilon = weights.graph.epsilon(weights.names(key))
        return "" if epsilon is None else f", with epsilon {epsilon}"
    # A vector as long as a state is, with or without a batch axis.
    is_row = lead in ([], [1]) and size in units and "bias" not in last
    return ", perhaps of an rnn.LearnedInitialState" if is_row else ""


def _units(cells: Cells) -> set[Any]:
    """`num_units` of every cell in a run; none for a class, whose sizes are unknown."""
    if isinstance(cells, type):
        return set()
    inside = (cell for _, outer in as_run(cells).cells for cell in cells_inside(outer))
    return {getattr(cell, "num_units", None) for cell in inside}


def _entry(weights: CanonicalWeights, found: Found) -> Entry:
    """What is printed for the cells of one run."""
    scope, cells = weights.scope(found.scope), found.cells
    if isinstance(cells, type):
        reason = "whose sizes cannot all be inferred from its variables"
        return Entry(f"# {scope}: {cells.__name__}, {reason}")
    try:
        _, named, keys = fit(cells, weights.within(found.scope), scope)
    except (KeyError, ValueError) as error:
        return Entry(f"# {scope}: {code(cells)} does not fit: {error.args[0]}")
    shapes = {path: named.spec(key).shape for path, key in keys.items()}
    run = as_run(cells)
    kernels = [named.names(key) for key in keys.values() if key.endswith(("kernel", "kernel_w"))]
    time_major = weights.graph is not None and weights.graph.time_major(kernels)
    return Entry(
        f"{scope!r}: {code(cells)},  # takes {describe_inputs(run, shapes)}",
        _call(run, repr(scope), placeholder(run, shapes, time_major), time_major),
        tuple(keys.values()),
    )


def _call(run: Run, scope: str, inputs: str, time_major: bool) -> str:
    """The line that runs the cells of a scope."""
    params, option = f"params[{scope}]", ", time_major=True" if time_major else ""
    sizes = [size for _, cell in run.cells for size in _memory_sizes(cell)]
    if sizes:
        memories = [f"jnp.ones({(1, 12, size)})" for size in sizes]
        memory = memories[0] if len(set(sizes)) == 1 else f"[{', '.join(memories)}]"
        params = f"cells[{scope}].attend({params}, {memory})"
    given = f"cells[{scope}], {params}, {inputs}{option}"
    if run.scope == "rnn":
        return f"outputs, state = rnn.dynamic_rnn({given})"
    return f"outputs, *states = rnn.{FUNCTIONS[run.scope]}(*{given})"


def _memory_sizes(cell: Any) -> list[Any]:
    """The number of features of each memory that a cell attends to."""
    mechanisms = [m for x in cells_inside(cell) for m in getattr(x, "mechanisms", {}).values()]
    return [mechanism.memory_size for mechanism in mechanisms]
