"""Doctests run as users run JAX: 32-bit types, and JAX's default promotions."""

import importlib.util
import os

import jax
import pytest

collect_ignore = ["docs/docstrings.py", "docs/hooks.py"]  # of the site's builder

OPTIONAL = ("equinox", "haiku")
"""What the example of a docstring may import and an installation may lack."""


@pytest.fixture(autouse=True)
def as_users_run_it(request):
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
    lines = "".join(example.source for example in doctest.examples)
    for name in OPTIONAL:
        used = f"import {name}" in lines or f"from {name}" in lines
        missing = used and importlib.util.find_spec(name) is None
        if missing and not os.environ.get("JAX_DYNRNN_REQUIRE_ORACLES"):
            pytest.skip(f"{name} is not installed")
