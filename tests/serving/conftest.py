"""Exported models are in 32 bits, and exporters need JAX's default promotion rules."""

import jax
import pytest


@pytest.fixture(autouse=True)
def as_users_have_it():
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield
