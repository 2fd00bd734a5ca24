"""Runs doctests with JAX's defaults: 32-bit types and the default promotion rules."""

import importlib.util
import os

import jax
import pytest

collect_ignore = ["docs/docstrings.py", "docs/hooks.py"]  # run by MkDocs only

OPTIONAL = ("equinox", "h5py", "haiku")
"""Optional packages that the example of a docstring may import."""
SERVING = "jax2onnx"
"""A package that only the environment of `make serving` has."""


@pytest.fixture(autouse=True)
def jax_defaults_in_doctests(request):
    """Sets JAX's defaults for doctests, and changes nothing for other tests."""
    if isinstance(request.node, pytest.DoctestItem):
        skip_without_imports(request.node.dtest)
        with (
            jax.enable_x64(False),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            yield
    else:
        yield


def skip_without_imports(doctest):
    """Skips a doctest that imports an optional package that is not installed."""
    lines = "".join(example.source for example in doctest.examples)
    if f"import {SERVING}" in lines and importlib.util.find_spec(SERVING) is None:
        pytest.skip(f"{SERVING} needs an older orbax than other tests: `make serving` runs this")
    for name in OPTIONAL:
        used = f"import {name}" in lines or f"from {name}" in lines
        missing = used and importlib.util.find_spec(name) is None
        if missing and not os.environ.get("JAX_DYNRNN_REQUIRE_ORACLES"):
            pytest.skip(f"{name} is not installed")
