"""How the suite runs: 64-bit types on, and nothing promoted silently.

    pytest           the everyday suite: every law on every cell with the reference
                     engine, core cells with every engine; what is marked `full`, and laws
                     where they are not `everyday`, wait for the next
    pytest --full    the whole product of engines and dtypes, and the laws without x64; laws that
                     say nothing about numbers with two dtypes

Tests that draw their examples with Hypothesis draw the same few every day; those of
`--hypothesis-profile=long` are many, and new in each run.

With JAX_DYNRNN_REQUIRE_ORACLES=1 a missing oracle is a failure, not a skip.
"""

import gc
import importlib
import importlib.metadata
import os

FLAGS = [
    "--xla_force_host_platform_device_count=8",
    # The suite compiles much and runs little: without LLVM's optimisation it takes a third less.
    "--xla_backend_optimization_level=0",
    # Rounded is what the program rounds: else XLA keeps more than 16 bits inside of what it fuses,
    # and engines that are equal differ.
    "--xla_allow_excess_precision=false",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # The suite takes 0.6 of the time with the older of two ways to compile what is fused. Laws
    # without x64, and newer versions, have the way that users have.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# No deadline: the first example of a shape compiles.
hypothesis.settings.register_profile(
    "everyday", max_examples=40, derandomize=True, database=None, deadline=None
)
hypothesis.settings.register_profile(
    "long", max_examples=2000, database=None, deadline=None, print_blob=True
)
hypothesis.settings.load_profile("everyday")


collect_ignore = ["tensorflow_run.py"]  # imports TensorFlow, which may be missing


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every engine, dtype and x64")


def pytest_generate_tests(metafunc):
    """Parametrises over cells, engines and dtypes: see laws.py."""
    import laws

    full = metafunc.config.getoption("--full")
    if "law" in metafunc.fixturenames:
        names = ("where",) if full else ("where", "everyday")
        marks = [mark for name in names for mark in metafunc.definition.iter_markers(name)]
        chosen = [law for law in laws.every_law(full) if all(m.args[0](law) for m in marks)]
        metafunc.parametrize("law", [
            pytest.param(law, id=str(law), marks=pytest.mark.xdist_group(law.case.name))
            for law in chosen
        ])  # fmt: skip


TESTS_RUN = []


def law_of(item):
    return getattr(getattr(item, "callspec", None), "params", {}).get("law")


def pytest_collection_modifyitems(config, items):
    """All laws of one cell together: they share its compilations."""
    if not config.getoption("--full"):
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("full")])
        items[:] = [item for item in items if not item.get_closest_marker("full")]
    order = {}
    for item in items:
        order.setdefault(law_of(item), len(order))
    items.sort(key=lambda item: order[law_of(item)])


def pytest_collection_finish():
    """What is imported and collected stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item, nextitem):
    """Lets go of compiled programs now and then: some thousands of them are too many.

    (Each maps memory several times, and Linux counts the maps of a process.)
    """
    TESTS_RUN.append(item.nodeid)
    going_on = nextitem is not None and law_of(item) == law_of(nextitem) is not None
    if len(TESTS_RUN) > 200 and not going_on:
        import laws

        TESTS_RUN.clear()
        laws.compiled.cache_clear()
        jax.clear_caches()


@pytest.fixture
def fused():
    """For `jax.jit`, where a test is about the last bit: what is fused is so as users have it."""
    import laws

    return {"compiler_options": laws.AS_USERS}


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
