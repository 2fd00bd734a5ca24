"""Random params and variables of the cells that have names in TF1."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES, is_shape

from jax_dynrnn._check_cell import by_name
from jax_dynrnn.interop import tf1

KNOWN = [case for case in CASES if case.ours]
D, H = 3, 4


def drawn(init, shape=(D,)):
    """Random params in float32, with the shapes of `init`."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(random.normal(size=x.shape), jnp.float32),
        jax.eval_shape(lambda: init(jax.random.key(0), shape)),
    )


def params_of(case):
    return drawn(case.cell.init, jax.tree.map(tuple, case.features, is_leaf=is_shape))


def variables_of(cells, shape=(D,), scope=None):
    return tf1.export_params(cells, drawn(cells.init, shape), scope)


def assert_equal(actual, expected):
    actual, expected = by_name(actual), by_name(expected)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, strict=True)
