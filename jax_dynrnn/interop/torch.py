"""Weights of PyTorch's `nn.LSTM`, `nn.GRU` and `nn.RNN`, and of its `nn.LSTMCell`, ...

They come and go as a `state_dict`: arrays by name. No PyTorch is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Params
from .._types import Cells
from ._layouts import convert as _convert
from ._layouts.blocks import Block, Table
from ._layouts.framework import Framework, kind
from ._layouts.layers import Layer, walk

__all__ = ["export_params", "import_params"]

GATES = {"lstm": "ifgo", "cudnn_gru": "rzn", "rnn": "h"}


def import_params(
    cells: Cells, weights: Mapping[str, Any], *, prefix: str = "", nonlinearity: str = "tanh"
) -> Params:
    """Params of the run of `cells`, of the `state_dict` of a module.

    The two biases of PyTorch are added up, and `forget_bias` of a cell is taken off the forget
    gate's: both exact with `bias=False` and `forget_bias=0.0`, else rounded once.

    Args:
        cells: what the run takes: a cell (`MultiRNNCell` for `num_layers`), a pair of cells
            for `bidirectional=True`, a pair of lists of cells for both. `LSTMCell` (also with
            `num_proj` for `proj_size`), `CudnnCompatibleGRUCell` or `BasicRNNCell`.
        weights: arrays by name, anything that NumPy or JAX takes. `weight_ih_l0` or, of
            `nn.LSTMCell`, `weight_ih`; without biases they are 0.
        prefix: the name of this module in a model: `"encoder"`. Other names are not looked at.
        nonlinearity: of an `nn.RNN`. With `"relu"` the cell's activation is `jax.nn.relu`.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy's arrays, or JAX's where JAX's were given.

    Raises:
        ValueError: PyTorch has no such cell, or an array has another shape. KeyError: names
            are missing, or left over. TypeError: what is no floating array.

    Example:
        >>> import numpy as np, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> weights = {                             # nn.LSTM(3, 4).state_dict()
        ...     "weight_ih_l0": np.ones((16, 3)), "weight_hh_l0": np.ones((16, 4)),
        ...     "bias_ih_l0": np.ones(16), "bias_hh_l0": np.ones(16),
        ... }
        >>> cell = rnn.LSTMCell(4, forget_bias=0.0)
        >>> params = interop.torch.import_params(cell, weights)
        >>> outputs, state = rnn.dynamic_rnn(cell, params, np.ones((2, 5, 3)))
        >>> outputs.shape, params["bias"][0]
        ((2, 5, 4), np.float64(2.0))
    """
    if not isinstance(weights, Mapping):
        raise TypeError(
            "weights: expected arrays by name, the state_dict() of a module, got "
            f"{type(weights).__name__}"
        )
    prefix = _dotted(prefix)
    own = {str(name): array for name, array in weights.items() if str(name).startswith(prefix)}
    single = f"{prefix}weight_ih" in own and len(walk(cells)) == 1
    return _convert.import_params(_framework(prefix, nonlinearity, single), cells, own)


def export_params(
    cells: Cells,
    params: Params,
    *,
    prefix: str = "",
    nonlinearity: str = "tanh",
    bias: bool = True,
    single_cell: bool = False,
) -> dict[str, np.ndarray]:
    """The `state_dict` of a module, of params of the run of `cells`.

    The bias becomes `bias_ih`, with the `forget_bias` of the cell added; `bias_hh` is 0 but for
    the candidate of a GRU.

    Args:
        cells: as in `import_params`.
        params: those of the run.
        prefix: the name of the module in a model, to write before the names.
        nonlinearity: of the `nn.RNN` that is to have them.
        bias: `False` for a module without biases; those of the params must be 0.
        single_cell: names as in `nn.LSTMCell` (`weight_ih`), not `nn.LSTM` (`weight_ih_l0`).

    Returns:
        NumPy's arrays by name: `{name: torch.from_numpy(array) ...}` is what
        `load_state_dict` takes.

    Raises:
        ValueError, KeyError, TypeError: as in `import_params`.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> cell = rnn.MultiRNNCell([rnn.CudnnCompatibleGRUCell(4)] * 2)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> weights = interop.torch.export_params(cell, params)
        >>> weights["weight_ih_l0"].shape, weights["bias_hh_l1"].shape
        ((12, 3), (12,))
    """
    if single_cell and len(walk(cells)) > 1:
        raise ValueError(
            "single_cell: expected one cell, without a MultiRNNCell or a pair, got "
            f"{len(walk(cells))} layers; export them one by one"
        )
    framework = _framework(_dotted(prefix), nonlinearity, single_cell)
    weights = _convert.export_params(framework, cells, params, biases=bias)
    return {name: np.array(array, order="C") for name, array in weights.items()}


def _dotted(prefix: str) -> str:
    """With the dot that is between the name of a module and that of its weight."""
    return prefix if not prefix or prefix.endswith(".") else f"{prefix}."


def _framework(prefix: str, nonlinearity: str, single: bool) -> Framework:
    activations = {"tanh": jnp.tanh, "relu": jax.nn.relu}
    if nonlinearity not in activations:
        raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    return Framework(
        name="nn.LSTMCell" if single else "PyTorch",
        table=lambda layer: table(layer, prefix, single),
        kinds=tuple(GATES),
        projection=not single,
        activations={"rnn": activations[nonlinearity]},
        activation_hint="an nn.RNN may have relu: say nonlinearity='relu' if it has",
        names_hint="give as many cells as there are layers, and prefix= of a module in a model",
        uniform=True,
    )


def table(layer: Layer, prefix: str = "", single: bool = False) -> Table:
    """The arrays of a layer, as cuDNN has them too."""
    gates = GATES[kind(layer.cell)]
    end = "" if single else f"_l{layer.depth or 0}" + ("_reverse" if layer.direction else "")
    blocks = {
        "weight_ih": Block("input", gates, transposed=True),
        "weight_hh": Block("hidden", gates, transposed=True),
        "bias_ih": Block("bias", gates, optional=True),
        "bias_hh": Block("hidden_bias", gates, optional=True),
    }
    if getattr(layer.cell, "num_proj", None) is not None:
        blocks["weight_hr"] = Block("projection", "p", transposed=True)
    return {f"{prefix}{name}{end}": block for name, block in blocks.items()}
