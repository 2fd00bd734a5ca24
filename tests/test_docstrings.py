"""Every public docstring has a first line, arguments, shapes, results, errors, source, example."""

import builtins
import inspect
import re

import pytest

import jax_dynrnn as rnn
from jax_dynrnn import interop, linen, nnx, testing

INTEROP = [getattr(interop, name) for name in interop.__all__]
MODULES = [rnn, linen, nnx, testing, *INTEROP]
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES for name in module.__all__
}  # fmt: skip

BASES = (rnn.Cell, rnn.StagedCell, rnn.MatmulCell)
LAYERS = [getattr(module, name) for module in (linen, nnx) for name in module.__all__]


def methods():
    """The methods that have entries in the reference, by their qualified names."""
    found = {}
    for thing in (*BASES, interop.checkpoint.Checkpoint):
        names = [name for name in vars(thing) if not name.startswith("_")]
        found |= {f"{thing.__name__}.{name}": getattr(thing, name) for name in names}
    for layer in LAYERS:
        listed = ("__call__", "step", "start", "initialize_carry")
        names = [name for name in listed if hasattr(layer, name)]
        where = layer.__module__.rpartition(".")[2]
        found |= {f"{where}.{layer.__name__}.{name}": getattr(layer, name) for name in names}
    found["Cell.__call__"] = rnn.Cell.__call__
    found["AttentionWrapper.attend"] = rnn.AttentionWrapper.attend
    return {name: method for name, method in found.items() if inspect.isfunction(method)}


METHODS = methods()

HEADS = ("Args", "Attributes", "Returns", "Raises", "Differs from TF1", "Reference", "Example")
"""Sections, in their order."""


def documentation(thing):
    """The docstring; not an inherited one, as `inspect.getdoc` finds."""
    return inspect.cleandoc(thing.__doc__)


def sections(thing):
    """The first line, and the text of each section, by its head."""
    first, *parts = re.split(rf"^({'|'.join(HEADS)}):", documentation(thing), flags=re.MULTILINE)
    heads = parts[::2]
    assert heads == sorted({*heads}, key=HEADS.index), f"the order of {heads}"
    return {"first": first.partition("\n")[0]} | dict(zip(heads, parts[1::2], strict=True))


def entries(text):
    """The names and the texts of what a section lists."""
    lines = re.match(r"\n((?: {4}.*\n?|\n)*)", text)[1]
    for entry in re.split(r"^ {4}(?=\S)", lines, flags=re.MULTILINE)[1:]:
        names, _, meaning = entry.partition(":")
        for name in names.replace("\n", " ").split(","):
            yield name.strip(), meaning.strip()


def parameters(thing):
    """The names of the parameters; `parent` and `name` are those of every Linen module."""
    function = thing.__init__ if inspect.isclass(thing) and thing in LAYERS else thing
    names = {*inspect.signature(function).parameters} - {"self"}
    return names - {"parent", "name"} if thing in LAYERS else names


def described(thing):
    """The names that `Args` or `Attributes` list."""
    parts = sections(thing)
    return [name for name, _ in entries(parts.get("Args", parts.get("Attributes", "\n")))]


def is_error(thing):
    return inspect.isclass(thing) and issubclass(thing, Exception)


def everything(condition=lambda thing: True):
    """Parametrises a test over the public names that are not modules, and the methods."""
    things = {name: thing for name, thing in (PUBLIC | METHODS).items() if condition(thing)}
    return pytest.mark.parametrize("thing", things.values(), ids=things)


def is_public(thing):
    return thing in PUBLIC.values()


@everything()
def test_first_line_is_one_sentence(thing):
    """The first line is one sentence with a full stop; a blank line separates what follows."""
    first, *rest = documentation(thing).splitlines()
    assert first.endswith(".") and not re.search(r"[.!?] [A-Z`]", first)
    assert not rest or not rest[0]


