"""Cells with one fault each, for tests of `check_cell`: most violate one law only."""

import dataclasses
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from toys import batch_of, config

import jax_dynrnn as rnn

UNITS = 3


class Base(rnn.Cell):
    """`h' = tanh(w change(x) + h)`, where subclasses override `change` to plant their fault."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {"w": jax.random.normal(key, (UNITS,), dtype)}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_of(batch_shape), UNITS), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        w = jnp.expand_dims(params["w"], tuple(range(inputs.ndim - 1)))
        new = jnp.tanh(w * self.change(inputs, state, key) + state)
        return new, new

    def change(self, x, state, key):
        return x


# Cells that violate the law `structure`.


@config
class InitReadsTime(Base):
    def init(self, key, input_shape, dtype=jnp.float32):
        return {"w": jnp.ones((UNITS,), dtype) * input_shape[1] ** 0, "t": jnp.ones(input_shape[1])}


@config
class InitLooksAtValues(Base):
    def init(self, key, input_shape, dtype=jnp.float32):
        w = jax.random.normal(key, (UNITS,), dtype)
        return {"w": w if float(w[0]) > 0 else -w}


@config
class NoIntBatch(Base):
    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_shape, UNITS), dtype)


@config
class FlatBatch(Base):
    """Flattens every batch shape to one batch axis."""

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        shape = batch_of(batch_shape)
        return jnp.zeros((*((int(np.prod(shape)),) if shape else ()), UNITS), dtype)


# Cells that violate `structure` so that they cannot run at all.


@config
class OtherDtype(Base):
    def __call__(self, params, inputs, state, *, key=None):
        output, new = super().__call__(params, inputs, state)
        return output, new.astype(jnp.float16)


@config
class OtherStructure(Base):
    def __call__(self, params, inputs, state, *, key=None):
        output, new = super().__call__(params, inputs, state)
        return output, (new, new)


@config
class FeaturesFirst(Base):
    """Returns its output with the batch axis last."""

    def __call__(self, params, inputs, state, *, key=None):
        output, new = super().__call__(params, inputs, state)
        return output.T, new


@config
class NoKey(Base):
    def __call__(self, params, inputs, state):
        return super().__call__(params, inputs, state)


# Cells that violate one other law each.


@config
class BatchNorm(Base):
    """Subtracts the mean over the batch, and so mixes rows."""

    def change(self, x, state, key):
        return x - x.mean(0, keepdims=True) if x.ndim > 1 else x


@config
class Steps(Base):
    """Compares its input with the previous one; not differentiable where they are equal."""

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        zeros = super().zero_state(batch_shape, dtype)
        return zeros, zeros

    def __call__(self, params, inputs, state, *, key=None):
        change = jnp.sqrt(jnp.abs(inputs - state[0]))
        output, new = super().__call__(params, change, state[1])
        return output, (inputs, new)


class Host:
    """Mutable data on the host, which a cell should not have: it belongs into the state."""

    last = -10


def is_first(count):
    """Whether the previous call did not have the previous count."""
    first = np.max(count) != Host.last + 1
    Host.last = np.max(count)
    return np.full(np.shape(count), first, np.int32)


@config
class RemembersOnTheHost(Base):
    """Treats the first step of a run differently, which it detects by a counter on the host."""

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        count = jnp.zeros(batch_of(batch_shape), jnp.int32)
        return super().zero_state(batch_shape, dtype), count

    def __call__(self, params, inputs, state, *, key=None):
        h, count = state
        kind = jax.ShapeDtypeStruct(count.shape, jnp.int32)
        first = jax.pure_callback(is_first, kind, count, vmap_method="broadcast_all")
        inputs = inputs + jnp.expand_dims(first.astype(inputs.dtype), -1)
        output, h = super().__call__(params, inputs, h)
        return output, (h, count + 1)


@config
class NeedsABatch(Base):
    def change(self, x, state, key):
        return jnp.concatenate([x[:, 1:], x[:, :1]], axis=1)


@config
class LooksAtValues(Base):
    """Branches on concrete values where it can: outside of jit."""

    def change(self, x, state, key):
        try:
            return x if float(x.max()) < 0.1 else x / 2
        except jax.errors.ConcretizationTypeError:
            return x


@config
class NormOfTheState(Base):
    """Is not differentiable at the zero state, where it starts."""

    def change(self, x, state, key):
        return x + jnp.sqrt(jnp.sum(state**2, -1, keepdims=True))


@jax.custom_jvp
def double(x):
    return 2 * x


double.defjvp(lambda x, dx: (double(*x), 3 * dx[0]))


@config
class WrongDerivative(Base):
    def change(self, x, state, key):
        return double(x)


@config
class CutsAGradient(Base):
    def change(self, x, state, key):
        return x + jax.lax.stop_gradient(jnp.sin(state))


@config
class OtherStep(rnn.BasicRNNCell):
    """Clips in `step` but not in `pointwise`, which fast engines call."""

    def step(self, params, projected, state, *, key=None):
        output, new = super().step(params, projected, state, key=key)
        return jnp.clip(output, -0.1, 0.1), jnp.clip(new, -0.1, 0.1)


@config
class DrawsOnTheHost(Base):
    def change(self, x, state, key):
        if key is None:
            return x
        return x + np.random.normal() * jax.random.normal(key, x.shape, x.dtype)


@config
class ShufflesRows(Base):
    """Permutes the rows if it has a key."""

    def change(self, x, state, key):
        return x if key is None or x.ndim < 2 else jax.random.permutation(key, x)


@config
class HoldsALock(Base):
    lock: Any = dataclasses.field(default_factory=threading.Lock)


@config
class ForgetsInPickle(Base):
    scale: float = 2.0

    def change(self, x, state, key):
        return x * self.scale

    def __getstate__(self):
        return {}


@config
class NoReverse(Base):
    """Has no reverse-mode gradient: it has a loop of dynamic length."""

    def __call__(self, params, inputs, state, *, key=None):
        times = (params["w"][0] > 0).astype(jnp.int32)
        return super().__call__(
            params, jax.lax.fori_loop(0, times, lambda i, x: x / 2, inputs), state
        )


@config
class DrawsInInit(Base):
    """Draws its params from NumPy, not from the key."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {"w": jnp.asarray(np.random.normal(size=UNITS), dtype)}


