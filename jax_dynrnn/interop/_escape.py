"""Text from files, made safe to print: a name is no line of its own, and no terminal command."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from typing import Any

MOST_CHARACTERS = 200  # of a name in a message
MOST_COMPARED = 2000
PIECE = 4096  # characters that are escaped at a time: each is an object then


def escaped(text: Any) -> str:
    r"""The text on one line, with all that is not printable as Python escapes it.

    Newlines, control characters of terminals, and marks that reverse the direction of text are not
    printable. What is escaped already stays as it is.

    >>> print(escaped("rnn\n\x1b[2J/größe"), escaped(escaped("a\nb")))
    rnn\n\x1b[2J/größe a\nb
    """
    text = str(text)
    pieces = (text[i : i + PIECE] for i in range(0, len(text), PIECE))
    return "".join(p if p.isprintable() else "".join(map(_escaped_character, p)) for p in pieces)


def _escaped_character(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def quoted(name: str | bytes) -> str:
    r"""A name as a Python literal, cut short if it is very long: for messages.

    >>> print(quoted("rnn\n"), len(quoted("x" * 1000)))
    'rnn\n' 205
    """
    end = "..." if len(name) > MOST_CHARACTERS else ""
    return repr(name[:MOST_CHARACTERS]) + end


def closest(name: str, names: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """The names that are most like this one, among so many that the search takes little time.

    Those that end like it come first: a `kernel` is rather another `kernel` than a `bias`.
    """
    short = [other for other in names if len(other) <= MOST_CHARACTERS]
    last = name.rpartition("/")[2]
    short.sort(key=lambda other: other.rpartition("/")[2] != last)
    return difflib.get_close_matches(
        name[:MOST_CHARACTERS], itertools.islice(short, MOST_COMPARED), most, cutoff
    )
