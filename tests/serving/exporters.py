"""Exports functions to ONNX and LiteRT, and runs what was exported."""

import subprocess
import sys

import jax
import numpy as np
import pytest

REASON = (
    "jax2onnx needs an older orbax than other tests: `make serving` installs it elsewhere, and "
    "runs these"
)
jax2onnx = pytest.importorskip("jax2onnx", reason=REASON)
pytest.importorskip("onnxruntime", reason=REASON)
tensorflow = pytest.importorskip("tensorflow", reason=REASON)

RUN = """
import sys
import numpy as np
import onnxruntime
model, given, found = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
assert "jax" not in sys.modules
given = np.load(given)
results = session.run(None, {x.name: given[x.name] for x in session.get_inputs()})
np.savez(found, *results)
"""
"""Runs a model on stored arrays, in a process without JAX."""


def to_onnx(f, shapes, folder):
    """Exports `f(*arrays)` with inputs of the names in `shapes` -> the path of the model."""
    model = jax2onnx.to_onnx(f, [*shapes.values()], input_names=[*shapes])
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run_onnx(model, given):
    """The outputs of a model, computed by onnxruntime in another process."""
    stored, found = model.with_name("given.npz"), model.with_name("found.npz")
    np.savez(stored, **given)
    subprocess.run([sys.executable, "-c", RUN, *map(str, (model, stored, found))], check=True)
    with np.load(found) as results:
        return [results[name] for name in results.files]


def to_litert(f, given, quantized=False):
    """A signature runner of TensorFlow's interpreter for `f(**arrays)`, and the model's bytes."""
    from jax.experimental import jax2tf

    tf = tensorflow
    types = [tf.TensorSpec(x.shape, tf.as_dtype(x.dtype), name=name) for name, x in given.items()]

    def positional(*arrays):
        return f(**dict(zip(given, arrays, strict=True)))

    module = tf.Module()
    module.f = tf.function(
        jax2tf.convert(positional, with_gradient=False), input_signature=types, autograph=False
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.f.get_concrete_function()], module
    )
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    model = converter.convert()
    return tf.lite.Interpreter(model_content=model).get_signature_runner(), model


def assert_close(found, expected, bound):
    """Asserts that arrays agree, relative to the largest number of each."""
    expected = jax.tree.leaves(expected)
    assert len(found) == len(expected) > 0
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=bound * (1 + np.abs(y).max(initial=0)))
