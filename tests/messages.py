"""`says`: checks an error message, which must hold no private name and no text of Python's own."""

import contextlib
import inspect
import re
import sys

import pytest

import jax_dynrnn as rnn
from jax_dynrnn import linen, nnx

PYTHON = re.compile(r"\(\) (got|missing|takes)|unpack|object (is not|has no)|Tracer|ShapeDtype")
"""Fragments of error messages that Python or JAX raises, not the package."""


def private_names():
    """The names of the package's classes that are not public."""
    public = {*vars(rnn), *vars(linen), *vars(nnx)}
    modules = [m for name, m in sys.modules.items() if name.partition(".")[0] == "jax_dynrnn"]
    ours = [x for m in modules for x in vars(m).values() if inspect.isclass(x)]
    names = {x.__name__ for x in ours if x.__module__.partition(".")[0] == "jax_dynrnn"}
    return (names - public) | {"OneCell", "Layer"}  # a public class has the same name


PRIVATE = re.compile(rf"\b({'|'.join(sorted(private_names()))})[.(]|(?<!\w)_[a-z]\w*")


@contextlib.contextmanager
def says(error, *fragments):
    """Like `pytest.raises`, for a message with all `fragments` and without private names."""
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value.args[0])
    for fragment in fragments:
        assert re.search(fragment, message), (fragment, message)
    assert not PRIVATE.search(message) and not PYTHON.search(message), message
