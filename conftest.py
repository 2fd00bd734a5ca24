"""Doctests run as users run JAX: 32-bit types, and JAX's default promotions."""

import jax
import pytest


@pytest.fixture(autouse=True)
def as_users_run_it(request):
    if isinstance(request.node, pytest.DoctestItem):
        with (
            jax.enable_x64(False),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            yield
    else:
        yield
