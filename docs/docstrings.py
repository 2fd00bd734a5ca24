"""Docstrings of the package as Markdown, for the reference: an extension of griffe."""

import inspect
import re
import textwrap

import griffe

LISTS = ("Args", "Attributes", "Raises")


class Markdown(griffe.Extension):
    def on_instance(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = markdown(inspect.cleandoc(obj.docstring.value))


def markdown(docstring):
    """Sections get a heading, what they list becomes a list, and examples a block of code."""
    heads = r"^(Args|Attributes|Raises|Returns|Example):(.*)\n"
    first, *parts = re.split(heads, docstring, flags=re.M)
    text = [fenced(first)]
    for name, title, rest in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        body = re.match(r"(?:[ ]{4}.*\n?|\n)*", rest)[0]  # up to the next line without indent
        inside = textwrap.dedent(body).strip("\n")
        if name in LISTS:
            inside = re.sub(r"^([\w*][\w*, .]*): ", r"- **\1**: ", inside, flags=re.M)
        elif name == "Example":
            inside = f"```python\n{inside}\n```"
        text += [f"**{name}**{title and ':' + title}", inside, fenced(rest[len(body) :])]
    return "\n\n".join(text)


def fenced(text):
    """Lines that are run as a doctest, as a block of code."""
    return re.sub(r"^>>> (?:.+\n?)+", lambda code: f"```python\n{code[0]}\n```\n", text, flags=re.M)
