"""Where arrays are: platforms, meshes, and the mesh axes that values vary over."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._types import PyTree


def platform() -> str:
    """The platform that a computation traced now runs on, unless it is placed elsewhere later."""
    device = jax.config.jax_default_device  # pyright: ignore
    return getattr(device, "platform", device) or jax.default_backend()


def on_cpu() -> bool:
    return platform() == "cpu"


def varying_axes(tree: PyTree) -> frozenset[Any]:
    """The mesh axes of `jax.shard_map` that anything in `tree` varies over."""
    types = [jax.typeof(x) for x in jax.tree.leaves(tree)]
    return frozenset().union(*(t.manual_axis_type.varying for t in types))


def pcast(x: jax.Array, axes: frozenset[Any]) -> jax.Array:
    """`x` as varying over all `axes`."""
    missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def zeros(types: PyTree, like: PyTree) -> PyTree:
    """Zeros of these types, that vary over the mesh axes that the arrays in `like` vary over."""
    # The carry of a loop in `jax.shard_map` has the type of its results from the start.
    axes = varying_axes(like)
    return jax.tree.map(lambda x: pcast(jnp.zeros_like(x), axes), types)


def on_explicit_mesh(tree: PyTree) -> bool:
    """Whether an array in `tree` is on a mesh with explicit axes, or such a mesh is set."""
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    # A mesh may be set without an array on it yet.
    meshes = [jax.typeof(x).sharding.mesh for x in arrays] + [jax.sharding.get_abstract_mesh()]
    return any(m is not None and jax.sharding.AxisType.Explicit in m.axis_types for m in meshes)


def why_partly_manual() -> str | None:
    """Why a cell cannot be split here: inside a `jax.shard_map` over some axes of a mesh."""
    types = {*jax.sharding.get_abstract_mesh().axis_types}
    if jax.sharding.AxisType.Manual in types and len(types) > 1:
        return "it does not support jax.shard_map over only some of the axes of a mesh"
    return None
