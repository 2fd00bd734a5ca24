"""Params as in TF's own tests, where every variable is filled with a constant."""

import jax
import jax.numpy as jnp


def filled(params, value=0.5, kept=("bias",)):
    """Fills every array with `value`, except those whose name contains a string of `kept`."""

    def leaf(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return x if any(part in name for part in kept) else jnp.full_like(x, value)

    return jax.tree_util.tree_map_with_path(leaf, params)


def names(params):
    """The names and shapes of the variables in a checkpoint: `{"projection/kernel": (4, 2)}`."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves}
