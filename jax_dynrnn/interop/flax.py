"""Converts weights of Flax's cells, Linen's and NNX's: `LSTMCell`, `GRUCell`, `SimpleCell`, ...

They are nested dicts of arrays, as `RNN` and `Bidirectional` have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from .._cell import Params
from .._types import Cells, Weights
from ._layouts import convert as _convert
from ._layouts.blocks import Block, Blocks
from ._layouts.framework import Framework, family
from ._layouts.layers import RunLayer, flatten, layers_of, nest

__all__ = ["export_params", "import_params"]

LAYOUTS = ("linen", "nnx", "nnx_optimized")


def import_params(
    cells: Cells, weights: Weights, *, activation: Callable[..., Any] = jnp.tanh
) -> Params:
    """Converts the params of a Linen module, or the state of an NNX module, to params of `cells`.

    `forget_bias` of a cell is subtracted from the forget gate's bias: exact with `forget_bias=0.0`,
    else rounded once.

    Args:
        cells: the cells to run: one cell (`MultiRNNCell` for a stack), a pair of cells for
            `Bidirectional`, a pair of lists of cells for a stack of those. `LSTMCell` (for
            `OptimizedLSTMCell` too), `CudnnCompatibleGRUCell` or `BasicRNNCell`.
        weights: a nested dict of arrays: `variables["params"]` of Linen, or
            `nnx.to_pure_dict(nnx.state(layer, nnx.Param))` of NNX. For one layer `{"cell": ...}`
            of an `RNN`, or the dict of the cell alone; for a pair `{"forward_rnn": ...,
            "backward_rnn": ...}` of a `Bidirectional`, or a pair of dicts; for a stack a list of
            these. (Linen stores a cell that is made within `@nn.compact` beside its `RNN`:
            `variables["params"]["LSTMCell_0"]`.)
        activation: `activation_fn` of the module, if it is not tanh. It must be the cell's, too.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy arrays, or JAX arrays where those were given.

    Raises:
        ValueError: Flax has no such cell, or an array has another shape. KeyError: names are
            missing or unexpected. TypeError: an array is not of floating dtype.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import linen
        >>> from jax_dynrnn import interop
        >>> layer, x = linen.RNN(linen.GRUCell(4)), jnp.ones((2, 5, 3))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> cell = rnn.CudnnCompatibleGRUCell(4)
        >>> params = interop.flax.import_params(cell, variables["params"])
        >>> outputs, _ = rnn.dynamic_rnn(cell, params, x)
        >>> bool(jnp.allclose(outputs, layer.apply(variables, x), atol=1e-6))
        True
    """
    arrays = flatten(_add_rnn_keys(layers_of(cells), weights))
    framework = _framework("Flax", lambda layer: _infer_layout(layer, arrays), activation)
    return _convert.import_params(framework, cells, arrays)


def export_params(
    cells: Cells,
    params: Params,
    *,
    layout: str = "linen",
    activation: Callable[..., Any] = jnp.tanh,
) -> Any:
    """Converts params of `cells` to those of a Linen module, or the state of an NNX one.

    Args:
        cells, activation: as in `import_params`.
        params: the params of `cells`.
        layout: `"linen"`, `"nnx"`, or `"nnx_optimized"` for its `OptimizedLSTMCell`.

    Returns:
        A nested dict of arrays: `{"cell": ...}` of an `RNN` or `{"forward_rnn": ...,
        "backward_rnn": ...}` of a `Bidirectional`; for a stack a list of these. In Linen it is
        `variables["params"]`; in NNX, `nnx.update` puts it into a module. The arrays are NumPy
        arrays, or JAX arrays where the params are.

    Raises:
        ValueError, KeyError, TypeError: as in `import_params`. ValueError: the candidate of a
            GRU has two biases that are not 0, and NNX has only one.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn import interop
        >>> cell = rnn.LSTMCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> layer = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)))
        >>> nnx.update(layer, interop.flax.export_params(cell, params, layout="nnx_optimized"))
        >>> layer.cell.dense_h.bias[4].item()                   # Flax stores the forget_bias
        1.0
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    name = "Linen" if layout == "linen" else "NNX"
    framework = _framework(name, lambda layer: layout, activation)
    weights = nest(_convert.export_params(framework, cells, params))
    return list(weights.values()) if layers_of(cells)[0].depth is not None else weights


