"""What every error message of the package obeys: no private names, no messages of Python's own."""

import contextlib
import inspect
import re
import sys

import pytest

import jax_dynrnn as rnn
from jax_dynrnn import linen, nnx

PYTHON = re.compile(r"\(\) (got|missing|takes)|unpack|object (is not|has no)|Tracer|ShapeDtype")
"""Of messages of Python's and JAX's own."""


def private_names():
    """The classes of the package that nobody imports."""
    public = {*vars(rnn), *vars(linen), *vars(nnx)}
    modules = [m for name, m in sys.modules.items() if name.partition(".")[0] == "jax_dynrnn"]
    ours = [x for m in modules for x in vars(m).values() if inspect.isclass(x)]
    names = {x.__name__ for x in ours if x.__module__.partition(".")[0] == "jax_dynrnn"}
    return (names - public) | {"OneCell", "Layer"}  # those of Flax layers have public homonyms


PRIVATE = re.compile(rf"\b({'|'.join(sorted(private_names()))})[.(]|(?<!\w)_[a-z]\w*")


@contextlib.contextmanager
def says(error, *fragments):
    """`pytest.raises` of a message with all `fragments`, without names that no user knows."""
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value.args[0])
    for fragment in fragments:
        assert re.search(fragment, message), (fragment, message)
    assert not PRIVATE.search(message) and not PYTHON.search(message), message
