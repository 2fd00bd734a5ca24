"""Exported models are in 32 bits, and exporters need JAX's default promotion rules."""

import pytest


@pytest.fixture(autouse=True)
def as_users_have_it(jax_defaults):
    pass