@everything(is_public)
def test_has_an_example(thing):
    """Every public name has an example, which runs as a doctest."""
    assert ">>> " in sections(thing)["Example"]


@everything(lambda thing: not is_error(thing) and thing not in BASES)
def test_describes_every_parameter(thing):
    """`Args` or `Attributes` name exactly the parameters; those of a method may have no section."""
    names = described(thing)
    assert len(names) == len({*names})
    if is_public(thing) or names:
        assert {*names} == parameters(thing)


@everything()
def test_every_entry_says_something(thing):
    """No section, and no entry of a list, is empty."""
    for head, text in sections(thing).items():
        assert text.strip(), head
        if head in ("Args", "Attributes", "Raises"):
            assert all(meaning for _, meaning in entries(text)), head


ARRAY_FREE = {
    rnn.Cell, rnn.StagedCell, rnn.Stacked, rnn.MultiRNNCell, rnn.ResidualWrapper,
    rnn.DropoutWrapper, rnn.ZoneoutWrapper, rnn.explain, rnn.init_bidirectional,
    rnn.init_stack_bidirectional, testing.check_cell, testing.CellReport, testing.CellCheckError,
    *(getattr(module, name) for module in INTEROP for name in module.__all__),
}  # fmt: skip
"""They take no arrays, or the shapes are those of a cell inside, a file or another framework."""

SHAPE = re.compile(r"\[(\.\.\.|\*\w+|[A-Z]\b|\dL?)[^]]*\]|`\[[^]`]*\]`")


@everything(lambda thing: is_public(thing) and thing not in ARRAY_FREE)
def test_states_shapes(thing):
    """Shapes are written as `[B, T, D]`, outside of the example."""
    assert SHAPE.search(documentation(thing).partition("\nExample:")[0])


@everything(lambda thing: is_public(thing) and not inspect.isclass(thing))
def test_functions_say_what_they_return(thing):
    """Functions that return something have a section `Returns`."""
    assert ("Returns" in sections(thing)) == (inspect.signature(thing).return_annotation != "None")


NEVER_FAIL = {*BASES, rnn.transpose_batch_time, interop.checkpoint.kind, interop.keras.hard_sigmoid}
"""They raise no errors of their own: base classes, and functions of any array or name."""


@everything(is_public)
def test_says_what_it_raises(thing):
    """`Raises` lists exceptions that exist; tuples, reports and errors only hold values."""
    values = (tuple, Exception, testing.CellReport)
    holds_values = inspect.isclass(thing) and issubclass(thing, values)
    assert ("Raises" in sections(thing)) == (thing not in NEVER_FAIL and not holds_values)
    known = {"CheckpointError": interop.checkpoint.CheckpointError, **vars(testing), **ERRORS}
    for name, _ in entries(sections(thing).get("Raises", "\n")):
        assert issubclass(known[name], Exception)


ERRORS = {name: thing for name, thing in vars(builtins).items() if name.endswith("Error")}

OURS = {
    *BASES, rnn.Stacked, rnn.Around, rnn.explain, rnn.concatenate, rnn.init_bidirectional,
    rnn.init_stack_bidirectional, rnn.pad_sequences, rnn.segment_starts, rnn.resets_from_done,
    rnn.pending_resets, rnn.mean_pool, rnn.max_pool,
}  # fmt: skip
"""Names that neither TF1 nor a paper has."""

SOURCE = re.compile(r"`tf\.|tensorflow/contrib|tf\.contrib|arXiv:\d{4}\.\d{4,5}|\((19|20)\d\d\)")


@everything(lambda thing: thing in [getattr(rnn, name) for name in rnn.__all__])
def test_names_its_source(thing):
    """Cells, wrappers and functions of TF1 name TF1's symbol, or a paper where TF1 has none."""
    reference = sections(thing).get("Reference")
    assert (reference is None) == (thing in OURS)
    assert reference is None or SOURCE.search(reference)
