"""`assert_agrees`: compares our run with a framework's on the same weights, with gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jax_dynrnn as rnn

B, T, D, H = 2, 3, 3, 4


def random_inputs(dtype=np.float64):
    return np.random.default_rng(1).normal(size=(B, T, D)).astype(dtype)


def randomized(tree, seed=0, scale=0.5):
    """The tree with random values in every array, so that no bias is zero."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(scale * random.normal(size=np.shape(x)), x.dtype), tree
    )


def random_params(cells, dtype=jnp.float64, seed=2, features=D):
    """Random params of a cell, a pair for two directions, or a pair of lists for a stack."""
    key, shape = jax.random.key(0), (B, T, features)
    if not isinstance(cells, tuple):

        def init():
            return cells.init(key, shape, dtype)
    elif isinstance(cells[0], list):

        def init():
            return rnn.init_stack_bidirectional(key, *cells, shape, dtype)
    else:

        def init():
            return rnn.init_bidirectional(key, *cells, shape, dtype)

    return randomized(jax.eval_shape(init), seed)


def outputs_and_states(cells, params, x):
    """`(outputs, leaves of the states)`; directions alternate within each layer."""
    if not isinstance(cells, tuple):
        outputs, states = rnn.dynamic_rnn(cells, params, x)
    elif isinstance(cells[0], tuple | list):
        outputs, *states = rnn.stack_bidirectional_dynamic_rnn(*cells, params, x)
        states = list(zip(*states, strict=True))
    else:
        outputs, states = rnn.bidirectional_dynamic_rnn(*cells, params, x)
        outputs = rnn.concatenate(*outputs)
    return outputs, jax.tree.leaves(states)


def differentiated(run):
    """A function `(weights, x)` that returns the leaves of `run(weights, x)` and two gradients.

    They are the gradients of a weighted sum of all leaves, by the weights and by x.
    """

    def weighed(weights, x):
        leaves = jax.tree.leaves(run(weights, x))
        return sum((leaf * factors(leaf)).sum() for leaf in leaves), leaves

    def results(weights, x):
        gradients, leaves = jax.grad(weighed, (0, 1), has_aux=True)(weights, x)
        return leaves, *gradients

    return jax.jit(results)


def factors(leaf):
    """The weights of the elements of a leaf in the loss."""
    return np.cos(np.arange(leaf.size)).reshape(leaf.shape).astype(leaf.dtype)


@functools.cache
def run_here(cells):
    """The differentiated run of our cells, compiled once; `cells` must be hashable."""
    return differentiated(functools.partial(outputs_and_states, cells))


def results_here(cells, importer, weights, x):
    """Our results and gradients, by the weights of a framework, through `import_params`."""
    imports = functools.partial(importer, cells)
    leaves, by_params, by_x = run_here(hashable(cells))(imports(weights), x)
    back = jax.jit(lambda weights, gradient: jax.vjp(imports, weights)[1](gradient))
    return leaves, *back(weights, by_params), by_x


def hashable(cells):
    return tuple(map(hashable, cells)) if isinstance(cells, tuple | list) else cells


def as_there(run):
    """Wraps `run` with JAX's default promotion modes, which other frameworks rely on."""

    def wrapped(*args):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return run(*args)

    return wrapped


def assert_close(got, expected, bound):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(expected), strict=True
    ):
        a, b = (np.asarray(x.detach() if hasattr(x, "detach") else x) for x in (a, b))
        assert a.shape == b.shape
        error, scale = np.abs(a - b).max(), 1 + np.abs(b).max()
        assert error <= bound * scale, (jax.tree_util.keystr(path), error)


def assert_agrees(there, weights, importer, exporter, cells, bound=1e-12):
    """Asserts that imported weights compute the same here, and exported ones the same there.

    `there(weights, x)` returns the framework's outputs, states, and gradients with respect to
    weights and x.
    """
    x = random_inputs(jax.tree.leaves(weights)[0].dtype)
    expected = there(weights, x)
    assert_close(results_here(cells, importer, weights, x), expected, bound)
    exported = exporter(cells, importer(cells, weights))
    assert jax.tree.map(np.shape, exported) == jax.tree.map(np.shape, weights)
    assert_close(there(exported, x)[0], expected[0], bound)