def _framework(
    name: str, layout: Callable[[RunLayer], str], activation: Callable[..., Any]
) -> Framework:
    """What Flax can hold; `layout` says for each layer which of the `LAYOUTS` it has."""
    families = ("lstm", "cudnn_gru", "rnn")
    return Framework(
        name=name,
        blocks=lambda layer: _blocks(layer, layout(layer)),
        families=families,
        activations=dict.fromkeys(families, activation),
        names_hint=(
            "for Linen pass variables['params'], for NNX nnx.state(layer, nnx.Param); for cells "
            "stored under names such as 'LSTMCell_0' pass one entry or a pair; for a stack pass a "
            "list with one entry per layer"
        ),
        activation_hint="give activation=, the function, if it is the module's activation_fn",
    )


def _blocks(layer: RunLayer, layout: str) -> Blocks:
    """The arrays of a layer by their path in the nested dict."""
    cell_family = family(layer.cell)
    # In NNX, only the LSTMCell has a dense layer for each gate.
    if layout == "linen" or (cell_family, layout) == ("lstm", "nnx"):
        blocks = _by_gate(cell_family, layout)
    else:
        blocks = FUSED[cell_family]
    return {f"{_path_prefix(layer)}cell/{name}": block for name, block in blocks.items()}


def _by_gate(cell_family: str, layout: str) -> Blocks:
    """The arrays of a cell with a dense layer for each gate; each bias is where Flax has it."""
    if cell_family == "rnn":
        return {
            "i/kernel": Block("input", "h"),
            "i/bias": Block("bias", "h"),
            "h/kernel": Block("hidden", "h"),
        }
    gates, biased = {"lstm": ("ifgo", "h"), "cudnn_gru": ("rzn", "i")}[cell_family]
    blocks = {}
    for gate in gates:
        # `if` is a keyword of Python, so NNX's attribute is `if_`.
        names = {"i": f"i{gate}" if (layout, gate) != ("nnx", "f") else "if_", "h": f"h{gate}"}
        blocks[f"{names['i']}/kernel"] = Block("input", gate)
        blocks[f"{names['h']}/kernel"] = Block("hidden", gate)
        blocks[f"{names[biased]}/bias"] = Block("bias", gate)
    if cell_family == "cudnn_gru":
        # The reset gate multiplies the candidate's product with the state, bias included.
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
"""The arrays of NNX cells with one dense layer for the inputs and one for the hidden state."""


def _path_prefix(layer: RunLayer) -> str:
    """The path before `cell/`: the index in a stack, then the direction."""
    depth = "" if layer.depth is None else f"{layer.depth}/"
    return depth + {None: "", 0: "forward_rnn/", 1: "backward_rnn/"}[layer.direction]


def _add_rnn_keys(layers: list[RunLayer], weights: Weights) -> Any:
    """The weights as an `RNN` or `Bidirectional` has them, also where those of cells are given."""
    wrap = _wrap_rnn if layers[0].direction is None else _wrap_bidirectional
    if layers[0].depth is None or not isinstance(weights, tuple | list):
        return wrap(weights)
    return [wrap(x) for x in weights]


def _wrap_bidirectional(weights: Weights) -> Any:
    """The weights as a `Bidirectional` has them, from these, a pair of `RNN`s or of cells."""
    names = "forward_rnn", "backward_rnn"
    if isinstance(weights, tuple | list) and len(weights) == len(names):
        weights = dict(zip(names, weights, strict=True))
    if not isinstance(weights, Mapping):
        return weights
    return {name: _wrap_rnn(x) if name in names else x for name, x in weights.items()}


def _wrap_rnn(weights: Weights) -> Any:
    """The weights as an `RNN` has them, from these or its cell's."""
    is_cell_alone = isinstance(weights, Mapping) and "cell" not in weights
    return {"cell": weights} if is_cell_alone else weights


def _infer_layout(layer: RunLayer, arrays: Mapping[str, Any]) -> str:
    """The layout of a layer, inferred from the names of its arrays; Linen's by default."""
    cell = f"{_path_prefix(layer)}cell"
    if f"{cell}/if_/kernel" in arrays:
        return "nnx"
    return "nnx_optimized" if f"{cell}/dense_i/kernel" in arrays else "linen"
