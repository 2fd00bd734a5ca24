"""Converts variables of TensorFlow 1 to params and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Params
from .._check_cell import by_name, is_learned_row
from .._types import Cells
from ._code import code
from ._tf1.match import fit
from ._tf1.names import is_memory
from ._tf1.scopes import as_run, variable_names
from ._tf1.shapes import fit_input_size, smallest_input_size
from ._tf1.table import CanonicalWeights

__all__ = ["export_params", "import_params"]


def import_params(cells: Cells, variables: Mapping[str, Any], scope: str | None = None) -> Params:
    """Converts the variables of a TensorFlow 1 model to params for `cells`.

    Variables are found by name (of any version of TensorFlow 1, with or without `:0`, partitioned
    or not); then their shapes are checked. Slots of optimizers, step counters, moving averages and
    everything outside of the cells' scopes are ignored. `forget_bias`, activations and clips are
    not stored in variables, and so cannot be checked: they are those of the cells.

    Args:
        cells: one cell (a `MultiRNNCell` for a stack) as for `dynamic_rnn`, a pair `(cell_fw,
            cell_bw)` as for `bidirectional_dynamic_rnn`, or a pair of lists of cells as for
            `stack_bidirectional_dynamic_rnn`. An `AttentionWrapper` needs no memory here.
        variables: arrays by name.
        scope: the scope of the run, `"decoder/rnn"`, or any scope around it; for one cell with a
            name of its own, that of the cell, `"decoder/lstm_cell_1"`; `None`: the only scope that
            has variables of these cells, in their sizes.

    Returns:
        Params as JAX arrays in the variables' dtypes (float64 needs x64). `LearnedInitialState`,
        which TensorFlow 1 lacks, takes `initial_state/...` in the scope around the cell, with or
        without a batch axis of size 1.

    Raises:
        TypeError: a cell is not a cell of this library, or `variables` is not a mapping.
        KeyError: variables are missing or, in the cells' scopes, left over; the message lists the
            nearest names. ValueError: shapes do not fit, or those of more than one scope do, or the
            variables belong to one cell within or beside others and `scope` does not name it.

    Example:
        >>> import numpy as np, jax_dynrnn as rnn
        >>> from jax_dynrnn.interop import tf1
        >>> variables = {
        ...     "encoder/rnn/gru_cell/gates/kernel": np.ones((3 + 4, 2 * 4), np.float32),
        ...     "encoder/rnn/gru_cell/gates/bias": np.ones(2 * 4, np.float32),
        ...     "encoder/rnn/gru_cell/candidate/kernel": np.ones((3 + 4, 4), np.float32),
        ...     "encoder/rnn/gru_cell/candidate/bias": np.zeros(4, np.float32),
        ...     "beta1_power": np.float32(0.9),
        ... }
        >>> params = tf1.import_params(rnn.GRUCell(4), variables)
        >>> params["candidate"]["kernel"].shape
        (7, 4)
    """
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"variables: expected a mapping of names to arrays, got {type(variables).__name__}; "
            "checkpoint.read_checkpoint(path) gives that of a file"
        )
    tree, weights, keys = fit(cells, CanonicalWeights(variables), scope)
    arrays = []
    for path, leaf in by_name(tree).items():
        array = jnp.asarray(weights.array(keys[path]))
        arrays.append(array[0] if is_learned_row(path, array.shape, leaf.shape) else array)
    return jax.tree.unflatten(jax.tree.structure(tree), arrays)


def export_params(cells: Cells, params: Params, scope: str | None = None) -> dict[str, np.ndarray]:
    """Converts params of `cells` to the variables of a TensorFlow 1 model.

    Args:
        cells: as in `import_params`.
        params: the params of `cells`; they may include a memory that is attended to.
        scope: the scope of the run; `None`: TensorFlow's default, `rnn`, `bidirectional_rnn` or
            `stack_bidirectional_rnn`. (That of `dynamic_decode` is `decoder`.) The `memory_layer`
            of an attention mechanism gets the scope around the run's.

    Returns:
        Arrays by their names in TensorFlow 1.15.

    Raises:
        TypeError: a cell is not a cell of this library.
        KeyError, ValueError: the params are not those of the cells.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from jax_dynrnn.interop import tf1
        >>> fw = bw = rnn.BasicRNNCell(4)
        >>> params = rnn.init_bidirectional(jax.random.key(0), fw, bw, (2, 5, 3))
        >>> for name in tf1.export_params((fw, bw), params):
        ...     print(name)
        bidirectional_rnn/fw/basic_rnn_cell/bias
        bidirectional_rnn/fw/basic_rnn_cell/kernel
        bidirectional_rnn/bw/basic_rnn_cell/bias
        bidirectional_rnn/bw/basic_rnn_cell/kernel
    """
    run = as_run(cells)
    arrays = by_name(params)
    # A few params exist only for some input sizes, so names are checked first, at the smallest
    # size; then the real size is inferred from the shapes.
    size, tree = smallest_input_size(run, arrays)
    names = variable_names(run, tree)
    if set(names) != set(arrays):
        missing, unexpected = names.keys() - arrays.keys(), arrays.keys() - names.keys()
        raise KeyError(
            f"params: expected those of {code(cells)}; missing: "
            f"{', '.join(sorted(missing)) or 'none'}; unexpected: "
            f"{', '.join(sorted(unexpected)) or 'none'}"
        )
    size, expected = fit_input_size(run, size, {path: np.shape(x) for path, x in arrays.items()})
    for path, x in by_name(expected).items():
        if x.shape != np.shape(arrays[path]):
            raise ValueError(
                f"params: expected {path} of shape {x.shape} for {code(cells)} on inputs of {size} "
                f"features, got {np.shape(arrays[path])}"
            )
    scope = run.scope if scope is None else scope.strip("/")
    around = scope.rpartition("/")[0]
    return {
        f"{around if is_memory(name) else scope}/{name}".lstrip("/"): np.asarray(arrays[path])
        for path, name in names.items()
    }
