"""Meshes of devices of the CPU, a batch to run on them, and programs that are compiled for them."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.collectives import collectives_by_place

BOTH = pytest.mark.parametrize("axis", [AxisType.Auto, AxisType.Explicit])
INPUTS = np.random.default_rng(0).normal(size=(8, 70, 4)).astype(np.float32)
ENDS = np.array([70, 3, 0, 41, 70, 1, 12, 64], np.int32)


def mesh_of(axis, shape=(2, 2), names=("data", "model")):
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, (axis,) * len(shape), devices=devices)


def compiled_on(mesh, function, *arguments, specs):
    """`function` compiled for arguments with these shardings, and the arguments placed so."""
    placed = jax.tree.map(
        lambda spec, tree: jax.device_put(tree, NamedSharding(mesh, spec)),
        specs, arguments, is_leaf=lambda x: isinstance(x, P),
    )  # fmt: skip
    return jax.jit(function).lower(*placed).compile(), placed


def in_loops(program):
    return collectives_by_place(program.as_text())["in loops"]
