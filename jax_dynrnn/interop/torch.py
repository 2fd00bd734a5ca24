"""Converts weights of PyTorch's `nn.LSTM`, `nn.GRU` and `nn.RNN`, and of its `nn.LSTMCell`, ...

They are a `state_dict`: arrays by name. PyTorch need not be installed.
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
from ._layouts.blocks import Block, Blocks
from ._layouts.framework import Framework, family
from ._layouts.layers import RunLayer, layers_of

__all__ = ["export_params", "import_params"]

GATES = {"lstm": "ifgo", "cudnn_gru": "rzn", "rnn": "h"}
"""The gates in the order of PyTorch, by family of cells."""


def import_params(
    cells: Cells, weights: Mapping[str, Any], *, prefix: str = "", nonlinearity: str = "tanh"
) -> Params:
    """Converts the `state_dict` of a module to params for `cells`.

    The two biases of PyTorch are added, and a cell's `forget_bias` is subtracted from the forget
    gate's bias: both exact with `bias=False` and `forget_bias=0.0`, else rounded once.

    Args:
        cells: the cells to run: one cell (`MultiRNNCell` for `num_layers`), a pair of cells
            for `bidirectional=True`, a pair of lists of cells for both. `LSTMCell` (also with
            `num_proj` for `proj_size`), `CudnnCompatibleGRUCell` or `BasicRNNCell`.
        weights: arrays by name, anything that NumPy or JAX can convert: `weight_ih_l0` or, for
            an `nn.LSTMCell`, `weight_ih`. Where there are no biases, the params have zeros.
        prefix: the name of this module in a model: `"encoder"`. Other modules are ignored.
        nonlinearity: of an `nn.RNN`. For `"relu"` the cell's activation must be `jax.nn.relu`.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy arrays, or JAX arrays where those were given.

    Raises:
        ValueError: PyTorch has no such cell, or an array has another shape. KeyError: names
            are missing or unexpected. TypeError: an array is not of floating dtype.

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
    module_weights = {
        str(name): array for name, array in weights.items() if str(name).startswith(prefix)
    }
    single = f"{prefix}weight_ih" in module_weights and len(layers_of(cells)) == 1
    return _convert.import_params(_framework(prefix, nonlinearity, single), cells, module_weights)


def export_params(
    cells: Cells,
    params: Params,
    *,
    prefix: str = "",
    nonlinearity: str = "tanh",
    bias: bool = True,
    single_cell: bool = False,
) -> dict[str, np.ndarray]:
    """Converts params of `cells` to the `state_dict` of a module.

    The bias becomes `bias_ih`, with the `forget_bias` of the cell added; `bias_hh` is 0 except
    for the candidate of a GRU.

    Args:
        cells: as in `import_params`.
        params: the params of `cells`.
        prefix: the name of the module in a model, which is put before the names.
        nonlinearity: that of the `nn.RNN`.
        bias: `False` for a module without biases; the biases among the params must be 0.
        single_cell: names as in `nn.LSTMCell` (`weight_ih`), not `nn.LSTM` (`weight_ih_l0`).

    Returns:
        NumPy arrays by name: `load_state_dict` takes them as
        `{name: torch.from_numpy(array) ...}`.

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
    if single_cell and len(layers_of(cells)) > 1:
        raise ValueError(
            "single_cell: expected one cell, without a MultiRNNCell or a pair, got "
            f"{len(layers_of(cells))} layers; export them one by one"
        )
    framework = _framework(_dotted(prefix), nonlinearity, single_cell)
    weights = _convert.export_params(framework, cells, params, biases=bias)
    return {name: np.array(array, order="C") for name, array in weights.items()}


def _dotted(prefix: str) -> str:
    """The prefix with the dot that separates a module's name from that of its weight."""
    return prefix if not prefix or prefix.endswith(".") else f"{prefix}."


def _framework(prefix: str, nonlinearity: str, single: bool) -> Framework:
    """What PyTorch can hold: `single` is for a single cell such as `nn.LSTMCell`."""
    activations = {"tanh": jnp.tanh, "relu": jax.nn.relu}
    if nonlinearity not in activations:
        raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    return Framework(
        name="nn.LSTMCell" if single else "PyTorch",
        blocks=lambda layer: layer_blocks(layer, prefix, single),
        families=tuple(GATES),
        projection=not single,
        activations={"rnn": activations[nonlinearity]},
        activation_hint="give nonlinearity='relu' if it is that of the nn.RNN",
        names_hint="give as many cells as there are layers, and prefix= of a module in a model",
        uniform_layers=True,
    )


def layer_blocks(layer: RunLayer, prefix: str = "", single: bool = False) -> Blocks:
    """The arrays of a layer by name; cuDNN has the same, in the same order."""
    gates = GATES[family(layer.cell)]
    end = "" if single else f"_l{layer.depth or 0}" + ("_reverse" if layer.direction else "")
    blocks = {
        "weight_ih": Block("input", gates, transposed=True),
        "weight_hh": Block("hidden", gates, transposed=True),
        "bias_ih": Block("bias", gates, optional=True),
        "bias_hh": Block("hidden_bias", gates, optional=True),
    }
    if getattr(layer.cell, "num_proj", None) is not None:
        # No gate letter names the columns of a projection: `p` stands for them.
        blocks["weight_hr"] = Block("projection", "p", transposed=True)
    return {f"{prefix}{name}{end}": block for name, block in blocks.items()}
