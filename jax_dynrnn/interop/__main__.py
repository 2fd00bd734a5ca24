"""Lists the arrays in a model's file, and prints a program that makes cells and params of them.

    python -m jax_dynrnn.interop model.ckpt [--scope decoder]
    python -m jax_dynrnn.interop weights.h5 [--config model.json]

All that is printed is a program, which runs as it is. The format is known by the first bytes:
checkpoints, SavedModels and frozen graphs of TensorFlow, files of Keras, safetensors, `.npz`.
Pickles (`.pt`, `.pkl`) are never loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .._types import Cells
from . import checkpoint, keras
from ._code import code
from ._escape import escaped
from ._formats.files import without_suffix
from ._formats.graph_nodes import read_nodes
from ._formats.kinds import GRAPH_DEF, HDF5, KERAS_ZIP, NPZ, SAFETENSORS, file_kind
from ._formats.npz import read_npz_specs
from ._formats.safetensors import read_safetensors_specs
from ._formats.tensors import Spec
from ._keras.cells import infer_cells
from ._keras.layers import layers_of_names
from ._keras.program import program_lines as keras_lines
from ._keras.stored import is_keras
from ._tf1.graph import OPS, Graph
from ._tf1.kinds import MAX_SCOPES, kind
from ._tf1.match import fit
from ._tf1.names import canonical, is_memory
from ._tf1.recognise import MAX_LENGTH, is_too_long, needed_bytes, recognised
from ._tf1.scopes import Run, as_run, cells_inside
from ._tf1.shapes import describe_inputs, placeholder
from ._tf1.table import CanonicalWeights, spec_of
from ._torch_program import find_modules
from ._torch_program import program_lines as torch_lines

MAX_LISTED = 1000
"""Scopes, and weights in each, that are left out and listed."""
MAX_WIDTH = 100
"""Of a column, in characters: longer names are printed, but do not widen the rows of others."""
MAX_LISTED = 8  # outermost scopes in an error message


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far the command goes in a large file."""

    weights_bytes: int = 16 << 20
    """The memory for the names and shapes that are searched for cells, besides the file's index."""
    found: int = 1000
    """The runs that are printed."""


