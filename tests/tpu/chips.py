"""Compiles programs for TPUs on a machine without one: libtpu has the compiler, and topologies."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

pytest.importorskip("libtpu", reason="libtpu is not installed: `make tpu` installs it")
# Otherwise libtpu asks the network which machine this is, and several processes exclude each other.
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
}


@functools.cache
def devices(topology):
    """The chips of a topology, such as `"v5e:4x4"`."""
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def mesh_of(topology, axis, names=("data", "model")):
    """All chips of a topology, in as many rows and columns as it has."""
    shape = tuple(map(int, topology.partition(":")[2].split("x")))
    return Mesh(np.array(devices(topology)).reshape(shape), names, axis_types=(axis,) * len(names))


def placed(mesh, tree, spec):
    """The types of arrays, sharded so."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def compiled(function, *types):
    """`function` compiled for the devices that the types of its arguments are on."""
    return jax.jit(function).trace(*types).lower(lowering_platforms=("tpu",)).compile()


def compiled_on(topology, function, *types):
    """`function` compiled for the first chip of a topology."""
    device = devices(topology)[0]
    sharding = SingleDeviceSharding(device)
    on_chip = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), types
    )
    with jax.default_device(device):  # else the library would take it to be for a CPU
        return compiled(function, *on_chip)


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
