"""Lists the arrays in a model's file, and prints a program that makes cells and params of them.

    python -m jax_dynrnn.interop model.ckpt [--scope decoder]
    python -m jax_dynrnn.interop weights.h5 [--config model.json]

All that is printed is a program, which runs as it is. The format is known by the first bytes:
checkpoints, SavedModels and frozen graphs of TensorFlow, files of Keras, safetensors, `.npz`.
Pickles (`.pt`, `.pkl`) are never loaded.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from . import checkpoint, keras
from ._escape import escaped, shortened
from ._formats.files import graph_file
from ._formats.graph_nodes import read_nodes
from ._formats.kinds import GRAPH_DEF, HDF5, KERAS_ZIP, NPZ, SAFETENSORS, file_kind
from ._formats.npz import read_npz_specs
from ._formats.safetensors import read_safetensors_specs
from ._keras.cells import infer_cells
from ._keras.layers import layers_of_names
from ._keras.program import program_lines as keras_lines
from ._keras.stored import is_keras
from ._tf1.graph_cells import OPS, GraphCells
from ._tf1.kinds import kind
from ._tf1.program import Limits, Source, Specs, is_within, relevant_names
from ._tf1.program import program_lines as tf1_lines
from ._tf1.recognise import needed_bytes
from ._tf1.table import spec_of
from ._torch_program import find_modules
from ._torch_program import program_lines as torch_lines

MAX_WIDTH = 100
"""Of a column, in characters: longer names are printed, but do not widen the rows of others."""
MAX_LISTED = 8  # outermost scopes in an error message


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
    names = [name for name in variables if is_within(name, scope)]
    if not names:
        raise ValueError(_nothing_message(variables, scope))
    unreadable: set[str] = set()
    yield from _list_lines(variables, names, unreadable, is_graph=file_format == GRAPH_DEF)
    specs = Specs(variables, relevant_names(variables, scope, unreadable))
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
    yield from tf1_lines(Source(variables, read_code, specs, scope, limits, graph))
    if problem:
        yield f"# the graph is not used: {problem}"


def _graph(path: str, file_format: str) -> tuple[GraphCells | None, str]:
    """The graph in a file, or beside a checkpoint, or why it is not used."""
    if file_format in (NPZ, SAFETENSORS):
        return None, ""
    file, form = (path, "graph") if file_format == GRAPH_DEF else graph_file(path)
    if not os.path.isfile(file):
        return None, ""
    try:
        return GraphCells(read_nodes(file, OPS, form=form)), ""
    except checkpoint.CheckpointError as error:
        return None, str(error)


def _keras_lines(path: str, config: str | None) -> Iterator[str]:
    """Yields the arrays of a file of Keras, and the program for its recurrent layers."""
    layers = keras.read(path, config)
    for layer in layers.values():
        for name, array in layer.weights.items():
            row = shortened(layer.name), shortened(name), str(list(array.shape)), str(array.dtype)
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
    listed = ", ".join(shortened(name) for name in outermost[:MAX_LISTED])
    more = f" and {len(outermost) - MAX_LISTED} more" if len(outermost) > MAX_LISTED else ""
    return f"expected a scope with variables, got --scope {scope}; there are {listed}{more}"


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
    return shortened(name), str(list(spec.shape)), str(spec.dtype), of_kind


def _unreadable_row(name: str, error: ValueError) -> Row:
    return shortened(name), "", "", f"{kind(name)}: {error}"


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


if __name__ == "__main__":
    main()
