"""One process of several: runs cells on the rows of all, and prints what it found as JSON."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_dynrnn as rnn
from benchmarks.collectives import collectives_by_place

CELLS = {
    "lstm": rnn.LSTMCell(8),
    "stack": rnn.MultiRNNCell([rnn.GRUCell(8), rnn.LSTMCell(4)]),
    "dropout": rnn.DropoutWrapper(rnn.GRUCell(8), 0.7, state_keep_prob=0.6),
    "rank-0 state": rnn.PhasedLSTMCell(4),
}
ROWS, STEPS = 8, 70


def inputs_of(name):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(ROWS, STEPS, 3)).astype(np.float32)
    if name == "rank-0 state":
        inputs = (np.cumsum(np.abs(inputs[..., :1]), 1), inputs)
    return inputs, np.array([70, 3, 0, 41, 69, 1, 12, 64], np.int32)


def step_of(name, engine):
    """A training step: the loss, and the gradients of params."""
    cell, key = CELLS[name], jax.random.key(1) if name == "dropout" else None

    def step(params, inputs, lengths):
        def loss(params):
            outputs, state = rnn.dynamic_rnn(
                cell, params, inputs, lengths, key=key, implementation=engine
            )
            return sum(jnp.sin(x).sum() for x in jax.tree.leaves((outputs, state)))

        return jax.value_and_grad(loss)(params)

    return step


def run(name, engine, axis):
    """The loss, the sum of the absolute gradients, and the collectives inside of loops."""
    mesh = jax.make_mesh((jax.device_count(),), ("rows",), (axis,))
    rows, everywhere = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
    inputs, lengths = inputs_of(name)
    shape = jax.tree.map(np.shape, inputs)
    params = jax.tree.map(np.asarray, CELLS[name].init(jax.random.key(0), shape))
    own = slice(*(ROWS // jax.process_count() * (jax.process_index() + i) for i in (0, 1)))

    def place(x):
        return jax.make_array_from_process_local_data(rows, x[own])

    placed = (
        jax.tree.map(lambda x: jax.make_array_from_process_local_data(everywhere, x), params),
        *jax.tree.map(place, (inputs, lengths)),
    )
    program = jax.jit(step_of(name, engine)).lower(*placed).compile()
    loss, gradient = program(*placed)
    size = sum(float(np.abs(np.asarray(g)).sum()) for g in jax.tree.leaves(gradient))
    places = collectives_by_place(program.as_text())
    return [float(loss), size, dict(places["in loops"])]


def pad(**options):
    """The padded shape of this process's rows, or the error."""
    index = jax.process_index()
    try:
        batch, lengths = rnn.pad_sequences(across_hosts=True, **options)
    except ValueError as error:
        return str(error)
    return [list(batch.shape), lengths.tolist(), index]


def paddings():
    """Calls of `pad_sequences` in which the processes differ."""
    i = jax.process_index()
    two = [np.ones((n, 3), np.float32) for n in (2, 5 + 10 * i)]
    empty = {"features": (3,), "dtype": np.float32}
    return {
        "other lengths": pad(arrays=two),
        "buckets": pad(arrays=two, buckets=[8, 16, 32]),
        "no rows": pad(arrays=two if i else [], **empty),
        "length": pad(arrays=two, length=20),
        "too long": pad(arrays=two, buckets=[8]),
        "other features": pad(arrays=[np.ones((4, 3 + i), np.float32)]),
        "other rows": pad(arrays=two[: 1 + i]),
        "other dtype": pad(arrays=[np.ones((4, 3), np.int32 if i else np.float32)]),
        "after errors": pad(arrays=two),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    parser.add_argument("--coordinator")
    options = parser.parse_args()
    if options.processes > 1:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    found = {
        f"{name}, {engine}, {axis.name}": run(name, engine, axis)
        for name in CELLS
        for engine in ("scan", None)
        for axis in (AxisType.Auto, AxisType.Explicit)
        # Of the others one on each kind of axes: programs take seconds to compile.
        if name == "lstm" or (engine is None) == (axis == AxisType.Explicit)
    }
    found["paddings"] = paddings()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
