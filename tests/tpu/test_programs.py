"""Training steps of every cell and option, compiled for one TPU; nothing runs."""

import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import pytest
from cases import CASES, LENGTHS, B
from chips import compiled_on, devices, training_step

import jax_dynrnn as rnn
from jax_dynrnn.engines import selection

CHIPS = ["v5e:2x2", "v6e:2x2"]
T = 128
"""Enough steps for an engine that is not chosen for little work."""
ENGINES = ["scan", "blocked", "pallas"]
STORED = pathlib.Path(__file__).with_name("memory.json")


@pytest.fixture(autouse=True)
def one_step_in_an_iteration(monkeypatch):
    """There are eight else: to compile one takes a fifth of the time."""
    monkeypatch.setattr(selection, "ACCELERATOR_UNROLL", 1)


def types_of(case, dtype, time=T):
    return jax.eval_shape(lambda: (case.params(dtype), case.inputs(dtype, time), case.state(dtype)))


def program(case, chip, dtype="bfloat16", engine=None):
    def run(params, inputs, state):
        return rnn.dynamic_rnn(
            case.cell, params, inputs, LENGTHS, state, key=case.key(), implementation=engine
        )

    return compiled_on(chip, training_step(run), *types_of(case, dtype))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_every_cell_compiles(number):
    """A training step in bfloat16, with the engine that is chosen, for one chip or the other."""
    assert program(CASES[number], CHIPS[number % 2]).memory_analysis() is not None


@functools.cache
def engines_of(case, dtype):
    params, inputs, state = types_of(case, dtype)
    with jax.default_device(devices(CHIPS[0])[0]):
        found = rnn.explain(case.cell, params, inputs, LENGTHS, state, key=jax.eval_shape(case.key))
    return [name for name in ENGINES if found.reasons[name] is None]


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_cell_compiles_with_every_engine(case, chip, dtype):
    """The whole product of cells, engines, dtypes and both chips."""
    for engine in engines_of(case, dtype):
        program(case, chip, dtype, engine)


def test_explain_computes_nothing():
    """It answers for a chip that only compiles, also about a stack whose parts draw."""
    cell = rnn.MultiRNNCell([rnn.DropoutWrapper(rnn.LSTMCell(32), 0.9), rnn.LSTMCell(32)])
    inputs = jax.ShapeDtypeStruct((B, T, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda key: cell.init(key, inputs.shape), key)
    with jax.default_device(devices(CHIPS[0])[0]):
        assert rnn.explain(cell, params, inputs, key=key).reasons["pallas"] is None


CELL = rnn.LSTMCell(32)
STACK = rnn.MultiRNNCell([rnn.LSTMCell(32), rnn.CudnnCompatibleGRUCell(32)])
FLAGS = jax.ShapeDtypeStruct((B, T), bool)


def run_cell(cell=CELL, **options):
    def run(params, inputs, *flags):
        named = dict(zip(options.get("flags", ()), flags, strict=True))
        rest = {k: v for k, v in options.items() if k != "flags"}
        return rnn.dynamic_rnn(cell, params, inputs, LENGTHS, **named, **rest)

    return run


def both_directions(params, inputs):
    return rnn.bidirectional_dynamic_rnn(CELL, CELL, params, inputs, LENGTHS)


def attends(params, inputs):
    cell = rnn.AttentionWrapper(CELL, rnn.LuongAttention(32, memory_size=8))
    params = cell.attend(params, jnp.ones((B, 7, 8), inputs.dtype), LENGTHS)
    return rnn.dynamic_rnn(cell, params, inputs, LENGTHS)


def init(cell):
    return lambda: cell.init(jax.random.key(0), (B, T, 8), jnp.bfloat16)


def init_both():
    return {"fw": init(CELL)(), "bw": init(CELL)()}


OPTIONS = {
    "remat": (run_cell(remat="sqrt"), init(CELL)),
    "mask": (run_cell(flags=("mask",)), init(CELL), FLAGS),
    "resets": (run_cell(flags=("resets",)), init(CELL), FLAGS),
    "reverse": (run_cell(reverse=True), init(CELL)),
    "both directions": (both_directions, init_both),
    "stack": (run_cell(STACK), init(STACK)),
    "attention": (
        attends,
        init(rnn.AttentionWrapper(CELL, rnn.LuongAttention(32, memory_size=8))),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_compiles(name):
    """A training step in bfloat16 with each option."""
    run, make_params, *flags = OPTIONS[name]
    inputs = jax.ShapeDtypeStruct((B, T, 8), jnp.bfloat16)
    chip = CHIPS[list(OPTIONS).index(name) % 2]
    compiled_on(chip, training_step(run), jax.eval_shape(make_params), inputs, *flags)


def test_decoding_compiles():
    """Beam search over a vocabulary of 50."""

    def search(params, table):
        return rnn.beam_search(
            CELL, params, lambda ids: table[ids], lambda output: output @ table.T, 1, 2,
            CELL.zero_state(B, jnp.bfloat16), beam_width=3, maximum_iterations=20,
        )  # fmt: skip

    params = jax.eval_shape(lambda: CELL.init(jax.random.key(0), (B, T, 32), jnp.bfloat16))
    table = jax.ShapeDtypeStruct((50, 32), jnp.bfloat16)
    compiled_on(CHIPS[0], search, params, table)


def big(cell, units, batch=512, time=512, **options):
    """A training step at a size that is used."""
    inputs = jax.ShapeDtypeStruct((time, batch, units), jnp.bfloat16)
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    params = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), (batch, time, units), jnp.bfloat16)
    )

    def run(params, inputs, lengths):
        return rnn.dynamic_rnn(cell, params, inputs, lengths, time_major=True, **options)

    return compiled_on(CHIPS[0], training_step(run), params, inputs, lengths)


BIG = {
    "LSTM 128": lambda: big(rnn.LSTMCell(128), 128),
    "GRU 128": lambda: big(rnn.CudnnCompatibleGRUCell(128), 128),
    "LSTM 128, remat sqrt": lambda: big(rnn.LSTMCell(128), 128, remat="sqrt"),
    "LSTM 128, scan": lambda: big(rnn.LSTMCell(128), 128, implementation="scan"),
    "LSTM 128, pallas": lambda: big(rnn.LSTMCell(128), 128, implementation="pallas"),
}


@pytest.mark.parametrize("name", BIG)
def test_memory(name):
    """Training steps take at most 1.1 times the temporary memory that is stored.

    With JAX_DYNRNN_STORE=1 what they take is stored instead.
    """
    stored = json.loads(STORED.read_text())
    taken = BIG[name]().memory_analysis().temp_size_in_bytes
    if "JAX_DYNRNN_STORE" in os.environ:
        STORED.write_text(json.dumps(stored | {name: taken}, indent=2) + "\n")
    else:
        assert 0 < taken <= 1.1 * stored[name]


def test_offloaded_residuals_are_not_on_the_device():
    """`remat="offload"` takes less of the device's memory than no `remat`, or is refused."""
    without = json.loads(STORED.read_text())["LSTM 128"]
    offloaded = big(rnn.LSTMCell(128), 128, remat="offload").memory_analysis()
    assert offloaded.temp_size_in_bytes < without / 2
    assert offloaded.host_temp_size_in_bytes > 0
