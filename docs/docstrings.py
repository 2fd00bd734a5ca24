"""The package as the reference shows it: an extension of griffe.

Docstrings become Markdown. Signatures are those of the imported package: Flax makes the
constructors of its layers at import, and `takes` replaces `**options` by the options' names.
"""

import importlib
import inspect
import re
import textwrap
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
LISTS = ("Args", "Attributes", "Raises")
MODULES = ("", ".linen", ".nnx", ".testing", ".interop.foreign", ".interop.keras")
"""The modules whose classes and functions get the signatures that they have at run time."""
FLAX_OWN = ("self", "parent", "name")
"""Parameters of every Linen module, which `Module` documents."""


class Reference(griffe.Extension):
    def on_package(self, *, pkg, **_):
        describe(pkg)
        for module in MODULES:
            module = importlib.import_module(pkg.name + module)
            for value in (getattr(module, name) for name in module.__all__):
                sign(pkg.modules_collection[f"{value.__module__}.{value.__qualname__}"], value)


def describe(obj):
    """Gives `obj` and its members docstrings in Markdown that end with a link to the source."""
    if obj.docstring or obj.name == "__call__":
        text = markdown(inspect.cleandoc(obj.docstring.value)) if obj.docstring else ""
        if not obj.is_attribute:
            text += f"\n\n[source]({source(obj)}){{.source}}"
        obj.docstring = griffe.Docstring(text, parent=obj)
    if obj.is_attribute and str(obj.value).startswith("_"):
        obj.value = None  # a private object says nothing to the reader
    for member in obj.members.values():
        if not member.is_alias:
            describe(member)


def source(obj):
    """Where `obj` is defined; the hooks replace `source:` by the address of the repository."""
    lines = "" if obj.is_module else f"#L{obj.lineno}-L{obj.endlineno}"
    return f"source:{obj.filepath.relative_to(ROOT).as_posix()}{lines}"


def sign(obj, value):
    """Gives a class its constructor, and functions with `**options` the names of the options."""
    if not isinstance(value, type):
        set_parameters(obj, value)
        return
    # The constructor of an nnx module is hidden by the `__call__` of its metaclass.
    made = value if value.__init__ is object.__init__ else value.__init__
    init = griffe.Function("__init__", parent=obj)
    init.parameters = parameters(inspect.signature(made))
    if [p.name for p in init.parameters] != ["sizes", "options"]:  # a base class without options
        obj.set_member("__init__", init)
    for name, member in obj.members.items():
        if member.is_function and name != "__init__":
            set_parameters(member, inspect.getattr_static(value, name))


def set_parameters(obj, value):
    kinds = [parameter.kind for parameter in obj.parameters]
    if griffe.ParameterKind.var_keyword in kinds and hasattr(value, "__signature__"):
        obj.parameters = parameters(value.__signature__)


def parameters(signature):
    """Parameters of griffe, without annotations: the reference shows none."""
    return griffe.Parameters(
        *(
            griffe.Parameter(p.name, kind=KINDS[p.kind], default=default(p.default))
            for p in signature.parameters.values()
            if p.name not in FLAX_OWN
        )
    )


KINDS = {kind: griffe.ParameterKind(kind.description) for kind in inspect._ParameterKind}


def default(value):
    """The text of a default value; a function or a dtype is shown by its name."""
    if value is inspect.Parameter.empty:
        return None
    name = getattr(value, "__name__", None)
    if name is None:
        return repr(value)
    return f"jnp.{name}" if value.__module__.startswith("jax.") else name


def markdown(docstring):
    """Sections get a heading, what they list becomes a list, and examples a block of code."""
    heads = r"^(Args|Attributes|Raises|Returns|Example):(.*)\n"
    first, *parts = re.split(heads, docstring, flags=re.M)
    text = [fenced(first)]
    for name, title, rest in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        body = re.match(r"(?:[ ]{4}.*\n?|\n)*", rest)[0]  # up to the next line without indent
        inside = textwrap.dedent(body).strip("\n")
        if name in LISTS:
            inside = re.sub(r"^([\w*.]+(?:,\s+[\w*.]+)*):\s", listed, inside, flags=re.M)
        elif name == "Example":
            inside = f"```pycon\n{inside}\n```"
        text += [f"**{name}**{title and ':' + title}", inside, fenced(rest[len(body) :])]
    return "\n\n".join(text)


def listed(entry):
    """The beginning of an item of a list; the names may be on several lines."""
    return f"- **{' '.join(entry[1].split())}**: "


def fenced(text):
    """Lines that are run as a doctest, as a block of code."""
    return re.sub(r"^>>> (?:.+\n?)+", lambda code: f"```pycon\n{code[0]}\n```\n", text, flags=re.M)
