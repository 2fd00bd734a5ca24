"""`raw_rnn`: the loop over a cell in which a user's function computes everything between steps.

`B` is the batch size, `D` a feature size, `H` the units, `M` the maximum number of steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from . import _check_cell, _check_data
from ._adapter import as_cell
from ._arguments import explained
from ._cell import PREPARE, Cell, Params, State, take_step
from ._features import feature_ndims
from ._memoize import run_compiled
from ._protocol import ask, call_back, structure
from ._tools import fold_in
from ._types import CellLike, Inputs, PyTree
from .engines.devices import row_sharding, typed_as_results, with_rows_over
from .engines.masks import expand_like

ARGUMENTS = "time, cell_output, cell_state, loop_state"
ORDER = "raw_rnn(cell, params, loop_fn)"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Emitted:
    """The emitted outputs of `raw_rnn`, with the methods of TF1's `TensorArray` that apply.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_dynrnn._raw import Emitted
        >>> Emitted(jnp.zeros((3, 2, 4)), jnp.asarray(2)).stack().shape
        (3, 2, 4)
    """

    _values: Any
    _steps: jax.Array

    def stack(self) -> Any:
        """The outputs of all steps: a pytree of `[M, B, ...]`, 0 after the end of each row."""
        return self._values

    def size(self) -> jax.Array:
        """The number of steps taken, an int32 scalar."""
        return self._steps


@explained
def raw_rnn(
    cell: CellLike,
    params: Params,
    loop_fn: Callable[..., Any],
    *,
    maximum_iterations: int,
    key: jax.Array | None = None,
) -> tuple[Emitted, State, Any]:
    """Runs a cell with a user's function between the steps, as decoders and samplers need it.

    Call it under `jax.jit`. Outside of it every call traces and compiles the loop again, which
    can take seconds: `loop_fn` may read variables that have changed. Eager calls share a program
    if it cannot, as a `jax.tree_util.Partial`, which holds its arrays, or a jitted function.

        finished, x, state, emit, loop_state = loop_fn(0, None, None, None)
        for t = 0, 1, ... while not all rows are finished:
            output, new = cell(params, x, state)
            next_finished, x, new, emit, loop_state = loop_fn(t + 1, output, new, loop_state)
            emitted[t], state = where(finished, (0, state), (emit, new))
            finished = finished | next_finished

    Args:
        cell: a cell, or any object with its three methods.
        params: the params, as returned by `cell.init`.
        loop_fn: `loop_fn(time, cell_output, cell_state, loop_state) -> (finished,
            next_input, next_cell_state, emit_output, next_loop_state)`. `time` is a traced
            int32, `finished` bool `[B]`, `next_input` a pytree of `[B, *features]`. The first
            call, with `(0, None, None, None)`, returns the first input and the initial state;
            its `emit_output` specifies what will be emitted, by arrays or
            `jax.ShapeDtypeStruct`s *without the batch axis* (`None`: the cell's output). A
            `next_loop_state` of `None` leaves the loop state unchanged.
        maximum_iterations: the maximum number of steps `M`; it is needed because shapes are
            static.
        key: as for `dynamic_rnn`: step t receives `fold_in(key, t)`.

    Returns:
        `(emitted, final_state, final_loop_state)`: `emitted.stack()` is `[M, B, ...]`, 0 after
        the end, `emitted.size()` the number of steps taken. Rank-0 leaves of the state are
        updated at every step taken. Gradients flow as through `dynamic_rnn`.

    Raises:
        TypeError, ValueError: `loop_fn` returns anything other than this.

    Differs from TF1: `maximum_iterations` is required. Nothing is cast.

    Reference: `tf.nn.raw_rnn`, TensorFlow 1.15.

    Example: a cell that reads its own output, for 2 and for 4 steps
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, limits = rnn.GRUCell(3), jnp.array([2, 4])
        >>> params = cell.init(jax.random.key(0), (3,))
        >>> def loop_fn(time, output, state, loop_state):
        ...     first = output is None
        ...     x = jnp.ones((2, 3)) if first else output
        ...     state = cell.zero_state(2) if first else state
        ...     return time >= limits, x, state, None if first else output, None
        >>> run = jax.jit(lambda p: rnn.raw_rnn(cell, p, loop_fn, maximum_iterations=6))
        >>> emitted, state, _ = run(params)
        >>> emitted.stack().shape, int(emitted.size()), emitted.stack()[2:, 0].any().item()
        ((6, 2, 3), 4, False)
    """
    cell = as_cell(cell)
    maximum_iterations = _check_data.count("maximum_iterations", maximum_iterations, least=0)
    _check_data.one_key(key)
    if not callable(loop_fn):
        raise TypeError(
            "loop_fn: expected a function (time, cell_output, cell_state, loop_state) -> "
            "(finished, next_input, next_cell_state, emit_output, next_loop_state), got "
            f"{type(loop_fn).__name__}; the order of arguments is {ORDER}"
        )
    return run_compiled(_run, cell, (maximum_iterations,), (loop_fn,), (params, key))


def _run(
    cell: Cell,
    maximum_iterations: int,
    loop_fn: Callable[..., Any],
    params: Params,
    key: jax.Array | None,
) -> tuple[Emitted, State, Any]:
    loop_fn = _checked_loop_fn(loop_fn)
    zero = jnp.zeros((), jnp.int32)
    finished, inputs, state, emit, loop_state = loop_fn(zero, None, None, None)
    inputs = _as_arrays("next_input", inputs)
    loop_state = _as_arrays("next_loop_state", loop_state)
    batch = _batch_size(cell, inputs)
    finished = _check_finished(finished, batch)
    with _check_cell.relabel_errors(ORDER, initial_state="next_cell_state"):
        state = _check_first_state(cell, params, inputs, state, batch)
    # On an explicit mesh, arrays of the same rows must lie alike before they can be combined.
    rows = row_sharding((inputs, state, finished))
    finished, inputs, state = with_rows_over((finished, inputs, state), rows)
    prepare_key = fold_in(key, PREPARE)
    prepared = ask(cell, "prepare", params, key=prepare_key, batch_shape=(batch,))

    def step(t, inputs, state):
        projected = ask(cell, "project", prepared, inputs)
        return take_step(cell, prepared, projected, state, key=fold_in(key, t))

    if emit is None:
        emit = jax.eval_shape(step, zero, inputs, state)[0]
    else:
        emit = jax.tree.map(functools.partial(_emit_spec, batch=batch), emit)
    no_emission = jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), emit)
    no_emission = with_rows_over(no_emission, rows)

    def advance(t, carry, no_emission):
        finished, inputs, state, loop_state = carry
        output, new = step(t, inputs, state)
        returned = loop_fn(t + 1, output, new, loop_state)
        *of_rows, next_loop_state = returned
        next_finished, next_inputs, new, emit = with_rows_over(of_rows, rows)
        next_loop_state = loop_state if next_loop_state is None else next_loop_state
        new = _check_same_type("next_cell_state", state, new)
        emit = _check_same_type("emit_output", no_emission, emit)
        # As in TF1, the flags that `loop_fn` returns now take effect at the next step.
        emit = _where_finished(finished, no_emission, emit)
        carry = (
            finished | _check_finished(next_finished, batch),
            _check_same_type("next_input", inputs, next_inputs),
            _where_finished(finished, state, new),
            _check_same_type("next_loop_state", loop_state, next_loop_state),
        )
        return carry, emit

    carry = finished, inputs, state, loop_state
    first_step = functools.partial(advance, zero)
    carry, no_emission = typed_as_results(lambda given: first_step(*given), (carry, no_emission))

    def iterate(carry, t):
        def skip():
            return carry, no_emission

        is_finished = carry[0].all()
        carry, emit = jax.lax.cond(is_finished, skip, lambda: advance(t, carry, no_emission))
        return carry, (emit, ~is_finished)

    # A scan with a `cond` inside: a `while_loop` would end earlier, but has no reverse mode.
    times = jnp.arange(maximum_iterations, dtype=jnp.int32)
    carry, (values, taken) = jax.lax.scan(iterate, carry, times)
    return Emitted(values, taken.sum(dtype=jnp.int32)), carry[2], carry[3]


def _checked_loop_fn(loop_fn: Callable[..., Any]) -> Callable[..., Any]:
    """`loop_fn` with a check that it returns five results."""

    def checked(*arguments):
        return _check_five(call_back("loop_fn", loop_fn, ARGUMENTS, *arguments))

    return checked


def _check_five(returned: object) -> tuple[Any, ...]:
    """The five results of `loop_fn`, after checking their number."""
    if not isinstance(returned, tuple | list) or len(returned) != 5:
        raise TypeError(
            "loop_fn: expected it to return (finished, next_input, next_cell_state, "
            f"emit_output, next_loop_state), got {type(returned).__name__}"
            + (f" of {len(returned)}" if isinstance(returned, tuple | list) else "")
        )
    return tuple(returned)


def _batch_size(cell: Cell, inputs: Inputs) -> int:
    """The batch size of the first input, after checking the ranks of its leaves."""
    leaves = jax.tree_util.tree_flatten_with_path(inputs)[0]
    if not leaves:
        raise ValueError("loop_fn: expected a first next_input of at least one array, got none")
    ndims = jax.tree.leaves(feature_ndims(cell.feature_ndim, inputs, where="loop_fn: next_input"))
    for n, (path, x) in zip(ndims, leaves, strict=True):
        if x.ndim != 1 + n or x.shape[0] != leaves[0][1].shape[0]:
            raise ValueError(
                f"loop_fn: expected next_input{keystr(path)} to be [batch] and "
                f"{n} axes of features for {cell!r}, got shape {x.shape}"
            )
    return leaves[0][1].shape[0]


def _as_arrays(where: str, tree: PyTree) -> Any:
    """A result of `loop_fn` as a pytree of JAX arrays."""

    def as_array(path, x):
        if isinstance(x, jax.Array):  # of any dtype: a loop state may hold keys
            return x
        return jnp.asarray(_check_data.of_numbers(f"loop_fn: {where}{keystr(path)}", x))

    return jax.tree_util.tree_map_with_path(as_array, tree)


def _check_finished(finished: Any, batch: int) -> jax.Array:
    """`finished` as an array, after checking that it is bool `[B]`."""
    finished = jnp.asarray(_check_data.array("loop_fn: finished", finished))
    if finished.shape != (batch,) or finished.dtype != bool:
        raise ValueError(
            f"loop_fn: expected finished to be bool of shape ({batch},), one flag a row, got "
            f"{finished.dtype} of shape {finished.shape}"
        )
    return finished


def _check_first_state(cell: Cell, params: Params, inputs: Inputs, state: State, batch: int) -> Any:
    """Checks the params, and the first state against the start state of the cell."""
    _check_cell.check_params(cell, params, jax.tree.map(np.shape, inputs))
    # Only shapes are compared, so any floating dtype of the call will do for the start state.
    floating = [x.dtype for x in jax.tree.leaves((params, inputs, state)) if hasattr(x, "dtype")]
    floating = [d for d in floating if jnp.issubdtype(d, jnp.floating)]
    dtype = floating[0] if floating else jnp.result_type(float)
    start = jax.eval_shape(lambda: ask(cell, "start", params, (batch,), dtype))
    return _check_cell.match_initial_state(cell, state, start)


def _emit_spec(x: Any, batch: int) -> jax.ShapeDtypeStruct:
    """The shape and dtype to emit, from what the first call of `loop_fn` gave for one row."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        x = _as_arrays("emit_output", x)
    return jax.ShapeDtypeStruct((batch, *x.shape), jax.dtypes.canonicalize_dtype(x.dtype))


def _check_same_type(where: str, old: PyTree, new: PyTree) -> Any:
    """`new` as arrays, after checking that structure, shapes and dtypes are those of `old`.

    `lax.scan` requires this of a carry, and the error here says which result differs.
    """
    if jax.tree.structure(old) != jax.tree.structure(new):
        raise TypeError(
            f"loop_fn: expected {where} as in the first call, {structure(old)}, got "
            f"{structure(new)}"
        )
    new = _as_arrays(where, new)
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(old)[0], jax.tree.leaves(new), strict=True
    ):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise TypeError(
                f"loop_fn: expected {where}{keystr(path)} of {a.dtype}{list(a.shape)}, as in the "
                f"first call, got {b.dtype}{list(b.shape)}"
            )
    return new


def _where_finished(finished: jax.Array, old: PyTree, new: PyTree) -> Any:
    """`old` in finished rows and `new` in the others; rank-0 leaves are always `new`."""

    def select(old, new):
        return jnp.where(expand_like(finished, new), old, new) if new.ndim else new

    return jax.tree.map(select, old, new)
