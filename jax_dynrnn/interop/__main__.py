"""What is in a TensorFlow 1 checkpoint, and which cells its variables fit.

    python -m jax_dynrnn.interop model.ckpt [--scope decoder]

lists the variables, then prints the code that makes params of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from . import checkpoint
from ._code import code
from ._escape import escaped
from ._formats.npz import read_npz_specs
from ._formats.tensors import Spec
from ._tf1.kinds import kind
from ._tf1.match import fit
from ._tf1.recognise import Found, recognised
from ._tf1.scopes import as_run
from ._tf1.shapes import seen
from ._tf1.table import Table, spec_of

MOST_WIDTH = 100
"""Of a column; names may be longer, and those of others are not padded to their length."""


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m jax_dynrnn.interop", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("checkpoint", help="the prefix of its files, a frozen .pb, or an .npz")
    parser.add_argument("--scope", default="", help="only what is in this scope")
    given = parser.parse_args(arguments)
    scope = given.scope.strip("/")
    try:
        variables, read = _read(given.checkpoint)
        names = [name for name in variables if _within(name, scope)]
        if not names:
            raise ValueError(_nothing(variables, scope))
        specs = {name: _spec(variables, name, _within(name, scope)) for name in variables}
        for line in _listed(specs, names):
            print(escaped(line))
        table = Table({n: spec for n, spec in specs.items() if not isinstance(spec, ValueError)})
        found = [one for one in recognised(table) if _within(table.scope(one.scope), scope)]
        for line in _code(variables, read, found, table):
            print(escaped(line))
    except (OSError, ValueError) as error:
        sys.exit(escaped(f"{given.checkpoint}: {error}"))


def _nothing(variables: Mapping[str, Any], scope: str) -> str:
    if not variables:
        return "there are no variables in it"
    outermost = sorted({name.partition("/")[0] for name in variables})
    return f"expected a scope with variables, got --scope {scope}; there are {', '.join(outermost)}"


def _within(name: str, scope: str) -> bool:
    return not scope or f"{name}/".startswith(f"{scope}/")


def _read(path: str) -> tuple[Mapping[str, Any], str]:
    """The variables of a file, or the spec of each; and the code that reads them."""
    if path.endswith(".npz"):
        return read_npz_specs(path), f"dict(np.load({path!r}))"
    if path.endswith(".pb"):
        return checkpoint.read_graph_def(path), f"checkpoint.read_graph_def({path!r})"
    return checkpoint.read_checkpoint(path), f"checkpoint.read_checkpoint({path!r})"


def _spec(variables: Mapping[str, Any], name: str, read: bool) -> Spec | ValueError:
    """Shape and dtype of a variable, or why it cannot be read, which is tried with `read`.

    Only one variable at a time is in memory.
    """
    try:
        if read:
            variables[name]
        return spec_of(variables, name)
    except ValueError as error:
        return error


def _listed(specs: Mapping[str, Spec | ValueError], names: list[str]) -> Iterator[str]:
    """A line for each variable: name, shape, dtype, kind; or why it cannot be read."""
    rows = []
    for name in names:
        spec = specs[name]
        if isinstance(spec, ValueError):
            rows.append((escaped(name), "", "", f"{kind(name)}: {spec}"))
        else:
            rows.append((escaped(name), str(list(spec.shape)), str(spec.dtype), kind(name)))
    widths = [min(max(map(len, column)), MOST_WIDTH) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _code(
    variables: Mapping[str, Any], read: str, found: list[Found], table: Table
) -> Iterator[str]:
    """The lines that make params of what was recognised."""
    yield ""
    yield "import numpy as np"
    yield ""
    yield "import jax_dynrnn as rnn"
    yield "from jax_dynrnn.interop import checkpoint, tf1"
    yield ""
    yield f"variables = {read}"
    if any(kind(name) == "average" for name in variables):
        yield "# the averages of the weights: variables = checkpoint.moving_averages(variables)"
    if not found:
        yield "# no cells were recognised by their names"
        return
    yield "# forget_bias, activations and clips are not in variables: add them to the cells"
    yield "cells = {"
    for scope, cells in found:
        yield f"    {_run(table, scope, cells)}"
    yield "}"
    yield "params = {s: tf1.import_params(c, variables, s) for s, c in cells.items()}"


def _run(table: Table, scope: str, cells: Any) -> str:
    """An entry of `cells`, or a comment that says why there is none."""
    place = table.scope(scope)
    if isinstance(cells, type):
        return f"# {place}: {cells.__name__}, whose sizes cannot all be told from its variables"
    try:
        _, named, keys = fit(cells, table.within(scope), place)
    except (KeyError, ValueError) as error:
        return f"# {place}: {code(cells)} does not fit: {error.args[0]}"
    shapes = {path: named.spec(key).shape for path, key in keys.items()}
    return f"{place!r}: {code(cells)},  # sees {seen(as_run(cells), shapes)}"


if __name__ == "__main__":
    main()
