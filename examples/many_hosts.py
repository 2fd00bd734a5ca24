"""Trains a classifier of sequences on several processes, as on several hosts.

    python examples/many_hosts.py                                       # one process
    python examples/many_hosts.py --process 0 --processes 2 &           # two of them
    python examples/many_hosts.py --process 1 --processes 2

Each process pads its own rows of every batch; the run is saved every few steps, and goes on from
the last checkpoint if it is started again, on any number of processes.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_dynrnn as rnn

CELL = rnn.LSTMCell(16)
OPTIMIZER = optax.adam(1e-2)
BATCH, FEATURES = 16, 4


def main() -> None:
    options = parse()
    if options.processes > 1:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))
    rows, everywhere = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
    manager = ocp.CheckpointManager(
        options.checkpoints.resolve(),
        options=ocp.CheckpointManagerOptions(save_interval_steps=5, max_to_keep=2),
    )
    state = jax.jit(first_state, out_shardings=everywhere)()
    if (done := manager.latest_step()) is not None:
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), state
        )
        state = manager.restore(done, args=ocp.args.StandardRestore(like))
    for step in range(done or 0, options.steps):
        if step == options.crash_at and options.process == options.processes - 1:
            manager.wait_until_finished()
            os.kill(os.getpid(), signal.SIGKILL)
        batch = [jax.make_array_from_process_local_data(rows, x) for x in own_rows(step)]
        state, loss = train(state, *batch)
        manager.save(step + 1, args=ocp.args.StandardSave(state))
        if options.process == 0:
            print(f"{step} {float(loss).hex()}", flush=True)
    manager.wait_until_finished()


def first_state() -> dict:
    params = {
        "rnn": CELL.init(jax.random.key(0), (FEATURES,)),
        "out": jnp.zeros(CELL.num_units),
    }
    return {"params": params, "moments": OPTIMIZER.init(params)}


@jax.jit
def train(state: dict, inputs: jax.Array, lengths: jax.Array, labels: jax.Array) -> tuple:
    def loss(params):
        _, last = rnn.dynamic_rnn(CELL, params["rnn"], inputs, lengths)
        return optax.sigmoid_binary_cross_entropy(last.h @ params["out"], labels).mean()

    value, gradients = jax.value_and_grad(loss)(state["params"])
    updates, moments = OPTIMIZER.update(gradients, state["moments"], state["params"])
    return {"params": optax.apply_updates(state["params"], updates), "moments": moments}, value


def own_rows(step: int) -> tuple:
    """This process's rows of a batch: sequences whose label is whether their sum is positive."""
    random = np.random.default_rng(step)
    sequences = [random.normal(size=(n, FEATURES)) for n in random.integers(1, 30, BATCH)]
    labels = np.array([x.sum() > 0 for x in sequences], np.float32)
    own = slice(*(BATCH // jax.process_count() * (jax.process_index() + i) for i in (0, 1)))
    sequences = [x.astype(np.float32) for x in sequences[own]]
    # All processes must pad to the same number of steps.
    inputs, lengths = rnn.pad_sequences(sequences, buckets=[8, 16, 32], across_hosts=True)
    return inputs, lengths, labels[own]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0, help="the number of this process")
    parser.add_argument("--coordinator", default="127.0.0.1:9876", help="address of process 0")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--checkpoints", type=Path, default=Path(".cache/many_hosts"))
    parser.add_argument("--crash-at", type=int, help="a step at which the last process is killed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
