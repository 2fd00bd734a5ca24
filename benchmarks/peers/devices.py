"""Ours and Flax with one JAX device per core, and the rows of the batch sharded over the devices.

The number of devices must be set before JAX's first computation. Therefore these implementations
run in their own process.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import machine
from ..compiled import Compiled
from ..grid import WITHOUT_PEERS
from ..problems import params_of
from . import DEVICES, flax, ours

CORES = machine.cores()
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", CORES)


def names(kind, size, given):
    del given
    return list(_runs(kind, size, params_of(kind, size)))


def build(name, kind, size, weights):
    return Sharded(*_runs(kind, size, weights)[name])


def _runs(kind, size, params):
    if size.batch % CORES or kind in WITHOUT_PEERS:  # a sharded axis must divide evenly
        return {}
    rivals = flax.build(kind, size, params)
    runs = {f"flax{DEVICES}{name.removeprefix('flax')}": run for name, run in rivals.items()}
    return {f"ours{DEVICES}": ours.build(kind, size, params)["ours"]} | runs


class Sharded:
    """Has the interface of `benchmarks.compiled.Compiled`; is compiled at the first `feed`."""

    def __init__(self, run, weights):
        self.run, self.weights, self.compiled = run, weights, None

    def feed(self, inputs, lengths):
        if self.compiled is None:
            self.compiled = Compiled(self.run, self.weights, inputs, lengths, place=_place)
        self.compiled.feed(inputs, lengths)

    def forward(self):
        return self.compiled.forward()

    def training(self):
        return self.compiled.training()

    def results(self):
        return self.compiled.results()


def _place(weights, *rows):
    """Replicates the weights, and shards the other arrays along their first axis."""
    mesh = Mesh(np.array(jax.devices()), ("rows",))

    def put(x, *axes):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    return put(weights), *(put(x, "rows") for x in rows)
