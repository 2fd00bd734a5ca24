"""Where arrays are: platforms, meshes, and the mesh axes that values vary over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from .._types import PyTree


class Device(NamedTuple):
    """What a run is compiled for."""

    platform: str
    """`"cpu"`, `"gpu"` or `"tpu"`."""
    kind: str
    """As in `jax.Device.device_kind`."""


def device(tree: PyTree = None) -> Device:
    """The devices that the arrays in `tree` are on, or that the mesh that is set has.

    Where neither is known, `jax.default_device`. A program that is compiled ahead of time is then
    for its target.
    """
    meshes = [jax.sharding.get_abstract_mesh()]
    for x in jax.tree.leaves(tree):
        sharding = sharding_of(x)
        if isinstance(sharding, jax.sharding.NamedSharding):
            meshes.append(sharding.mesh.abstract_mesh)
        elif sharding is not None and getattr(x, "committed", True):
            return _device(next(iter(sharding.device_set)))
    for mesh in meshes:
        if mesh.abstract_device is not None:
            return _device(mesh.abstract_device)
    default = jax.config.jax_default_device  # pyright: ignore
    if default is None or isinstance(default, str):
        return _device(jax.devices(default)[0])
    return _device(default)


def _device(x: Any) -> Device:
    return Device(x.platform, x.device_kind)


def sharding_of(x: Any) -> Any:
    """The sharding of an array, or of the type of one; `None` if it has none."""
    if isinstance(x, jax.core.Tracer):
        return jax.typeof(x).sharding
    return getattr(x, "sharding", None)


def varying_axes(tree: PyTree) -> frozenset[Any]:
    """The mesh axes of `jax.shard_map` that anything in `tree` varies over."""
    types = [jax.typeof(x) for x in jax.tree.leaves(tree)]
    return frozenset().union(*(t.manual_axis_type.varying for t in types))


def pcast(x: jax.Array, axes: frozenset[Any]) -> jax.Array:
    """`x` as varying over all `axes`; a key stays as it is."""
    if not axes or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def typed_as(x: jax.Array, aval: Any) -> jax.Array:
    """`x` with the sharding of `aval` on explicit mesh axes, varying over the mesh axes that it
    varies over: a loop carries one type, and the branches of a `cond` return one."""
    mesh = aval.sharding.mesh
    is_explicit = jax.sharding.AxisType.Explicit in mesh.axis_types
    if is_explicit and jax.typeof(x).sharding != aval.sharding:
        x = jax.reshard(x, aval.sharding)
    return pcast(x, aval.manual_axis_type.varying)


def typed_as_results(f: Callable[[Any], PyTree], tree: PyTree) -> Any:
    """`tree` typed as what `f(tree)` returns: a pytree of the same structure."""
    if not on_mesh(tree):
        return tree
    structure = jax.tree.structure(tree)
    while True:
        avals = jax.make_jaxpr(f)(tree).out_avals
        typed = jax.tree.map(typed_as, tree, structure.unflatten(avals))
        # The types of results may change with those of the arguments.
        if jax.tree.map(jax.typeof, typed) == jax.tree.map(jax.typeof, tree):
            return typed
        tree = typed


def row_sharding(tree: PyTree) -> Any:
    """The sharding of an array in `tree` whose rows are sharded over explicit mesh axes, or
    `None`."""
    for x in jax.tree.leaves(tree):
        sharding = jax.typeof(x).sharding
        if jax.sharding.AxisType.Explicit in sharding.mesh.axis_types and x.ndim:
            if sharding.spec[0] is not None:
                return sharding
    return None


def with_rows_over(tree: PyTree, sharding: Any) -> Any:
    """`tree` with the rows of every array sharded as those of `sharding`, unless that is `None`."""
    if sharding is None:
        return tree

    def shard(x):
        if not np.ndim(x) or jax.typeof(x).sharding.spec[0] is not None:
            return x
        spec = sharding.spec[0], *jax.typeof(x).sharding.spec[1:]
        placed = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*spec))
        return jax.reshard(x, placed)

    return jax.tree.map(shard, tree)


def zeros(types: PyTree, like: PyTree) -> PyTree:
    """Zeros of these types, that vary over the mesh axes that the arrays in `like` vary over."""
    # The carry of a loop in `jax.shard_map` has the type of its results from the start.
    axes = varying_axes(like)
    return jax.tree.map(lambda x: pcast(jnp.zeros_like(x), axes), types)


def explicit_axes_remain() -> bool:
    """Whether arrays have explicit shardings inside of a run: under a `jax.shard_map` over other
    axes, or `vmap` over a sharded axis."""
    return jax.sharding.AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types


def in_shard_map() -> bool:
    """Whether this is inside of a `jax.shard_map`."""
    return jax.sharding.AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types


def why_axes_remain() -> str | None:
    """Why a cell cannot be split here: a part of the mesh is neither manual nor divided by rows."""
    types = {*jax.sharding.get_abstract_mesh().axis_types}
    if jax.sharding.AxisType.Manual in types and len(types) > 1:
        return "it does not support jax.shard_map over only some of the axes of a mesh"
    if _axis_env("explicit_mesh_axis_names"):
        return "it does not support vmap over an axis that is sharded on an explicit mesh"
    return None


def why_checked(tree: PyTree) -> str | None:
    """Why an engine without `checks_vma` cannot run in this `jax.shard_map` of a user."""
    if varying_axes([x for x in jax.tree.leaves(tree) if isinstance(x, jax.core.Tracer)]):
        return "it supports jax.shard_map with check_vma=False only"
    return None


def axes_of_vmap() -> frozenset[Any]:
    """The mesh axes that `vmap(..., spmd_axis_name=...)` has taken for what it maps."""
    return _axis_env("spmd_axis_names")


def _axis_env(name: str) -> frozenset[Any]:
    try:
        from jax._src.core import get_axis_env  # JAX has no public function for it

        return frozenset(getattr(get_axis_env(), name))
    except (ImportError, AttributeError):
        return frozenset()


def on_mesh(tree: PyTree) -> bool:
    """Whether a mesh is set, or an array in `tree` is on one."""
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    meshes = [jax.typeof(x).sharding.mesh for x in arrays]
    return any(not mesh.empty for mesh in (jax.sharding.get_abstract_mesh(), *meshes))
