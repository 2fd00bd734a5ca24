"""Params as TF's own tests have them: every variable one constant."""

import jax
import jax.numpy as jnp


def filled(params, value=0.5, kept=("bias",)):
    """Every array full of `value`, but those whose names have a part in `kept`."""

    def leaf(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return x if any(part in name for part in kept) else jnp.full_like(x, value)

    return jax.tree_util.tree_map_with_path(leaf, params)


def names(params):
    """`{"projection/kernel": (4, 2), ...}`: the variables of a checkpoint, and their shapes."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves}
