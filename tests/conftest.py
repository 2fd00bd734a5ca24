"""How the suite runs: 64-bit types on, and nothing promoted silently.

    pytest           the everyday suite: every law on every cell with the reference
                     engine, core cells with every engine
    pytest --full    the whole product of engines and dtypes, and the laws without x64

With JAX_DYNRNN_REQUIRE_ORACLES=1 a missing oracle is a failure, not a skip.
"""

import importlib
import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


collect_ignore = ["tensorflow_run.py"]  # imports TensorFlow, which may be missing


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every engine, dtype and x64")


def pytest_generate_tests(metafunc):
    """Parametrises over cells, engines and dtypes: see cases.py."""
    import cases

    full = metafunc.config.getoption("--full")
    if "law" in metafunc.fixturenames:
        laws = cases.laws(full)
        metafunc.parametrize("law", [
            pytest.param(law, id=str(law), marks=pytest.mark.xdist_group(law.case.name))
            for law in laws
        ])  # fmt: skip


@pytest.fixture(scope="session")
def load_oracle():
    """Imports an oracle, or skips with the reason, or fails where CI must have it."""

    def load(name):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if os.environ.get("JAX_DYNRNN_REQUIRE_ORACLES"):
                pytest.fail(f"the oracle {name} must be installed here: {error}")
            return pytest.skip(f"the oracle {name} is not installed: {error}")

    return load
