"""Ours and Flax's with one JAX device for each core, and the rows of the batch spread over them.

JAX must be told before its first computation, which is why this has a process of its own.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import machine
from ..compiled import Compiled
from ..grid import ALONE
from ..problems import params_of
from . import DEVICES, flax, ours

CORES = machine.cores()
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", CORES)


def names(kind, size, given):
    del given
    return list(_runs(kind, size, params_of(kind, size)))


def build(name, kind, size, weights):
    return Spread(*_runs(kind, size, weights)[name])


def _runs(kind, size, params):
    if size.batch % CORES or kind in ALONE:
        return {}
    rivals = flax.build(kind, size, params)
    runs = {f"flax{DEVICES}{name.removeprefix('flax')}": run for name, run in rivals.items()}
    return {f"ours{DEVICES}": ours.build(kind, size, params)["ours"]} | runs


class Spread:
    """Takes and gives what `benchmarks.compiled.Compiled` does; compiled when it is first fed."""

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
    """The weights on every device, and on each its rows."""
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    put = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))  # noqa: E731
    return put(weights), *(put(x, "rows") for x in rows)
