"""Exported programs run in another process, even one that does not import this package."""

import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from cases import perturbed

import jax_dynrnn as rnn

LSTM, GRU = rnn.LSTMCell(4), rnn.GRUCell(3)
SIZES = [(2, 3), (5, 7)]

SERVE = """
import pathlib, sys
import jax.export
import numpy as np

folder = pathlib.Path(sys.argv[1])
read = lambda name: jax.export.deserialize(bytearray((folder / name).read_bytes()))
plain = read("plain")
assert "jax_dynrnn" not in sys.modules
try:
    read("typed")
except ValueError as error:
    assert "unregistered type `jax_dynrnn.LSTMStateTuple`" in str(error), error
else:
    raise AssertionError("read a type that is not registered")
with np.load(folder / "inputs.npz") as file:
    given = dict(file)
results = {}
for i in range(len(given) // 2):
    x, lengths = given[f"x{i}"], given[f"lengths{i}"]
    for name, y in plain.call(x, lengths).items():
        results[f"{name}{i}"] = y
import jax_dynrnn
outputs, state = read("typed").call(given["x0"], given["lengths0"])
assert isinstance(state, jax_dynrnn.LSTMStateTuple)
np.savez(folder / "results.npz", typed=outputs, c=state.c, h=state.h, **results)
"""


def export(function, **options):
    """The serialised export of `function(x, lengths)`, with symbolic batch and time."""
    batch, time = jax.export.symbolic_shape("b, t")
    exported = jax.export.export(jax.jit(function))(
        jax.ShapeDtypeStruct((batch, time, 3), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    return exported.serialize(**options)


def data(batch, time):
    """Random inputs with NaN as padding, and their lengths."""
    random = np.random.default_rng(batch)
    x = random.normal(size=(batch, time, 3)).astype(np.float32)
    lengths = np.linspace(0, time, batch).astype(np.int32)
    x[np.arange(time) >= lengths[:, None]] = np.nan
    return x, lengths


def test_served_by_another_process(tmp_path):
    """Two programs with symbolic sizes; the one that returns a state tuple needs the package."""
    with jax.enable_x64(False):
        lstm = perturbed(LSTM.init(jax.random.key(0), (1, 1, 3)), 1)
        gru = perturbed(rnn.init_bidirectional(jax.random.key(1), GRU, GRU, (1, 1, 4)), 2)

        def plain(x, lengths):
            outputs, state = rnn.dynamic_rnn(LSTM, lstm, x, lengths)
            both, (fw, bw) = rnn.bidirectional_dynamic_rnn(GRU, GRU, gru, outputs, lengths)
            return {"y": rnn.concatenate(*both), "fw": fw, "bw": bw, "memory": state.c}

        def typed(x, lengths):
            return rnn.dynamic_rnn(LSTM, lstm, x, lengths)

        for function in (plain, typed):
            (tmp_path / function.__name__).write_bytes(export(function))
        given = [data(*size) for size in SIZES]
        named = {f"x{i}": x for i, (x, _) in enumerate(given)}
        named |= {f"lengths{i}": n for i, (_, n) in enumerate(given)}
        np.savez(tmp_path / "inputs.npz", **named)
        run = [sys.executable, "-c", SERVE, str(tmp_path)]
        served = subprocess.run(run, capture_output=True, text=True)
        assert served.returncode == 0, served.stderr
        with np.load(tmp_path / "results.npz") as results:
            for i, arguments in enumerate(given):
                for name, expected in plain(*arguments).items():
                    np.testing.assert_allclose(results[f"{name}{i}"], expected, atol=1e-6)
            outputs, state = typed(*given[0])
            for name, expected in (("typed", outputs), ("c", state.c), ("h", state.h)):
                np.testing.assert_allclose(results[name], expected, atol=1e-6)


def test_gradients_of_an_exported_program():
    """A program exported with `vjp_order=1` has the gradients of the run."""
    with jax.enable_x64(False):
        lstm = perturbed(LSTM.init(jax.random.key(0), (1, 1, 3)), 1)

        def function(x, lengths):
            return rnn.dynamic_rnn(LSTM, lstm, x, lengths)[1].h

        program = jax.export.deserialize(export(function, vjp_order=1))
        x, lengths = data(*SIZES[0])
        gradients = [
            jax.grad(lambda x, of=of: jnp.sin(of(x, lengths)).sum())(x)
            for of in (program.call, function)
        ]
        np.testing.assert_allclose(*gradients, atol=1e-6)
        assert (gradients[1] != 0).any()
