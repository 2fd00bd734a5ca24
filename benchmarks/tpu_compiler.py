"""Compiles programs for TPUs on a machine without one: libtpu has the compiler, and topologies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
}
"""Otherwise libtpu asks the network which machine this is, and several processes exclude each
other. It is read when libtpu is loaded."""


@functools.cache
def devices(topology: str) -> Any:
    """The chips of a topology, such as `"v5e:4x4"`."""
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def compiled(function: Callable, *types: Any) -> Any:
    """`function` compiled for the devices that the types of its arguments are on."""
    return jax.jit(function).trace(*types).lower(lowering_platforms=("tpu",)).compile()


def compiled_on(topology: str, function: Callable, *types: Any) -> Any:
    """`function` compiled for the first chip of a topology."""
    device = devices(topology)[0]
    sharding = SingleDeviceSharding(device)
    on_chip = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), types
    )
    with jax.default_device(device):  # else the library would take it to be for a CPU
        return compiled(function, *on_chip)
