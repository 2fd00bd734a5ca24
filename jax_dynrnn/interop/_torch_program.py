"""Prints a program that runs the recurrent modules of PyTorch whose weights have these names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .. import cells as c
from .. import wrappers as w
from .._types import Cells
from ._code import code
from ._layouts.framework import cell_of_gates

NAME = re.compile(
    r"(?P<prefix>(?:.*[._/])?)(?P<what>weight_ih|weight_hh|bias_ih|bias_hh|weight_hr|"
    r"[wb]_[ih]h)(?P<layer>_l\d{1,3})?(?P<reverse>_reverse)?"
)
"""A weight of an `nn.LSTM` or `nn.LSTMCell`; files made with NumPy often say `w_ih`."""
MAX_LAYERS = 100


class Module(NamedTuple):
    """A recurrent module of PyTorch, found by the names of its weights."""

    prefix: str
    names: dict[str, str]
    """The names in the file, by those of PyTorch: `weight_ih_l0`."""
    cells: Cells
    inputs: int
    """The number of features that it receives."""

    @property
    def is_single(self) -> bool:
        """Whether it is a single cell, such as an `nn.LSTMCell`, without a loop of its own."""
        return "weight_ih" in self.names


def find_modules(specs: Mapping[str, Any]) -> list[Module]:
    """The recurrent modules of PyTorch among arrays, whose names and shapes are given."""
    groups: dict[str, dict[str, str]] = {}
    for name in specs:
        match = NAME.fullmatch(name)
        if match:
            what = re.sub("^w_", "weight_", re.sub("^b_", "bias_", match["what"]))
            theirs = f"{what}{match['layer'] or ''}{match['reverse'] or ''}"
            groups.setdefault(match["prefix"], {})[theirs] = name
    modules = []
    for prefix, names in groups.items():
        shapes = {theirs: tuple(specs[name].shape) for theirs, name in names.items()}
        cells = _cells(shapes)
        if cells is not None:
            first = shapes.get("weight_ih", shapes.get("weight_ih_l0", ()))
            modules.append(Module(prefix, names, cells, first[1]))
    return modules


def _cells(shapes: Mapping[str, tuple[int, ...]]) -> Cells:
    """The cells of a module with weights of these shapes, or `None`."""
    if "weight_ih" in shapes:
        return _cell(shapes, "")
    count = sum(re.fullmatch(r"weight_ih_l\d+", name) is not None for name in shapes)
    if not 0 < count <= MAX_LAYERS:
        return None
    ends = ("", "_reverse") if "weight_ih_l0_reverse" in shapes else ("",)
    stacks = [[_cell(shapes, f"_l{i}{end}") for i in range(count)] for end in ends]
    if any(cell is None for stack in stacks for cell in stack):
        return None
    if len(stacks) == 1:
        return w.MultiRNNCell(stacks[0]) if count > 1 else stacks[0][0]
    return (stacks[0], stacks[1]) if count > 1 else (stacks[0][0], stacks[1][0])


def _cell(shapes: Mapping[str, tuple[int, ...]], end: str) -> Any:
    """The cell of one layer, whose weights have this end of their names; or `None`."""
    inner, outer = shapes.get(f"weight_ih{end}", ()), shapes.get(f"weight_hh{end}", ())
    projection = shapes.get(f"weight_hr{end}")
    if len(inner) != 2 or len(outer) != 2 or inner[0] != outer[0] or not outer[1]:
        return None
    if projection is not None:
        if len(projection) != 2 or projection[1] * 4 != outer[0]:
            return None
        return c.LSTMCell(projection[1], num_proj=projection[0], forget_bias=0.0)
    return cell_of_gates(outer[0], outer[1])


def program_lines(
    modules: list[Module], specs: Mapping[str, Any], read_code: str, most: int
) -> Iterator[str]:
    """Yields the lines of the program."""
    yield from ("import jax", "import jax.numpy as jnp", "import numpy as np", "")
    yield from ("import jax_dynrnn as rnn", "from jax_dynrnn import interop")
    yield from ("from jax_dynrnn.interop import checkpoint", "", f"weights = {read_code}")
    for number, module in enumerate(modules[:most], 1):
        yield from _module_lines(module, str(number), len(module.names) == len(specs))
    if len(modules) > most:
        yield f"# there are more modules than these {most}"
    used = {name for module in modules for name in module.names.values()}
    others = [name for name in specs if name not in used]
    if others:
        yield ""
        yield "# What this program leaves out:"
    for name in others[: 10 * most]:
        yield f"#   {name} {list(specs[name].shape)}"


def _module_lines(module: Module, number: str, is_whole_file: bool) -> Iterator[str]:
    """The lines of one module."""
    kind = " (or a cell of its own)" if module.is_single else ""
    yield ""
    yield f"# {module.prefix.rstrip('./_') or 'the whole file'!r}{kind}"
    yield f"cells_{number} = {code(module.cells)}"
    if "rnn.BasicRNNCell" in code(module.cells):
        yield "# of relu, not tanh: activation=jax.nn.relu here, and nonlinearity='relu' below"
    prefix = module.prefix.rstrip(".")
    as_there = all(f"{module.prefix}{theirs}" == x for theirs, x in module.names.items())
    # `prefix=` puts a dot behind it; without one, all arrays would have to be the module's.
    if as_there and prefix and module.prefix == f"{prefix}.":
        given = f"weights, prefix={prefix!r}"
    elif as_there and is_whole_file:
        given = "weights"
    else:
        given = f"named_{number}"
        yield f"{given} = {{"
        yield from (f"    {theirs!r}: weights[{x!r}]," for theirs, x in module.names.items())
        yield "}"
    yield f"params_{number} = interop.torch.import_params(cells_{number}, {given})"
    shape = (1, 10, module.inputs)
    yield f"x = jnp.ones({shape})  # a placeholder, batch_first: [batch, time, features]"
    yield from _run_lines(module, number)


def _run_lines(module: Module, number: str) -> Iterator[str]:
    """The lines that run a module."""
    cells = module.cells
    if not isinstance(cells, tuple):
        call = f"rnn.dynamic_rnn(cells_{number}, params_{number}, x)"
        yield f"outputs_{number}, state_{number} = {call}"
    elif isinstance(cells[0], list):
        yield f"outputs_{number}, *states_{number} = rnn.stack_bidirectional_dynamic_rnn("
        yield f"    *cells_{number}, params_{number}, x"
        yield ")"
    else:
        yield f"outputs_{number}, states_{number} = rnn.bidirectional_dynamic_rnn("
        yield f"    *cells_{number}, params_{number}, x"
        yield ")"
        yield f"outputs_{number} = rnn.concatenate(*outputs_{number})"
