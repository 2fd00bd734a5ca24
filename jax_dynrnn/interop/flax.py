"""Weights of Flax's cells, of Linen's and of NNX's: `LSTMCell`, `GRUCell`, `SimpleCell`, ...

They come and go as nested dicts of arrays, as `RNN` and `Bidirectional` have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from .._cell import Params
from .._types import Cells, Weights
from ._layouts import convert as _convert
from ._layouts.blocks import Block, Table
from ._layouts.framework import Framework, kind
from ._layouts.layers import Layer, flatten, nest, walk

__all__ = ["export_params", "import_params"]

LAYOUTS = ("linen", "nnx", "nnx_optimized")


def import_params(
    cells: Cells, weights: Weights, *, activation: Callable[..., Any] = jnp.tanh
) -> Params:
    """Params of the run of `cells`, of those of a Linen module or the state of one of NNX.

    `forget_bias` of a cell is taken off the forget gate's bias: exact with `forget_bias=0.0`,
    else rounded once.

    Args:
        cells: what the run takes: a cell (`MultiRNNCell` for a stack), a pair of cells for
            `Bidirectional`, a pair of lists of cells for a stack of those. `LSTMCell` (for
            `OptimizedLSTMCell` too), `CudnnCompatibleGRUCell` or `BasicRNNCell`.
        weights: a nested dict of arrays. Of Linen `variables["params"]`, of NNX
            `nnx.to_pure_dict(nnx.state(layer, nnx.Param))`: `{"cell": ...}` of an `RNN`, or the
            cell's alone; `{"forward_rnn": ..., "backward_rnn": ...}` of a `Bidirectional`, or a
            pair of these; of a stack a list of these. (A cell that was made within
            `@nn.compact` is beside its `RNN`: `variables["params"]["LSTMCell_0"]`.)
        activation: `activation_fn`, where it is another than tanh: the cell's too.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy's arrays, or JAX's where JAX's were given.

    Raises:
        ValueError: Flax has no such cell, or an array has another shape. KeyError: names are
            missing, or left over. TypeError: what is no floating array.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import linen
        >>> from jax_dynrnn import interop
        >>> there, x = linen.RNN(linen.GRUCell(4)), jnp.ones((2, 5, 3))
        >>> variables = there.init(jax.random.key(0), x)
        >>> cell = rnn.CudnnCompatibleGRUCell(4)
        >>> params = interop.flax.import_params(cell, variables["params"])
        >>> outputs, _ = rnn.dynamic_rnn(cell, params, x)
        >>> bool(jnp.allclose(outputs, there.apply(variables, x), atol=1e-6))
        True
    """
    arrays = flatten(_whole(walk(cells), weights))
    framework = _framework("Flax", lambda layer: _layout(layer, arrays), activation)
    return _convert.import_params(framework, cells, arrays)


def export_params(
    cells: Cells,
    params: Params,
    *,
    layout: str = "linen",
    activation: Callable[..., Any] = jnp.tanh,
) -> Any:
    """The params of a Linen module or the state of one of NNX, of params of the run of `cells`.

    Args:
        cells, activation: as in `import_params`.
        params: those of the run.
        layout: `"linen"`, `"nnx"`, or `"nnx_optimized"` for its `OptimizedLSTMCell`.

    Returns:
        A nested dict of arrays, `{"cell": ...}` of an `RNN` or `{"forward_rnn": ...,
        "backward_rnn": ...}` of a `Bidirectional`, of a stack a list of these. Of Linen it is
        `variables["params"]`; `nnx.update` puts it into a module of NNX. NumPy's arrays or,
        where the params are JAX's, JAX's.

    Raises:
        ValueError, KeyError, TypeError: as in `import_params`. ValueError: the candidate of a
            GRU has two biases, and NNX's one.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn import interop
        >>> cell = rnn.LSTMCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> there = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)))
        >>> nnx.update(there, interop.flax.export_params(cell, params, layout="nnx_optimized"))
        >>> there.cell.dense_h.bias[4].item()                   # forget_bias is stored there
        1.0
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    name = "Linen" if layout == "linen" else "NNX"
    framework = _framework(name, lambda layer: layout, activation)
    weights = nest(_convert.export_params(framework, cells, params))
    return list(weights.values()) if walk(cells)[0].depth is not None else weights