@config
class Counts(Base):
    """Multiplies by the number of times that it was traced."""

    def change(self, x, state, key):
        Host.count = getattr(Host, "count", 0) + 1
        return x * Host.count


@config
class ChangesParams(Base):
    """Changes its params in place."""

    def __call__(self, params, inputs, state, *, key=None):
        params["w"] = params["w"] / 2
        return super().__call__(params, inputs, state)


@config
class SumOfRowsBefore(Base):
    """Each row depends on the rows before it; none depends on the last row."""

    def change(self, x, state, key):
        return jnp.cumsum(x, 0) if x.ndim > 1 else x


@config
class OneOutputForAll(Base):
    """Returns an output without a batch axis: the mean over the batch."""

    def __call__(self, params, inputs, state, *, key=None):
        output, new = super().__call__(params, inputs, state)
        return output.mean(), new


@config
class NeedsAKey(Base):
    def change(self, x, state, key):
        return x + jax.random.normal(key, x.shape, x.dtype)


@config
class CountsInPython(Base):
    """Has no fault: its state has a count that starts as a Python integer."""

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return super().zero_state(batch_shape, dtype), 0

    def __call__(self, params, inputs, state, *, key=None):
        output, new = super().__call__(params, inputs, state[0])
        return output, (new, state[1] + 1)


ONE_LAW = [
    (InitLooksAtValues(), "structure"),
    (NoIntBatch(), "structure"),
    (FlatBatch(), "structure"),
    (Steps(), "garbage"),
    (RemembersOnTheHost(), "split"),
    (NeedsABatch(), "vmap"),
    (LooksAtValues(), "jit"),
    (NormOfTheState(), "finite"),
    (WrongDerivative(), "gradients"),
    (CutsAGradient(), "gradients"),
    (OtherStep(4), "engines"),
    (DrawsOnTheHost(), "keys"),
    (ShufflesRows(), "keys"),
    (HoldsALock(), "pickle"),
    (ForgetsInPickle(scale=3.0), "pickle"),
]
"""Cells that violate the named law and obey all others."""

CANNOT_RUN = [
    (InitReadsTime(), "structure"),
    (OtherDtype(), "structure"),
    (OtherStructure(), "structure"),
    (FeaturesFirst(), "structure"),
    (NoKey(), "structure"),
    (NeedsAKey(), "structure"),
    (NoReverse(), "gradients"),
]
"""Cells that cannot run: the named law fails, whichever law that needs it is checked."""

CAUSES = [
    (Counts(), "garbage", "jit"),
    (ChangesParams(), "padding", "jit"),
    (OneOutputForAll(), "split", "rows"),
    (SumOfRowsBefore(), "rows", "rows"),
    (DrawsInInit(), "jit", "jit"),
]
"""A cell, the law that is checked, and the more basic law that the error names instead."""
