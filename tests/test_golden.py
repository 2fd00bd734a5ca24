"""Results agree with those of TensorFlow 2.21 stored by golden/make_golden.py; needs no oracle."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_oracle as oracle
from golden.make_golden import RUNS, expected, problem
from laws import close

GOLDEN = pathlib.Path(__file__).parent / "golden"
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture
def fixed_masks(monkeypatch):
    """Makes dropout draw the mask that TensorFlow was given."""
    monkeypatch.setattr(
        jax.random, "bernoulli", lambda k, p, shape: jnp.asarray(oracle.dropout_mask(shape))
    )
    jax.clear_caches()
    yield
    jax.clear_caches()


def test_every_configuration_has_a_golden_file():
    assert {path.stem for path in GOLDEN.glob("*.npz")} == set(oracle.CONFIGS)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", oracle.CONFIGS)
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.full)])
def test_agrees_with_tensorflow(name, run, dtype, request):
    """Outputs, final state and all gradients agree with the stored ones."""
    config = oracle.CONFIGS[name]
    if oracle.options(config):
        request.getfixturevalue("fixed_masks")
    given = problem(config, run)
    stored = np.load(GOLDEN / f"{name}.npz")
    for path, value in oracle.flat(given).items():
        np.testing.assert_array_equal(stored[f"{run}:problem:{path}"], value)
    actual = oracle.flat(oracle.ours(config, given, dtype, **oracle.options(config)))
    theirs = expected(stored, run)
    assert set(actual) == set(theirs)
    close(actual, theirs, TOLERANCE[dtype])
