"""The toy cells of TF's own tests, written from their descriptions; most of them add 1."""

import jax
import jax.numpy as jnp
from toys import batch_of, config

import jax_dynrnn as rnn


@config
class Plus1(rnn.Cell):
    """Returns `(inputs + 1, state + 1)`; the state has `size` elements per row."""

    size: int = 5

    def init(self, key, input_shape, dtype=jnp.float32):
        return {}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_of(batch_shape), self.size), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        return jax.tree.map(lambda x: x + 1, (inputs, state))


@config
class Plus1OfThreeAxes(Plus1):
    """Adds 1 to arrays with three feature axes; the state is a pair of them."""

    size: tuple = (3, 4, 5)
    feature_ndim = 3

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return (jnp.zeros((*batch_of(batch_shape), *self.size), dtype),) * 2


@config
class Plus1OfPairs(Plus1):
    """Adds 1 to pairs of inputs; the state is a pair of arrays of size 6."""

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return (jnp.zeros((*batch_of(batch_shape), 6), dtype),) * 2


@config
class Counter(Plus1):
    """Returns its inputs; the state is an integer that all rows share."""

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((), jnp.int32)

    def __call__(self, params, inputs, state, *, key=None):
        return inputs, state + 1


@config
class UnequalOutputs(Counter):
    """Returns two outputs, of which the second is twice as wide."""

    def __call__(self, params, inputs, state, *, key=None):
        return (inputs, jnp.concatenate([inputs, inputs], -1)), state + 1


@config
class Recorder(Counter):
    """Records its inputs in its state: a counter, and a buffer `[B, size, 1]`."""

    size: int = 4

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        buffer = jnp.zeros((*batch_of(batch_shape), self.size, 1), dtype)
        return jnp.zeros((), jnp.int32), buffer

    def __call__(self, params, inputs, state, *, key=None):
        count, buffer = state
        return inputs, (count + 1, buffer.at[..., count, :].set(inputs))


class Foreign:
    """A cell inside of an unhashable object without a base class."""

    __hash__ = None

    def __init__(self, cell):
        self.init, self.zero_state, self.run = cell.init, cell.zero_state, cell.__call__

    def __call__(self, params, inputs, state, *, key=None):
        return self.run(params, inputs, state, key=key)


class KerasSimpleRNN:
    """A foreign cell with Keras's params: separate kernels for the inputs and the state."""

    def __init__(self, units):
        self.units = units

    def init(self, key, input_shape, dtype=jnp.float32):
        keys = jax.random.split(key, 3)
        shapes = {
            "kernel": (input_shape[-1], self.units),
            "recurrent_kernel": (self.units, self.units),
            "bias": (self.units,),
        }
        draws = zip(keys, shapes.items(), strict=True)
        return {name: 0.4 * jax.random.normal(k, shape, dtype) for k, (name, shape) in draws}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_of(batch_shape), self.units), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        sums = inputs @ params["kernel"] + state @ params["recurrent_kernel"]
        new = jnp.tanh(sums + jnp.expand_dims(params["bias"], 0))
        return new, new
