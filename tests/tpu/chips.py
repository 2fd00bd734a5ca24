"""Programs for TPUs, compiled on a machine without one."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

from benchmarks.tpu_compiler import ENVIRONMENT, devices
from benchmarks.tpu_compiler import compiled as compiled
from benchmarks.tpu_compiler import compiled_on as compiled_on

pytest.importorskip("libtpu", reason="libtpu is not installed: `make tpu` installs it")
os.environ |= ENVIRONMENT


def mesh_of(topology, axis, names=("data", "model")):
    """All chips of a topology, in as many rows and columns as it has."""
    shape = tuple(map(int, topology.partition(":")[2].split("x")))
    return Mesh(np.array(devices(topology)).reshape(shape), names, axis_types=(axis,) * len(names))


def placed(mesh, tree, spec):
    """The types of arrays, sharded so."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def training_step(run):
    """The gradients of all floating results of `run(*arguments)`, for all floating arguments."""

    def step(*arguments):
        leaves, structure = jax.tree.flatten(arguments)
        floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

        def loss(some):
            some = iter(some)
            every = [next(some) if f else x for x, f in zip(leaves, floating, strict=True)]
            found = jax.tree.leaves(run(*structure.unflatten(every)))
            return sum(
                jnp.sin(x.astype(jnp.float32)).sum()
                for x in found
                if jnp.issubdtype(x.dtype, jnp.floating)
            )

        return jax.grad(loss)([x for x, f in zip(leaves, floating, strict=True) if f])

    return step
