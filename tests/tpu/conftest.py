"""Everything here is compiled in 32 bits and less, and with the precision that users have."""

import jax
import pytest


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.enable_x64(False), jax.default_matmul_precision(None):
        yield
