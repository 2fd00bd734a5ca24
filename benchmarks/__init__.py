"""Benchmarks: this library and other frameworks on the same weights and the same batches.

    python -m benchmarks                    # the whole grid: over an hour
    python -m benchmarks --short            # tests that everything works; figures mean nothing
    python -m benchmarks --report FILE      # tables and picture of earlier results
    python -m benchmarks.scaling            # time and memory against T, B, H and raggedness

Every implementation must first produce the same outputs, final states and gradients. Those in JAX
run in one process, TensorFlow and PyTorch in one process each, all on the same two cores. In each
round every implementation is timed once, in a new random order.
"""
