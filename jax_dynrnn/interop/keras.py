"""Reads Keras's files, and converts weights of its recurrent layers to params and back.

Weights are lists as of `layer.get_weights()`: NumPy arrays in a fixed order. Keras need not be
installed; `read` needs h5py for files in HDF5.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Params
from .._types import Cells, Weights
from ._escape import escaped, quoted
from ._formats.error import CheckpointError, error_context
from ._keras.arrays import GATES, blocks_of, named_arrays
from ._keras.cells import cells_of, is_recurrent
from ._keras.configured import arrays_of, has_configuration
from ._keras.layers import Layer as Layer
from ._keras.layers import find_layers
from ._keras.stored import read_config, read_stored, write_stored
from ._layouts import convert as _convert
from ._layouts.framework import Framework, check_supported
from ._layouts.layers import layers_of

__all__ = ["Layer", "export_params", "hard_sigmoid", "import_params", "read", "write_weights"]


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """`clip(0.2 x + 0.5, 0, 1)`: `hard_sigmoid` of Keras 1 and 2, and of TF1's `tf.keras`.

    It is the default of `recurrent_activation` before Keras 2.3, and in TF1's `tf.keras`. Keras
    3's function of that name is another one, `jax.nn.hard_sigmoid`: `relu6(x + 3) / 6`.

    Args:
        x: array `[...]` of a floating dtype.

    Returns:
        An array of the same shape and dtype.

    Reference: `tf_keras.activations.hard_sigmoid`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> interop.keras.hard_sigmoid(jnp.array([-3.0, 0.0, 3.0])).tolist()
        [0.0, 0.5, 1.0]
        >>> cell = rnn.LSTMCell(
        ...     4, forget_bias=0.0, recurrent_activation=interop.keras.hard_sigmoid)
    """
    return jnp.clip(0.2 * x + 0.5, 0, 1)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "elu": jax.nn.elu,
    "exponential": jnp.exp,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "linear": jax.nn.identity,
    "log_sigmoid": jax.nn.log_sigmoid,
    "mish": jax.nn.mish,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""Activation functions by their names in Keras, but for those whose meaning changed."""


def read(
    path: str | os.PathLike[str], config: str | os.PathLike[str] | Mapping[str, Any] | None = None
) -> dict[str, Layer]:
    """Reads a file of Keras: its layers in order, with the cells and params of recurrent ones.

    The cells have all options that the layers' configuration states: activations, the position of
    the reset gate, no forget bias (Keras stores it in the bias). The name `hard_sigmoid` is one
    function in Keras 1 and 2, and another in Keras 3: the file's version decides. `layer.config`
    says how the layer is run (`go_backwards`, `return_sequences`, `merge_mode`);
    `python -m jax_dynrnn.interop FILE` prints it as code.

    Args:
        path: a model or its weights: `.h5` of Keras 1, 2 or 3, `.keras`, `.weights.h5`; or a
            checkpoint in TensorFlow's format or a SavedModel that Keras 2 wrote.
        config: for files without one: the path of the JSON of `model.to_json()`, or what it holds.

    Returns:
        `{name: Layer}`. Without a configuration the layers have arrays only, for `import_params`.

    Raises:
        CheckpointError: the file is damaged, of another format, or a pickle, which is never loaded.
        ImportError: the file is in HDF5, and h5py is not installed. FileNotFoundError: there is
            no such file. ValueError: the arrays of a layer do not fit its configuration.

    Reference: `keras.saving.load_model`.

    Example:
        >>> import h5py, json, tempfile, numpy as np, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> lstm = {"name": "lstm", "units": 4, "activation": "tanh",
        ...         "recurrent_activation": "hard_sigmoid"}
        >>> model = {"class_name": "Sequential",
        ...          "config": {"layers": [{"class_name": "LSTM", "config": lstm}]}}
        >>> with tempfile.TemporaryDirectory() as folder:           # as Keras 2 writes a model
        ...     with h5py.File(f"{folder}/model.h5", "w") as file:
        ...         file.attrs["model_config"] = json.dumps(model)
        ...         file.attrs["keras_version"] = "2.2.4"
        ...         layer = file.create_group("model_weights/lstm")
        ...         file["model_weights"].attrs["layer_names"] = [b"lstm"]
        ...         layer.attrs["weight_names"] = [b"lstm/kernel:0", b"lstm/recurrent_kernel:0"]
        ...         layer["lstm/kernel:0"] = np.ones((3, 16), np.float32)
        ...         layer["lstm/recurrent_kernel:0"] = np.ones((4, 16), np.float32)
        ...     layers = interop.keras.read(f"{folder}/model.h5")
        >>> layers["lstm"].cells.recurrent_activation is interop.keras.hard_sigmoid
        True
        >>> outputs, state = rnn.dynamic_rnn(
        ...     layers["lstm"].cells, layers["lstm"].params, np.ones((2, 5, 3), np.float32))
    """
    stored = read_stored(path)
    version = stored.version
    if config is not None:
        given = dict(config) if isinstance(config, Mapping) else read_config(config)
        stored = stored._replace(config=given)
        version = str(given.get("keras_version") or version or ("3" if "module" in given else ""))
    functions = _functions(version)
    with error_context(escaped(os.fspath(path))):
        try:
            layers = find_layers(stored, stored.config)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"expected the configuration of a model of Keras, got another: {escaped(error)}"
            ) from None
        return {layer.name: _with_cells(layer, functions) for layer in layers}


