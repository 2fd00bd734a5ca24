"""Configures the suite: 64-bit types are on, and implicit promotion is an error.

    pytest           the everyday suite: every law on every cell with the reference engine, and
                     core cells with every engine. Tests marked `full` are left out, and so
                     are the combinations that a test's `everyday` marker excludes.
    pytest --full    the whole product of cells, engines and dtypes, and the laws without x64.
                     Laws that do not depend on precision run with two dtypes only.

Hypothesis draws the same few examples in each everyday run. With `--hypothesis-profile=long` it
draws many, and different ones in each run.

With JAX_DYNRNN_REQUIRE_ORACLES=1 a missing oracle is a failure, not a skip.
"""

import gc
import importlib
import importlib.metadata
import os

FLAGS = [
    "--xla_force_host_platform_device_count=8",
    # Most of the time is compilation, which takes a third less without LLVM's optimisations.
    "--xla_backend_optimization_level=0",
    # Round to 16 bits wherever the program does. By default XLA keeps excess precision inside of
    # fusions, so that two engines that compute the same would differ.
    "--xla_allow_excess_precision=false",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # The older of XLA's two emitters for fusions makes the suite take 0.6 of the time. Laws
    # without x64, and newer versions of jaxlib, use the default emitter, as users do.
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

# No deadline: the first example of each shape includes a compilation.
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
    """Parametrises the fixture `combination` over cells, engines and dtypes: see laws.py."""
    import laws

    full = metafunc.config.getoption("--full")
    if "combination" in metafunc.fixturenames:
        names = ("where",) if full else ("where", "everyday")
        marks = [mark for name in names for mark in metafunc.definition.iter_markers(name)]
        chosen = [c for c in laws.all_combinations(full) if all(m.args[0](c) for m in marks)]
        metafunc.parametrize("combination", [
            pytest.param(c, id=str(c), marks=pytest.mark.xdist_group(c.case.name)) for c in chosen
        ])  # fmt: skip


TESTS_RUN = []


def combination_of(item):
    """The `Combination` that a test is parametrised with, or `None`."""
    return getattr(getattr(item, "callspec", None), "params", {}).get("combination")


def pytest_collection_modifyitems(config, items):
    """Runs all tests of one combination of cell, engine and dtype together: they share its
    compilations."""
    if not config.getoption("--full"):
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("full")])
        items[:] = [item for item in items if not item.get_closest_marker("full")]
    order = {}
    for item in items:
        order.setdefault(combination_of(item), len(order))
    items.sort(key=lambda item: order[combination_of(item)])


def pytest_collection_finish():
    """Exempts all imported and collected objects from garbage collection: they live to the end."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item, nextitem):
    """Clears the caches of compiled programs every 200 tests.

    Each program maps memory several times, and Linux limits the mappings of a process: some
    thousands of programs exceed the limit.
    """
    TESTS_RUN.append(item.nodeid)
    same_combination_next = (
        nextitem is not None and combination_of(item) == combination_of(nextitem) is not None
    )
    if len(TESTS_RUN) > 200 and not same_combination_next:
        import laws

        TESTS_RUN.clear()
        laws.compiled.cache_clear()
        jax.clear_caches()


@pytest.fixture
def default_fusion():
    """Options of `jax.jit` for bit-exact comparisons: fusions are compiled with XLA's defaults."""
    import laws

    return {"compiler_options": laws.USER_COMPILER_OPTIONS}


@pytest.fixture
def jax_defaults():
    """JAX's default modes, in which users run their programs."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.fixture(scope="session")
def load_oracle():
    """A function that imports an oracle; without it, it skips the test, or fails it in CI."""

    def load(name):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if os.environ.get("JAX_DYNRNN_REQUIRE_ORACLES"):
                pytest.fail(f"the oracle {name} must be installed here: {error}")
            return pytest.skip(f"the oracle {name} is not installed: {error}")

    return load
