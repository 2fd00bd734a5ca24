"""Escapes text from files for printing: no name breaks a line or sends terminal commands."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from typing import Any

MAX_CHARACTERS = 200  # of a name in a message
MAX_LENGTH = 1000  # of a name in a list
MAX_COMPARED = 2000  # names, since difflib's comparison is slow
CHUNK_CHARACTERS = 4096  # escaped at a time, since each one becomes a Python object


def escaped(text: Any) -> str:
    r"""Puts text on one line: characters that are not printable are escaped as Python does.

    Among these are newlines, control characters of terminals, and marks that reverse the direction
    of text. Text that is escaped already is unchanged.

    >>> print(escaped("rnn\n\x1b[2J/größe"), escaped(escaped("a\nb")))
    rnn\n\x1b[2J/größe a\nb
    """
    text = str(text)
    chunks = (text[i : i + CHUNK_CHARACTERS] for i in range(0, len(text), CHUNK_CHARACTERS))
    return "".join(p if p.isprintable() else "".join(map(_escaped_character, p)) for p in chunks)


def _escaped_character(character: str) -> str:
    """A character, or its escape sequence."""
    return character if character.isprintable() else repr(character)[1:-1]


def shortened(name: str) -> str:
    """A name as it is listed: on one line, and cut at `MAX_LENGTH` characters."""
    return escaped(name[:MAX_LENGTH]) + ("..." if len(name) > MAX_LENGTH else "")


def quoted(name: str | bytes) -> str:
    r"""A name as a Python literal for messages, truncated to `MAX_CHARACTERS`.

    >>> print(quoted("rnn\n"), len(quoted("x" * 1000)))
    'rnn\n' 205
    """
    end = "..." if len(name) > MAX_CHARACTERS else ""
    return repr(name[:MAX_CHARACTERS]) + end


def closest(name: str, names: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Returns the names that are most similar to `name`, from a bounded number of candidates.

    Names with the same last part are compared first: another `kernel` is a likelier match for a
    `kernel` than a `bias` is.
    """
    candidates = [other for other in names if len(other) <= MAX_CHARACTERS]
    last_part = name.rpartition("/")[2]
    candidates.sort(key=lambda other: other.rpartition("/")[2] != last_part)
    return difflib.get_close_matches(
        name[:MAX_CHARACTERS], itertools.islice(candidates, MAX_COMPARED), most, cutoff
    )