def _functions(version: str) -> dict[str, Callable[..., Any]]:
    """Activation functions by their names in this version of Keras; Keras 1 may not state its."""
    if version.partition(".")[0] not in ("", "0", "1", "2"):
        leaky_relu = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
        return FUNCTIONS | {
            "hard_sigmoid": jax.nn.hard_sigmoid, "hard_silu": jax.nn.hard_silu,
            "hard_swish": jax.nn.hard_silu, "hard_tanh": jax.nn.hard_tanh, "leaky_relu": leaky_relu,
        }  # fmt: skip
    return FUNCTIONS | {"hard_sigmoid": hard_sigmoid}


def _with_cells(layer: Layer, functions: Mapping[str, Callable[..., Any]]) -> Layer:
    """The layer with the cells and params of its configuration, or why it has none."""
    if not layer.class_name or not is_recurrent(layer):
        return layer
    try:
        cells = cells_of(layer, functions)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return layer._replace(problem=escaped(error))
    arrays = list(layer.weights.values())
    if not arrays:
        return layer._replace(cells=cells, problem="the file has no arrays of it")
    with error_context(f"layer {quoted(layer.name)}"):
        try:
            params = _import(_framework(None, None), cells, arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(escaped(error.args[0])) from None
    return layer._replace(cells=cells, params=params)


def import_params(
    cells: Cells,
    weights: Weights,
    *,
    activation: Callable[..., Any] = jnp.tanh,
    recurrent_activation: Callable[..., Any] = jax.nn.sigmoid,
) -> Params:
    """Converts the weights of a layer, or of a stack of layers, to params for `cells`.

    Weights do not say which functions a layer has: its configuration does. For
    arrays, `activation` and `recurrent_activation` state them, and must be those of the cell.
    `forget_bias` of a cell is subtracted from the forget gate's bias (Keras's
    `unit_forget_bias` is stored in it): exact with `forget_bias=0.0`, else rounded once.

    Args:
        cells: the cells to run: one cell (`MultiRNNCell` for a stack), a pair of cells for
            `Bidirectional`, a pair of lists of cells for a stack of those. `LSTMCell`;
            `CudnnCompatibleGRUCell` for a `GRU`, or `GRUCell` with `reset_after=False`;
            `BasicRNNCell`; `Conv1DLSTMCell` for a `ConvLSTM1D`, and so on.
        weights: for one layer `layer.get_weights()` (also of Keras 1, which has one array for each
            gate, and of `CuDNNLSTM` and `CuDNNGRU`), or arrays by the path of their variable,
            `{v.path: v for v in layer.weights}`; or the layer itself, of Keras or of `read`, the
            configuration of which must be that of the cells; for a stack a list of these, or
            `model.get_weights()` of a model without other layers. Where layers have no biases,
            the params have zeros.
        activation: the activation function of the layer, if arrays are given and it is not tanh.
            It must be the cell's, too.
        recurrent_activation: that of its gates, if it is not sigmoid: `hard_sigmoid` for layers of
            Keras 1 and 2 that say so, `jax.nn.hard_sigmoid` for those of Keras 3.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy arrays, or JAX arrays where those were given.

    Raises:
        ValueError: Keras has no such cell, arrays differ in number or shape, or the configuration
            of a layer differs from the cell. KeyError: names are missing or unexpected.
            TypeError: an array is not of floating dtype.

    Example:
        >>> import numpy as np, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> weights = [np.ones((3, 16)), np.ones((4, 16)), np.ones(16)]    # layers.LSTM(4)
        >>> cell = rnn.LSTMCell(4, forget_bias=0.0)
        >>> params = interop.keras.import_params((cell, cell), weights + weights)
        >>> params["fw"]["kernel"].shape                                   # of Bidirectional
        (7, 16)
    """
    layers = check_supported(_framework(None, None), layers_of(cells))
    is_list = isinstance(weights, list | tuple) and not isinstance(weights, Layer)
    given = list(weights) if is_list else [weights]
    # With configurations, which are checked, the functions are those of the cells.
    is_stated = bool(given) and all(map(has_configuration, given))
    functions = (None, None) if is_stated else (activation, recurrent_activation)
    of_depth = [
        [x for x in layers if not is_list or (x.depth or 0) == i] for i in range(len(given))
    ]
    arrays = [arrays_of(*x, _functions) for x in zip(of_depth, given, strict=True)]
    return _import(_framework(*functions), cells, arrays if is_list else arrays[0])


def _import(framework: Framework, cells: Cells, weights: Weights) -> Params:
    """Converts weights to params, for layers that the framework describes."""
    layers = check_supported(framework, layers_of(cells))
    return _convert.import_params(framework, cells, named_arrays(layers, weights))


def export_params(
    cells: Cells,
    params: Params,
    *,
    activation: Callable[..., Any] = jnp.tanh,
    recurrent_activation: Callable[..., Any] = jax.nn.sigmoid,
    use_bias: bool = True,
) -> list[Any]:
    """Converts params of `cells` to the weights of a layer, or of a stack of layers.

    Args:
        cells, activation, recurrent_activation: as in `import_params`.
        params: the params of `cells`.
        use_bias: `False` for a layer without biases; the biases among the params must be 0.

    Returns:
        A list of NumPy arrays, for `layer.set_weights`; for a stack a list of these, one for
        each layer. (`Bidirectional` of a stack, from a pair of `MultiRNNCell`, is one layer.)

    Raises:
        ValueError, KeyError, TypeError: as in `import_params`.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> cell = rnn.CudnnCompatibleGRUCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> [array.shape for array in interop.keras.export_params(cell, params)]
        [(3, 12), (4, 12), (2, 12)]
    """
    layers = layers_of(cells)
    framework = _framework(activation, recurrent_activation)
    arrays = _convert.export_params(framework, cells, params, biases=use_bias)
    each = [
        [np.array(arrays[name], order="C") for name in blocks_of(layer) if name in arrays]
        for layer in layers
    ]
    if layers[0].depth is None or layers[0].separate_stacks:
        return sum(each, [])
    depths = [layer.depth or 0 for layer in layers]
    return [
        sum([x for x, of in zip(each, depths, strict=True) if of == depth], [])
        for depth in range(max(depths) + 1)
    ]


def write_weights(path: str | os.PathLike[str], layers: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Writes the weights of layers to a file in HDF5, which every version of Keras loads.

    There it is loaded by `model.load_weights(path, by_name=True)`: layers that the file lacks keep
    their weights.

    Args:
        path: the file; its name ends in `.h5`, not in `.weights.h5`, which is another format of
            Keras 3.
        layers: by the name of a layer of the model, its arrays as of `get_weights()`: what
            `export_params` returns for one layer.

    Raises:
        ImportError: h5py is not installed. TypeError: `layers` is not a dict of lists of arrays.
        ValueError: `path` has another ending.

    Reference: `keras.Model.save_weights` of Keras 2.

    Example:
        >>> import h5py, tempfile, jax, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> cell = rnn.LSTMCell(4, forget_bias=0.0)
        >>> params = cell.init(jax.random.key(0), (1, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     interop.keras.write_weights(
        ...         f"{folder}/lstm.h5", {"lstm": interop.keras.export_params(cell, params)})
        ...     layers = interop.keras.read(f"{folder}/lstm.h5")
        >>> [x.shape for x in layers["lstm"].weights.values()]
        [(3, 16), (4, 16), (16,)]
    """
    name = os.fspath(path)
    if not name.endswith(".h5") or name.endswith(".weights.h5"):
        raise ValueError(f"path: expected one that ends in .h5, not in .weights.h5, got {name!r}")
    if not isinstance(layers, Mapping) or not all(isinstance(x, Sequence) for x in layers.values()):
        raise TypeError("layers: expected a dict of a list of arrays by the name of each layer")
    write_stored(name, layers)


def _framework(
    activation: Callable[..., Any] | None, recurrent_activation: Callable[..., Any] | None
) -> Framework:
    """What Keras can hold, given the functions of its layers; `None` for those of the cells."""
    return Framework(
        name="Keras",
        blocks=blocks_of,
        families=tuple(GATES),
        activations=dict.fromkeys(GATES, activation),
        activation_hint="give activation=, the function, if it is the Keras layer's",
        recurrent_activation=recurrent_activation,
        recurrent_activation_hint=(
            "give recurrent_activation=, the function, if it is the Keras layer's"
        ),
        separate_stacks=True,
    )
