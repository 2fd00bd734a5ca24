"""A highway connection around a cell."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from .._cell import Params
from .._init import Initializer, glorot_uniform
from .._tools import dense, input_size
from .._types import DTypeLike, Inputs, Key, Outputs, PyTree, Shapes
from ._wrapper import AroundWrapper


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class HighwayWrapper(AroundWrapper):
    """Adds a highway connection: gates mix the inputs and the outputs; the state does not change.

        carry     = sigmoid(x W_c + b_c)
        transform = 1 - carry, or sigmoid(x W_t + b_t)
        output    = carry * x + transform * cell(x)

    Args:
        cell: the cell to run, with as many units as the inputs have features.
        couple_carry_transform_gates: `False` gives the transform gate its own weights.
        carry_bias_init: initial value of `b_c`, and of `-b_t`.
        kernel_initializer: of the gates' kernels; `None` is Glorot's uniform.

    Params: `carry_w` `[D, D]`, `carry_b` `[D]`, with uncoupled gates `transform_w` and
    `transform_b`, and the cell's under `cell`. State: that of `cell`. Output: `[..., D]`.

    Raises:
        TypeError: `cell` is not a cell. ValueError: (in a step) its output does not have the
            shape of the inputs.

    Differs from TF1: the gates' params are beside `cell`. In TF1 their variables are in the
    enclosing scope, which `interop.tf1` takes into account.

    Reference: `tf.contrib.rnn.HighwayWrapper`; Srivastava et al., arXiv:1505.00387.

    Example: a gate that carries everything
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> inputs = jnp.ones((2, 5, 3))
        >>> cell = rnn.HighwayWrapper(rnn.GRUCell(3), carry_bias_init=100.0)
        >>> outputs, _ = rnn.dynamic_rnn(cell, cell.init(jax.random.key(0), inputs.shape), inputs)
        >>> bool((outputs == inputs).all())
        True
    """

    params_name: ClassVar[str | None] = "cell"

    _: dataclasses.KW_ONLY
    couple_carry_transform_gates: bool = True
    carry_bias_init: float = 1.0
    kernel_initializer: Initializer | None = None

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        size, keys = input_size(self, input_shape), jax.random.split(key, 3)
        params: Params = {"cell": self.inner.init(keys[0], input_shape, dtype)}
        gates = {"carry": self.carry_bias_init}
        if not self.couple_carry_transform_gates:
            # As in TF1: with a positive value, both gates favour the inputs at first.
            gates["transform"] = -self.carry_bias_init
        for (gate, bias), k in zip(gates.items(), keys[1:], strict=False):
            kernel = (self.kernel_initializer or glorot_uniform)(k, (size, size), dtype)
            params |= {f"{gate}_w": kernel, f"{gate}_b": jnp.full(size, bias, dtype)}
        return params

    def before(self, params: Params, inputs: Inputs, key: Key) -> tuple[Any, Any]:
        def gate(name):
            layer = {"kernel": params[f"{name}_w"], "bias": params[f"{name}_b"]}
            return jax.nn.sigmoid(dense(layer, inputs))

        carry = gate("carry")
        transform = 1 - carry if self.couple_carry_transform_gates else gate("transform")
        return inputs, (carry * inputs, transform)

    def after(self, params: Params, saved: PyTree, output: Outputs, key: Key) -> Any:
        carried, transform = saved
        if getattr(output, "shape", None) != carried.shape:
            raise ValueError(
                f"HighwayWrapper: expected an output of the inputs' shape {carried.shape}, got "
                f"{getattr(output, 'shape', output)}; give the cell as many units as the inputs "
                "have features"
            )
        return carried + transform * output