def _framework(
    name: str, layout: Callable[[Layer], str], activation: Callable[..., Any]
) -> Framework:
    kinds = ("lstm", "cudnn_gru", "rnn")
    return Framework(
        name=name,
        table=lambda layer: _table(layer, layout(layer)),
        kinds=kinds,
        activations=dict.fromkeys(kinds, activation),
        names_hint=(
            "give what is under 'params' of Linen, nnx.state(layer, nnx.Param) of NNX, of cells "
            "that lie beside each other ('LSTMCell_0') the one or a pair, and of a stack a list of "
            "what each layer has"
        ),
        activation_hint="give activation=, the function, if it is the activation_fn there",
    )


def _table(layer: Layer, layout: str) -> Table:
    kind_there = kind(layer.cell)
    if layout == "linen" or (kind_there, layout) == ("lstm", "nnx"):
        blocks = _by_gate(kind_there, layout)
    else:
        blocks = FUSED[kind_there]
    return {f"{_module(layer)}cell/{name}": block for name, block in blocks.items()}


def _by_gate(kind_there: str, layout: str) -> Table:
    """A dense layer for each gate; its bias is where Flax has it."""
    if kind_there == "rnn":
        return {
            "i/kernel": Block("input", "h"),
            "i/bias": Block("bias", "h"),
            "h/kernel": Block("hidden", "h"),
        }
    gates, biased = {"lstm": ("ifgo", "h"), "cudnn_gru": ("rzn", "i")}[kind_there]
    blocks = {}
    for gate in gates:
        names = {"i": f"i{gate}" if (layout, gate) != ("nnx", "f") else "if_", "h": f"h{gate}"}
        blocks[f"{names['i']}/kernel"] = Block("input", gate)
        blocks[f"{names['h']}/kernel"] = Block("hidden", gate)
        blocks[f"{names[biased]}/bias"] = Block("bias", gate)
    if kind_there == "cudnn_gru":
        blocks["hn/bias"] = Block("hidden_bias", "n")
    return blocks


FUSED = {
    "lstm": {
        "dense_i/kernel": Block("input", "ifgo"),
        "dense_h/kernel": Block("hidden", "ifgo"),
        "dense_h/bias": Block("bias", "ifgo"),
    },
    "cudnn_gru": {
        "dense_i/kernel": Block("input", "rzn"),
        "dense_i/bias": Block("bias", "rzn"),
        "dense_h/kernel": Block("hidden", "rzn"),
    },
    "rnn": {
        "dense_i/kernel": Block("input", "h"),
        "dense_i/bias": Block("bias", "h"),
        "dense_h/kernel": Block("hidden", "h"),
    },
}
"""One dense layer of the inputs and one of the hidden state: NNX's."""


def _module(layer: Layer) -> str:
    """What stands before `cell/`: the place in the list of a stack, and the direction."""
    depth = "" if layer.depth is None else f"{layer.depth}/"
    return depth + {None: "", 0: "forward_rnn/", 1: "backward_rnn/"}[layer.direction]


def _whole(layers: list[Layer], weights: Weights) -> Any:
    """The weights of `RNN`s and `Bidirectional`s where those of their cells were given."""
    whole = _of_rnn if layers[0].direction is None else _of_both
    if layers[0].depth is None or not isinstance(weights, tuple | list):
        return whole(weights)
    return [whole(x) for x in weights]


def _of_both(weights: Weights) -> Any:
    names = "forward_rnn", "backward_rnn"
    if isinstance(weights, tuple | list) and len(weights) == len(names):
        weights = dict(zip(names, weights, strict=True))
    if not isinstance(weights, Mapping):
        return weights
    return {name: _of_rnn(x) if name in names else x for name, x in weights.items()}


def _of_rnn(weights: Weights) -> Any:
    alone = isinstance(weights, Mapping) and "cell" not in weights
    return {"cell": weights} if alone else weights


def _layout(layer: Layer, arrays: Mapping[str, Any]) -> str:
    """Of whom the arrays of a layer are, by their names; of Linen if of none."""
    cell = f"{_module(layer)}cell"
    if f"{cell}/if_/kernel" in arrays:
        return "nnx"
    return "nnx_optimized" if f"{cell}/dense_i/kernel" in arrays else "linen"
