"""The kernels of `pallas` for TPUs, compiled by Mosaic; nothing runs."""

import jax
import jax.numpy as jnp
import pytest
from chips import compiled_on, training_step
from kernel_cases import EVERYTHING, Own

import jax_dynrnn as rnn

CHIPS = ["v5e:2x2", "v6e:2x2", "v5p:2x2x1"]
CELLS = {
    "lstm": rnn.LSTMCell(128),
    "peepholes": rnn.LSTMCell(96, use_peepholes=True, cell_clip=3.0),
    "gru reset after": rnn.CudnnCompatibleGRUCell(256),
    "vanilla": rnn.BasicRNNCell(512),
    "minimal": rnn.MinimalRNNCell(128),
    "own": Own(100),
    "all arithmetic": EVERYTHING,
    "lstm 512": rnn.LSTMCell(512),
}
EVERYDAY = {("lstm", 0), ("all arithmetic", 1), ("gru reset after", 2), ("own", 0)}


def compile_step(cell, chip, dtype, batch=20, time=100, precision=None, **options):
    inputs = jax.ShapeDtypeStruct((batch, time, 40), dtype)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape, dtype))
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    flags = {name: jax.ShapeDtypeStruct((batch, time), bool) for name in options.pop("flags", ())}

    def run(params, inputs, lengths, flags):
        return rnn.dynamic_rnn(
            cell, params, inputs, lengths, implementation="pallas", **options, **flags
        )

    with jax.default_matmul_precision(precision):
        text = compiled_on(chip, training_step(run), params, inputs, lengths, flags).as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2


@pytest.mark.parametrize(
    "name, number",
    [
        pytest.param(name, number, marks=[] if (name, number) in EVERYDAY else [pytest.mark.full])
        for name in CELLS
        for number in range(len(CHIPS))
    ],
)
def test_accepted(name, number):
    """A training step of ragged rows."""
    compile_step(CELLS[name], CHIPS[number], "bfloat16")


@pytest.mark.parametrize("precision", [None, "high", "highest", "BF16_BF16_F32_X3"])
def test_float32(precision):
    """In float32, at every matmul precision."""
    compile_step(CELLS["lstm"], CHIPS[0], "float32", precision=precision)


def test_flags():
    """A mask and resets, in a reversed run."""
    compile_step(CELLS["lstm"], CHIPS[0], "bfloat16", reverse=True, flags=("mask", "resets"))


def test_few_and_many_rows():
    """One row of few steps, and 4,096 rows."""
    compile_step(CELLS["lstm"], CHIPS[0], "bfloat16", batch=1, time=3)
    compile_step(rnn.BasicRNNCell(128), CHIPS[0], "bfloat16", batch=4096)


@pytest.mark.full
def test_several_tiles():
    """Rows in several tiles, of wide gates."""
    compile_step(CELLS["gru reset after"], CHIPS[2], "bfloat16", batch=3000)


def test_integer_inputs():
    """Ids, which an embedding outside of the kernel turns into vectors."""
    cell = rnn.EmbeddingWrapper(rnn.LSTMCell(128), 30, 16)
    ids = jax.ShapeDtypeStruct((20, 100), jnp.int32)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), ids.shape, jnp.bfloat16))

    def run(params, ids):
        return rnn.dynamic_rnn(cell, params, ids, implementation="pallas")

    compiled_on(CHIPS[0], training_step(run), params, ids)