def main(arguments: list[str] | None = None, limits: Limits | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        "python -m jax_dynrnn.interop", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("file", help="a file of weights, or the prefix or folder of a checkpoint")
    parser.add_argument("--scope", default="", help="list only variables of TensorFlow in it")
    parser.add_argument("--config", help="the JSON of a Keras model, for files without it")
    options = parser.parse_args(arguments)
    limits = limits or Limits()
    try:
        # Names come from the file, which may be anyone's: all output is escaped.
        for line in _lines(options, limits):
            print(escaped(line))
        sys.stdout.flush()
    except ImportError as error:
        # The file needs a package that is not installed; the message says which.
        sys.exit(escaped(error))
    except BrokenPipeError:
        # The reader of the pipe, such as `head`, has closed it. Python flushes stdout once more on
        # exit, which must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError) as error:
        message = escaped(error)
        named = message.startswith(escaped(options.file))
        sys.exit(message if named else f"{escaped(options.file)}: {message}")


def _lines(options: argparse.Namespace, limits: Limits) -> Iterator[str]:
    """Yields what the command prints for a file."""
    scope, path = options.scope.strip("/"), options.file
    file_format = file_kind(path)
    if file_format in (HDF5, KERAS_ZIP):
        yield from _keras_lines(path, options.config)
        return
    variables, read_code = _read(path, file_format)
    if isinstance(variables, checkpoint.Checkpoint) and is_keras(variables):
        yield from _keras_lines(path, options.config)
        return
    names = [name for name in variables if _is_within(name, scope)]
    if not names:
        raise ValueError(_nothing_message(variables, scope))
    unreadable: set[str] = set()
    yield from _list_lines(variables, names, unreadable, is_graph=file_format == GRAPH_DEF)
    specs = _Specs(variables, _relevant(variables, scope, unreadable))
    if file_format in (NPZ, SAFETENSORS) and needed_bytes(sorted(specs)) <= limits.weights_bytes:
        modules = find_modules(specs)
        if modules:
            yield ""
            yield from torch_lines(modules, specs, read_code, limits.found)
            return
        layers = layers_of_names(specs)
        # Cells of TensorFlow 1 have a `recurrent_kernel` too.
        if any(infer_cells(layer.weights) for layer in layers.values()):
            yield ""
            yield from keras_lines(layers, read_code, by_name=True)
            return
    graph, problem = _graph(path, file_format)
    yield from _code_lines(variables, read_code, scope, unreadable, limits, graph)
    if problem:
        yield f"# the graph is not used: {problem}"


def _graph(path: str, file_format: str) -> tuple[Graph | None, str]:
    """The graph in a file, or beside a checkpoint, or why it is not used."""
    is_meta = file_format != GRAPH_DEF
    file = f"{without_suffix(path)}.meta" if is_meta else path
    if file_format in (NPZ, SAFETENSORS) or not os.path.isfile(file):
        return None, ""
    try:
        return Graph(read_nodes(file, OPS, meta=is_meta)), ""
    except checkpoint.CheckpointError as error:
        return None, str(error)


def _keras_lines(path: str, config: str | None) -> Iterator[str]:
    """Yields the arrays of a file of Keras, and the program for its recurrent layers."""
    layers = keras.read(path, config)
    for layer in layers.values():
        for name, array in layer.weights.items():
            row = _shortened(layer.name), _shortened(name), str(list(array.shape)), str(array.dtype)
            yield f"# {'  '.join(row)}"
    if not any(layer.weights for layer in layers.values()):
        raise ValueError("there are no arrays in it")
    given = f", {config!r}" if config else ""
    yield ""
    yield from keras_lines(layers, f"interop.keras.read({path!r}{given})")


def _nothing_message(variables: Mapping[str, Any], scope: str) -> str:
    """The error message for a scope, or a file, without variables."""
    if not variables:
        return "there are no variables in it"
    outermost = sorted({name.partition("/")[0] for name in variables})
    listed = ", ".join(_shortened(name) for name in outermost[:MAX_LISTED])
    more = f" and {len(outermost) - MAX_LISTED} more" if len(outermost) > MAX_LISTED else ""
    return f"expected a scope with variables, got --scope {scope}; there are {listed}{more}"


def _is_within(name: str, scope: str) -> bool:
    """Whether a name or scope lies in `scope`; every one lies in the empty scope."""
    return not scope or f"{name}/".startswith(f"{scope}/")


def _read(path: str, file_format: str) -> tuple[Mapping[str, Any], str]:
    """Opens a file: its variables, or the spec of each, and the code that reads them."""
    if file_format == NPZ:
        # NumPy would decompress whole arrays, of any size; only their headers are read.
        return read_npz_specs(path), f"dict(np.load({path!r}))"
    if file_format == SAFETENSORS:
        return read_safetensors_specs(path), f"checkpoint.read_safetensors({path!r})"
    if file_format == GRAPH_DEF:
        return checkpoint.read_graph_def(path), f"checkpoint.read_graph_def({path!r})"
    return checkpoint.read_checkpoint(path), f"checkpoint.read_checkpoint({path!r})"


def _shortened(name: str) -> str:
    """A name as it is printed: on one line, and cut at `MAX_LENGTH` characters."""
    return escaped(name[:MAX_LENGTH]) + ("..." if len(name) > MAX_LENGTH else "")


Row = tuple[str, str, str, str]
"""Name, shape, dtype and kind of a variable, as text."""


def _row(variables: Mapping[str, Any], name: str, is_graph: bool) -> Row:
    """The row of a variable; the format's error takes the place of a shape that cannot be read."""
    try:
        spec = spec_of(variables, name)
    except ValueError as error:
        return _unreadable_row(name, error)
    # A frozen graph has weights among constants of all kinds: axes, shapes, epsilons.
    is_constant = is_graph and not (spec.shape and "float" in str(spec.dtype))
    of_kind = "constant" if is_constant else kind(name)
    return _shortened(name), str(list(spec.shape)), str(spec.dtype), of_kind


def _unreadable_row(name: str, error: ValueError) -> Row:
    return _shortened(name), "", "", f"{kind(name)}: {error}"


def _list_lines(
    variables: Mapping[str, Any], names: list[str], unreadable: set[str], is_graph: bool
) -> Iterator[str]:
    """Yields a comment for each variable, and adds the names of unreadable ones to `unreadable`.

    Every variable is read, so that damaged data is found. Only one variable and one row are in
    memory at a time: the widths of the columns are computed in a pass of their own.
    """
    widths = [0, 0, 0, 0]
    for name in names:
        widths = [*map(max, widths, map(len, _row(variables, name, is_graph)))]
    widths = [min(width, MAX_WIDTH) for width in widths]
    for name in names:
        row = _row(variables, name, is_graph)
        try:
            variables[name]
        except ValueError as error:
            unreadable.add(name)
            row = _unreadable_row(name, error)
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        yield f"# {'  '.join(cells)}".rstrip()


class _Specs(Mapping[str, Spec]):
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


def _code_lines(
    variables: Mapping[str, Any],
    read_code: str,
    scope: str,
    unreadable: set[str],
    limits: Limits,
    graph: Graph | None,
) -> Iterator[str]:
    """Yields the lines of code that make params of the cells recognised in a scope."""
    yield ""
    yield "import jax"
    yield "import jax.numpy as jnp"
    yield "import numpy as np"
    yield ""
    yield "import jax_dynrnn as rnn"
    yield "from jax_dynrnn.interop import checkpoint, tf1"
    yield ""
    yield f"variables = {read_code}"
    if any(kind(name) == "average" for name in variables):
        yield "# the averages of the weights: variables = checkpoint.moving_averages(variables)"
    relevant = _relevant(variables, scope, unreadable)
    if needed_bytes(relevant) > limits.weights_bytes:
        yield f"# {len(relevant)} variables are too many to find cells among; use --scope"
        return
    if any(map(is_too_long, variables)):
        yield f"# names above {MAX_LENGTH} characters or {MAX_SCOPES} scopes are not searched"
    weights = CanonicalWeights(_Specs(variables, relevant), graph)
    found = recognised(weights, limits.found + 1)
    found = [run for run in found if _is_within(weights.scope(run.scope), scope)]
    if len(found) > limits.found:
        yield f"# there are more cells than these {limits.found}; use --scope for others"
    if not found:
        yield "# no cells were recognised by their names"
        return
    if graph is None:
        yield "# forget_bias, activations and clips are not in variables: add them to the cells"
    else:
        yield "# forget_bias, activations and clips are those of the graph"
        for kernel in graph.missing:
            yield f"# (add them to the cell of {kernel}, whose operations were not found)"
    calls, used, units = [], set(), set()
    yield "cells = {"
    for scope_name, cells in found[: limits.found]:
        entry, call, keys = _cells_entry(weights, scope_name, cells)
        yield f"    {entry}"
        calls += call
        used.update(keys)
        units |= _units(cells)
    yield "}"
    yield "params = {s: tf1.import_params(c, variables, s) for s, c in cells.items()}"
    if calls:
        yield "# calls, with placeholders for the inputs: [batch, time, features]"
    yield from calls
    yield from _left_out(weights, scope, used, units)


def _left_out(
    weights: CanonicalWeights, scope: str, used: set[str], units: set[Any]
) -> Iterator[str]:
    """Comments on the weights that belong to no printed cell, by scope; no optimizer's slots.

    Args:
        used: the canonical names of the weights in printed cells.
        units: the numbers of units of these cells.
    """
    others: dict[str, list[str]] = {}
    for key in weights:
        name = weights.name(key)
        if key in used or not weights.is_weight(key) or not _is_within(name, scope):
            continue
        *lead, size = weights.spec(key).shape
        around, _, last = name.rpartition("/")
        # A vector as long as a state is, with or without a batch axis.
        is_row = lead in ([], [1]) and size in units and "bias" not in last
        offer = ", perhaps of an rnn.LearnedInitialState" if is_row else ""
        others.setdefault(around, []).append(f"{last} {[*lead, size]}{offer}")
    if others:
        yield ""
        yield "# What this program leaves out, in variables:"
    for around, found in itertools.islice(others.items(), MAX_LISTED):
        listed = "; ".join(map(_shortened, found[:MAX_LISTED]))
        yield f"#   {_shortened(around) or 'in no scope'}: {listed}"
    if len(others) > MAX_LISTED:
        yield f"#   and more, in {len(others) - MAX_LISTED} other scopes"


def _units(cells: Cells) -> set[Any]:
    """`num_units` of every cell in a run; none for a class, whose sizes are unknown."""
    if isinstance(cells, type):
        return set()
    inside = (cell for _, outer in as_run(cells).cells for cell in cells_inside(outer))
    return {getattr(cell, "num_units", None) for cell in inside}


def _relevant(variables: Mapping[str, Any], scope: str, unreadable: set[str]) -> list[str]:
    """The names among which cells of a scope are looked for, sorted as `needed_bytes` expects."""
    return sorted(
        name
        for name in variables
        if name not in unreadable
        and not is_too_long(name)
        # An attention's memory layer is made outside of the scope of its run.
        and (_is_within(name, scope) or is_memory(canonical(name)[0]))
    )


def _cells_entry(
    weights: CanonicalWeights, scope: str, cells: Cells
) -> tuple[str, list[str], list[str]]:
    """An entry of the printed `cells`, the lines that run them, and their canonical names.

    Without cells, the entry is a comment with the reason.
    """
    scope_name = weights.scope(scope)
    if isinstance(cells, type):
        reason = "whose sizes cannot all be inferred from its variables"
        return f"# {scope_name}: {cells.__name__}, {reason}", [], []
    try:
        _, named, keys = fit(cells, weights.within(scope), scope_name)
    except (KeyError, ValueError) as error:
        return f"# {scope_name}: {code(cells)} does not fit: {error.args[0]}", [], []
    shapes = {path: named.spec(key).shape for path, key in keys.items()}
    run = as_run(cells)
    entry = f"{scope_name!r}: {code(cells)},  # takes {describe_inputs(run, shapes)}"
    return entry, [_call(run, repr(scope_name), placeholder(run, shapes))], [*keys.values()]


def _call(run: Run, scope: str, inputs: str) -> str:
    """The line that runs the cells of a scope."""
    if any(getattr(cell, "attends", False) for _, cell in run.cells):
        attended = f"cells[{scope}].attend(params[{scope}], memory)"
        return f"# with a memory: rnn.dynamic_rnn(cells[{scope}], {attended}, {inputs})"
    given = f"cells[{scope}], params[{scope}], {inputs}"
    if run.scope == "rnn":
        return f"outputs, state = rnn.dynamic_rnn({given})"
    function = {
        "bidirectional_rnn": "bidirectional_dynamic_rnn",
        "stack_bidirectional_rnn": "stack_bidirectional_dynamic_rnn",
    }[run.scope]
    return f"outputs, *states = rnn.{function}(*{given})"


if __name__ == "__main__":
    main()
