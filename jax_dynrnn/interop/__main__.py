"""What is in a TensorFlow 1 checkpoint, and which cells its variables fit.

    python -m jax_dynrnn.interop model.ckpt [--scope decoder]

lists the variables, then prints the code that makes params of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .._types import Cells
from . import checkpoint
from ._code import code
from ._escape import escaped
from ._formats.npz import read_npz_specs
from ._formats.tensors import Spec
from ._tf1.kinds import MOST_SCOPES, kind
from ._tf1.match import fit
from ._tf1.names import canonical, is_memory
from ._tf1.recognise import (
    MOST_FOUND,
    MOST_LENGTH,
    is_too_long,
    needed_bytes,
    recognised,
)
from ._tf1.scopes import as_run
from ._tf1.shapes import received
from ._tf1.table import Table, spec_of

MOST_WIDTH = 100
"""Of a column; names may be longer, and those of others are not padded to their length."""
MOST_TABLE_BYTES = 16 << 20
"""Of the table that cells are found in: beside it there is what was read of the file."""
MOST_LISTED = 8


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
        unreadable: set[str] = set()
        for line in _listed(variables, names, unreadable):
            print(escaped(line))
        for line in _code(variables, read, scope, unreadable):
            print(escaped(line))
    except (OSError, ValueError) as error:
        sys.exit(escaped(f"{given.checkpoint}: {error}"))


def _nothing(variables: Mapping[str, Any], scope: str) -> str:
    if not variables:
        return "there are no variables in it"
    outermost = sorted({name.partition("/")[0] for name in variables})
    listed = ", ".join(_shortened(name) for name in outermost[:MOST_LISTED])
    more = f" and {len(outermost) - MOST_LISTED} more" if len(outermost) > MOST_LISTED else ""
    return f"expected a scope with variables, got --scope {scope}; there are {listed}{more}"


def _within(name: str, scope: str) -> bool:
    return not scope or f"{name}/".startswith(f"{scope}/")


def _read(path: str) -> tuple[Mapping[str, Any], str]:
    """The variables of a file, or the spec of each; and the code that reads them."""
    if path.endswith(".npz"):
        return read_npz_specs(path), f"dict(np.load({path!r}))"
    if path.endswith(".pb"):
        return checkpoint.read_graph_def(path), f"checkpoint.read_graph_def({path!r})"
    return checkpoint.read_checkpoint(path), f"checkpoint.read_checkpoint({path!r})"


def _shortened(name: str) -> str:
    """A name to print, on one line."""
    return escaped(name[:MOST_LENGTH]) + ("..." if len(name) > MOST_LENGTH else "")


Row = tuple[str, str, str, str]


def _row(variables: Mapping[str, Any], name: str) -> Row:
    """Name, shape, dtype, kind; or why there is none, which is raised by a file's format."""
    try:
        spec = spec_of(variables, name)
    except ValueError as error:
        return _unreadable_row(name, error)
    return _shortened(name), str(list(spec.shape)), str(spec.dtype), kind(name)


def _unreadable_row(name: str, error: ValueError) -> Row:
    return _shortened(name), "", "", f"{kind(name)}: {error}"


def _listed(variables: Mapping[str, Any], names: list[str], unreadable: set[str]) -> Iterator[str]:
    """A line for each variable, which is read; the names of those that cannot be are added.

    One variable and one row is in memory at a time: the widths of the columns are found first.
    """
    widths = [0, 0, 0, 0]
    for name in names:
        widths = [*map(max, widths, map(len, _row(variables, name)))]
    widths = [min(width, MOST_WIDTH) for width in widths]
    for name in names:
        row = _row(variables, name)
        try:
            variables[name]
        except ValueError as error:
            unreadable.add(name)
            row = _unreadable_row(name, error)
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


class _Specs(Mapping[str, Spec]):
    """The specs of some variables, each made when it is asked for."""

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


def _code(
    variables: Mapping[str, Any], read: str, scope: str, unreadable: set[str]
) -> Iterator[str]:
    """The lines that make params of what is recognised in a scope."""
    yield ""
    yield "import numpy as np"
    yield ""
    yield "import jax_dynrnn as rnn"
    yield "from jax_dynrnn.interop import checkpoint, tf1"
    yield ""
    yield f"variables = {read}"
    if any(kind(name) == "average" for name in variables):
        yield "# the averages of the weights: variables = checkpoint.moving_averages(variables)"
    relevant = _relevant(variables, scope, unreadable)
    if needed_bytes(relevant) > MOST_TABLE_BYTES:
        yield f"# {len(relevant)} variables are too many to find cells among; use --scope"
        return
    if any(map(is_too_long, variables)):
        yield f"# names above {MOST_LENGTH} characters or {MOST_SCOPES} scopes are no cells'"
    table = Table(_Specs(variables, relevant))
    found = [one for one in recognised(table) if _within(table.scope(one.scope), scope)]
    if len(found) > MOST_FOUND:
        yield f"# there are more cells than these {MOST_FOUND}; use --scope for others"
    if not found:
        yield "# no cells were recognised by their names"
        return
    yield "# forget_bias, activations and clips are not in variables: add them to the cells"
    yield "cells = {"
    for place, cells in found[:MOST_FOUND]:
        yield f"    {_run(table, place, cells)}"
    yield "}"
    yield "params = {s: tf1.import_params(c, variables, s) for s, c in cells.items()}"


def _relevant(variables: Mapping[str, Any], scope: str, unreadable: set[str]) -> list[str]:
    """The names in a scope of what can be read, sorted; what is attended to may be anywhere."""
    return sorted(
        name
        for name in variables
        if name not in unreadable
        and not is_too_long(name)
        and (_within(name, scope) or is_memory(canonical(name)[0]))
    )


def _run(table: Table, scope: str, cells: Cells) -> str:
    """An entry of `cells`, or a comment that says why there is none."""
    place = table.scope(scope)
    if isinstance(cells, type):
        return f"# {place}: {cells.__name__}, whose sizes cannot all be inferred from its variables"
    try:
        _, named, keys = fit(cells, table.within(scope), place)
    except (KeyError, ValueError) as error:
        return f"# {place}: {code(cells)} does not fit: {error.args[0]}"
    shapes = {path: named.spec(key).shape for path, key in keys.items()}
    return f"{place!r}: {code(cells)},  # takes {received(as_run(cells), shapes)}"


if __name__ == "__main__":
    main()
