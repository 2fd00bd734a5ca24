"""Whether a run is being exported to another runtime, which supports only some programs."""

from __future__ import annotations

import sys

import jax.numpy as jnp


def exporter() -> str | None:
    """The exporter that is tracing, `"jax2onnx"` or `"jax2tf"`, or `None`.

    Neither has a public function that says so.
    """
    # jax2onnx replaces functions of JAX while it traces.
    if getattr(jnp.zeros, "__module__", "").startswith("jax2onnx"):
        return "jax2onnx"
    jax2tf = sys.modules.get("jax.experimental.jax2tf.jax2tf")
    # A list while it traces, of the calls of TensorFlow that it finds.
    calls = getattr(jax2tf, "get_thread_local_state_call_tf_concrete_function_list", None)
    return "jax2tf" if calls is not None and calls() is not None else None
