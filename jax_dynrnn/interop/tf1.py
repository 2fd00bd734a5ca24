"""TensorFlow 1's variables as params, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Params
from .._check_cell import by_name
from .._types import Cells
from ._code import code
from ._tf1.match import fit
from ._tf1.names import is_memory
from ._tf1.scopes import as_run, variable_names
from ._tf1.shapes import fitted, smallest
from ._tf1.table import Table

__all__ = ["export_params", "import_params"]


def import_params(cells: Cells, variables: Mapping[str, Any], scope: str | None = None) -> Params:
    """The params of a run from the variables of a TensorFlow 1 model.

    Variables are found by their names, those of every version of TensorFlow 1, with or without
    `:0`, whole or in shards; then their shapes are checked. Slots of optimisers, step counters
    and moving averages are passed over, and so is whatever is outside of the cells' scopes. What
    is not in variables is not checked: `forget_bias`, activations and clips are the cells'.

    Args:
        cells: one cell (a `MultiRNNCell` for a stack) as for `dynamic_rnn`, a pair `(cell_fw,
            cell_bw)` as for `bidirectional_dynamic_rnn`, or a pair of lists of cells as for
            `stack_bidirectional_dynamic_rnn`. What `AttentionWrapper` attends to is not needed.
        variables: arrays by name.
        scope: that of the run, `"decoder/rnn"`, or one around it; of one cell with a name of its
            own that, `"decoder/lstm_cell_1"`; `None`: the only one with variables of these cells.

    Returns:
        Params, JAX's arrays, in the variables' dtypes (float64 needs x64). `LearnedInitialState`,
        which TensorFlow 1 has not, takes `initial_state/...` in the scope around the cell.

    Raises:
        TypeError: a cell is not of this library, or `variables` are no mapping.
        KeyError: variables are missing or, in the cells' scopes, left over; the message has the
            nearest names. ValueError: their shapes do not fit, more than one scope's do, or they
            are of one cell within or beside others, for which `scope` did not ask.

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
    tree, table, keys = fit(cells, Table(variables), scope)
    arrays = [jnp.asarray(table.array(keys[path])) for path in by_name(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), arrays)


def export_params(cells: Cells, params: Params, scope: str | None = None) -> dict[str, np.ndarray]:
    """The variables of a TensorFlow 1 model from the params of a run.

    Args:
        cells: as in `import_params`.
        params: those of the run; a memory that is attended to may be with them.
        scope: that of the run; `None`: TensorFlow's own, `rnn`, `bidirectional_rnn` or
            `stack_bidirectional_rnn`. (`dynamic_decode` has `decoder`.) The `memory_layer` of an
            attention mechanism goes to the scope around it.

    Returns:
        Arrays by the names of TensorFlow 1.15.

    Raises:
        TypeError: a cell is not of this library.
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
    size, tree = smallest(run, arrays)
    names = variable_names(run, tree)
    if set(names) != set(arrays):
        missing, unexpected = names.keys() - arrays.keys(), arrays.keys() - names.keys()
        raise KeyError(
            f"params: expected those of {code(cells)}; missing: "
            f"{', '.join(sorted(missing)) or 'none'}; unexpected: "
            f"{', '.join(sorted(unexpected)) or 'none'}"
        )
    size, expected = fitted(run, size, {path: np.shape(x) for path, x in arrays.items()})
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
