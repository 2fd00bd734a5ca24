"""Cells with exact arithmetic or unusual shapes, for tests of the loop itself."""

import dataclasses

import jax
import jax.numpy as jnp

import jax_dynrnn as rnn


def config(cls):
    """Makes a class a frozen, static dataclass, as the package's cells are."""
    return jax.tree_util.register_static(dataclasses.dataclass(frozen=True)(cls))


def batch_of(batch_shape):
    """The batch shape as a tuple: cells accept an integer too."""
    return batch_shape if isinstance(batch_shape, tuple) else (batch_shape,)


@config
class PlusOne(rnn.Cell):
    """Returns its inputs + 1; its state counts each row's steps, and all steps in a rank-0 leaf."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return {
            "row": jnp.zeros(batch_of(batch_shape), jnp.int32),
            "steps": jnp.zeros((), jnp.int32),
        }

    def __call__(self, params, inputs, state, *, key=None):
        return inputs + 1, {"row": state["row"] + 1, "steps": state["steps"] + 1}


@config
class Sum(rnn.Cell):
    """Its output and state are the sum of the inputs so far."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_of(batch_shape), 1), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        total = state + inputs
        return total, total


@config
class Scalar(Sum):
    """Sums all inputs so far into one number per row, without a feature axis."""

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros(batch_of(batch_shape), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        total = state + inputs.sum(-1)
        return total, total


@config
class Norm(rnn.Cell):
    """Divides by the norm of its input: gradients are NaN where an input is all zeros."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {"scale": jnp.ones(input_shape[-1], dtype)}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_of(batch_shape), 3), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        norm = jnp.sqrt(jnp.sum(inputs**2, -1, keepdims=True))
        scale = jnp.expand_dims(params["scale"], tuple(range(inputs.ndim - 1)))
        new = jnp.tanh(state + scale * inputs / norm)
        return new, new


@config
class Nested(rnn.Cell):
    """Has nested inputs, outputs and state; one state leaf has two feature axes, one is integer."""

    def init(self, key, input_shape, dtype=jnp.float32):
        return {"w": jax.random.normal(key, (input_shape["a"][-1], 2), dtype)}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        batch = batch_of(batch_shape)
        return {
            "matrix": jnp.zeros((*batch, 2, 2), dtype),
            "pair": (jnp.zeros((*batch, 2), dtype), jnp.zeros(batch, jnp.int32)),
        }

    def __call__(self, params, inputs, state, *, key=None):
        x = jnp.tanh(inputs["a"] @ params["w"] + inputs["b"][0] * state["pair"][0])
        outer = jnp.expand_dims(x, -1) * jnp.expand_dims(x, -2)
        new = {
            "matrix": 0.5 * state["matrix"] + outer,
            "pair": (x, state["pair"][1] + 1),
        }
        return {"x": x, "sums": (new["matrix"].sum(-1), state["pair"][1])}, new


@config
class Ids(rnn.Cell):
    """Takes integer ids, and looks them up in a table."""

    feature_ndim = 0

    def init(self, key, input_shape, dtype=jnp.float32):
        return {"table": jax.random.normal(key, (7, 3), dtype)}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_of(batch_shape), 3), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        new = jnp.tanh(0.5 * state + params["table"][inputs])
        return new, new


@config
class Images(rnn.Cell):
    """Takes images, which have two feature axes."""

    feature_ndim = 2

    def init(self, key, input_shape, dtype=jnp.float32):
        return {"w": jax.random.normal(key, tuple(input_shape[-2:]), dtype)}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_of(batch_shape), 2, 3), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        w = jnp.expand_dims(params["w"], tuple(range(inputs.ndim - 2)))
        new = jnp.tanh(w * inputs + 0.3 * state)
        return new.sum(-1), new


@config
class Mixed(rnn.Cell):
    """Takes an image, two vectors and a scalar: leaves with two, one and no feature axes."""

    feature_ndim = {"image": 2, "number": 0, "vectors": 1}

    def init(self, key, input_shape, dtype=jnp.float32):
        size = input_shape["vectors"][0][-1]
        return {"w": jax.random.normal(key, (*input_shape["image"][-2:], size), dtype)}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_of(batch_shape), 3), dtype)

    def __call__(self, params, inputs, state, *, key=None):
        pooled = jnp.tensordot(inputs["image"], params["w"], 2)
        number = jnp.expand_dims(inputs["number"], -1)
        new = jnp.tanh(0.5 * state * number + pooled + inputs["vectors"][0] * inputs["vectors"][1])
        return new, new


def add_first_vector(inputs, outputs):
    """The residual connection of a `Mixed`."""
    return inputs["vectors"][0] + outputs


class Duck:
    """A foreign, unhashable cell: it has the three methods, and neither base class nor fields."""

    __hash__ = None

    def __init__(self, units):
        self.cell = rnn.BasicRNNCell(units)

    def init(self, key, input_shape, dtype=jnp.float32):
        return self.cell.init(key, input_shape, dtype)

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return self.cell.zero_state(batch_shape, dtype)

    def __call__(self, params, inputs, state, *, key=None):
        return self.cell(params, inputs, state)


def everything(x):
    """A bounded function with every elementwise primitive that the engine `pallas` supports."""
    y, half = jnp.tanh(x), jnp.full_like(x, 0.5)
    chosen = jnp.where((y > 0) & (y < half) | ~(y <= 0.2) ^ (y >= -0.3), y, y * half)
    unequal = jnp.where((jnp.sign(y) == 1) ^ (jnp.round(x) != 1), chosen, jnp.abs(y))
    named = (jnp.ceil, jnp.cos, jnp.exp, jnp.exp2, jnp.expm1, jnp.floor, jnp.sin, jnp.tan)
    more = jax.nn.relu, jax.nn.softplus, jax.nn.sigmoid, jnp.square, jax.lax.stop_gradient
    powers = jnp.reciprocal, lambda z: z**-2 / (1 + z), lambda z: jax.lax.integer_pow(z, 1) / z
    of_positive = jnp.log, jnp.sqrt, jax.lax.rsqrt, jnp.log1p, *powers
    each = [f(y) * y for f in named + more] + [f(2 + y) for f in of_positive]
    sides = jnp.maximum(y, 0.3) - jnp.minimum(-y, half) + jax.lax.clamp(-half, x, half)
    whole = (3 * y).astype(jnp.int32)
    third = jnp.where(whole.astype(bool), jax.lax.select_n(jnp.abs(whole), y, half, -y), y)
    return (sum(each) + sides + unequal + third + whole.astype(x.dtype)) / 32
