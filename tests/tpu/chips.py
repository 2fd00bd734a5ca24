"""Compiles programs for TPUs on a machine without one: libtpu has the compiler, and topologies."""

import functools
import os

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

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
