"""How fast a run is here and elsewhere, on the same weights and the same batches.

    python -m benchmarks                    # the whole grid: over an hour
    python -m benchmarks --short            # is it all alive? The figures mean nothing
    python -m benchmarks --report FILE      # tables and picture of what was measured before
    python -m benchmarks.scaling            # time and memory against T, B, H and raggedness

Every implementation is first held to the same outputs, final states and gradients. JAX's run in
one process, TensorFlow and PyTorch each in one of its own, all with the same two threads; in each
round every one of them takes its turn, in another order each time.
"""
