"""A run here against a run there, on the same weights: outputs, states and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jax_dynrnn as rnn

B, T, D, H = 2, 3, 3, 4


def random_inputs(dtype=np.float64):
    return np.random.default_rng(1).normal(size=(B, T, D)).astype(dtype)


def randomized(tree, seed=0, scale=0.5):
    """Every array anew, so that no bias is zero."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(scale * random.normal(size=np.shape(x)), x.dtype), tree
    )


def random_params(cells, dtype=jnp.float64, seed=2):
    """Params of the run of `cells`."""
    key, shape = jax.random.key(0), (B, T, D)
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
    """`(outputs, leaves of the states)`, both directions of a layer one after the other."""
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
    """A function of `(weights, x)`: the leaves of what it gives, and the gradients by both of a
    sum of it all, in which each number has its own factor."""

    def weighed(weights, x):
        leaves = jax.tree.leaves(run(weights, x))
        return sum((leaf * factors(leaf)).sum() for leaf in leaves), leaves

    def results(weights, x):
        gradients, leaves = jax.grad(weighed, (0, 1), has_aux=True)(weights, x)
        return leaves, *gradients

    return jax.jit(results)


def factors(leaf):
    return np.cos(np.arange(leaf.size)).reshape(leaf.shape).astype(leaf.dtype)


@functools.cache
def run_here(cells):
    """The same of the run of `cells`, a pair of tuples for a stack of pairs: compiled once."""
    return differentiated(functools.partial(outputs_and_states, cells))


def results_here(cells, importer, weights, x):
    """The same by the weights of a framework, through `import_params`."""
    imports = functools.partial(importer, cells)
    leaves, by_params, by_x = run_here(hashable(cells))(imports(weights), x)
    back = jax.jit(lambda weights, gradient: jax.vjp(imports, weights)[1](gradient))
    return leaves, *back(weights, by_params), by_x


def hashable(cells):
    return tuple(map(hashable, cells)) if isinstance(cells, tuple | list) else cells


def as_there(run):
    """`run` under JAX's own rules of promotion, which other frameworks count on."""

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
    """Weights that came from there compute the same here, and so do those that go back.

    `there(weights, x)` gives outputs, states, and gradients by the weights and by x.
    """
    x = random_inputs(jax.tree.leaves(weights)[0].dtype)
    expected = there(weights, x)
    assert_close(results_here(cells, importer, weights, x), expected, bound)
    exported = exporter(cells, importer(cells, weights))
    assert jax.tree.map(np.shape, exported) == jax.tree.map(np.shape, weights)
    assert_close(there(exported, x)[0], expected[0], bound)
