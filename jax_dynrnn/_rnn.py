"""`dynamic_rnn` and `explain`: they validate a call and hand it to an engine.

`B` is the batch size, `T` the number of time steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import _check_cell, _check_data, engines
from ._adapter import as_cell
from ._arguments import F, explained
from ._cell import PREPARE, Params, State, take_step
from ._memoize import why_not_cached
from ._protocol import ask
from ._tools import fold_in
from ._types import CellLike, DTypeLike, Implementation, Inputs, Key, Lengths, PyTree, Remat
from .engines import Engine, Request, RowSharding, Run
from .engines.devices import device
from .engines.masks import Masks
from .sequence import as_lengths


@explained
def dynamic_rnn(
    cell: CellLike,
    params: Params,
    inputs: Inputs,
    sequence_length: ArrayLike | Sequence[int] | None = None,
    initial_state: State | None = None,
    *,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    time_major: bool = False,
    dtype: DTypeLike | None = None,
    key: jax.Array | None = None,
    unroll: int = 1,
    remat: Remat = None,
    implementation: Implementation = None,
) -> tuple[Any, State]:
    """Runs a cell over a padded batch of sequences of different lengths.

        for t in range(T), in each row:
            output[t], new = cell(params, x[t], state)
            state = new where the step is valid; elsewhere output[t] = 0

    Args:
        cell: a cell, or any object with its three methods `init`, `zero_state` and
            `__call__`.
        params: the params, as returned by `cell.init`.
        inputs: pytree of `[B, T, *features]`.
        sequence_length: `[B]` integers; steps at or after a row's length are not valid. Known
            values are checked, traced values are clamped to [0, T].
        initial_state: a state with the structure and shapes of `cell.zero_state(B)`;
            default: the start state of the cell.
        mask: bool `[B, T]`; False marks a step that is not valid: left padding, gaps.
        resets: bool `[B, T]`; a reset lies between the steps t - 1 and t of a row, and no state
            crosses it: step t starts from the cell's start state, or with `reverse` step
            t - 1 does. At t = 0 it replaces `initial_state`, or with `reverse` has no
            effect. On a step that is not valid it takes effect at the next valid step.
        reverse: processes the valid steps of each row in descending order; outputs stay in the
            order of the inputs.
        time_major: inputs, mask, resets and outputs are `[T, B, ...]`.
        dtype: floating inputs and params are cast to it; default: their promoted dtype.
        key: for cells that draw random numbers (dropout). Step t receives `fold_in(key, t)`;
            `None` means evaluation.
        unroll: the number of steps in one iteration of the loop; on accelerators at least 8, unless
            `implementation` names an engine.
        remat: which states are saved for the backward pass: `None` leaves this to the engine,
            an int k saves the state every k steps and recomputes the rest, `"sqrt"` is
            k = ceil(sqrt(T)), `"offload"` saves them in host memory.
        implementation: the name of an engine, or `None`: see `explain`.

    Returns:
        `(outputs, state)`: the outputs `[B, T, H]` at every step, 0 where a step is not
        valid, and the state after each row's last valid step (`initial_state` in a row
        without one). `outputs[:, -1]` is therefore not the state. Rank-0 leaves of the state
        are shared by the batch; they are updated at the first `min(T, max(1, n))` steps,
        where n is the number of steps up to the last one that is valid in any row.

    Raises:
        TypeError, ValueError, KeyError: an argument is not as described here; the message
            says what was expected, what was given, and what to do.
        NotImplementedError: the engine chosen by name cannot run this call; the message says
            why.

    Differs from TF1: the params are an argument; there are no variables. Padding never
    reaches a gradient, whatever it contains: the cell receives the row's first valid step
    instead. Float and bool lengths, and known lengths outside [0, T], are errors. `dtype` is
    not needed. `mask`, `resets` and `reverse` are new; `parallel_iterations` and
    `swap_memory` became `unroll` and `remat`.

    Reference: `tf.nn.dynamic_rnn`, TensorFlow 1.15.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, inputs = rnn.LSTMCell(4), jnp.ones((2, 5, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> outputs, state = rnn.dynamic_rnn(cell, params, inputs, sequence_length=[5, 3])
        >>> outputs.shape, state.c.shape, state.h.shape
        ((2, 5, 4), (2, 4), (2, 4))
        >>> outputs[1, -1].tolist()
        [0.0, 0.0, 0.0, 0.0]
        >>> bool(jnp.allclose(state.h[1], outputs[1, 2]))
        True
    """
    request = _request(
        cell, params, inputs, sequence_length, initial_state, mask, resets, reverse=reverse,
        time_major=time_major, dtype=dtype, key=key, unroll=unroll, remat=remat,
    )  # fmt: skip
    sharding = RowSharding.of(request, _complete)
    try:
        request, engine = engines.choose(request, implementation, sharding)
    except NotImplementedError:
        # If the call itself is wrong, that is the more useful error.
        jax.eval_shape(lambda: _complete(request))
        raise
    return _run(request, engine, sharding)


@explained
def explain(
    cell: CellLike,
    params: Params,
    inputs: Inputs,
    sequence_length: Lengths | None = None,
    initial_state: State = None,
    *,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    time_major: bool = False,
    dtype: DTypeLike | None = None,
    key: Key = None,
    unroll: int = 1,
    remat: Remat = None,
    implementation: Implementation = None,
) -> engines.Explanation:
    """Says which engine would run a call of `dynamic_rnn`, and why the others would not.

    Args:
        cell, params, inputs, sequence_length, initial_state, mask, resets, reverse, time_major,
            dtype, key, unroll, remat, implementation: as for `dynamic_rnn`; arrays may be
            `jax.ShapeDtypeStruct`s.

    Returns:
        An `Explanation` with `.chosen` and `.reasons`; printed, it is a table.

    Raises:
        TypeError, ValueError: as `dynamic_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, inputs = rnn.GRUCell(4), jax.ShapeDtypeStruct((2, 5, 3), jnp.float32)
        >>> params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape))
        >>> rnn.explain(cell, params, inputs).chosen
        'scan'
    """
    request = _request(
        cell, params, inputs, sequence_length, initial_state, mask, resets, reverse=reverse,
        time_major=time_major, dtype=dtype, key=key, unroll=unroll, remat=remat,
    )  # fmt: skip
    try:
        sharding = RowSharding.of(request, _complete)
    except Exception:  # the call is wrong, and a run would raise this error
        sharding = None
    return engines.explain(request, implementation, sharding)


class RunOptions(TypedDict, total=False):
    """The options of `dynamic_rnn` that every kind of run has: all but `reverse`."""

    mask: ArrayLike | None
    resets: ArrayLike | None
    time_major: bool
    dtype: Any
    key: jax.Array | None
    unroll: int
    remat: Remat
    implementation: Implementation


def takes(options: type[Any]) -> Callable[[F], F]:
    """Decorates a function with `**options: Unpack[options]`.

    Its signature lists the options, with the defaults of `dynamic_rnn`, and their names are
    checked.
    """
    like = inspect.signature(dynamic_rnn).parameters
    # Annotations of a `TypedDict` are `ForwardRef`s; a signature shows them as plain text.
    annotations = {n: getattr(a, "__forward_arg__", a) for n, a in options.__annotations__.items()}
    parameters = [
        inspect.Parameter(name, kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation,
                          default=like[name].default if name in like else None)
        for name, annotation in annotations.items()
    ]  # fmt: skip
    return functools.partial(explained, options=parameters)


def _request(
    cell: CellLike, params: Params, inputs: Inputs, sequence_length: Lengths | None,
    initial_state: State, mask: ArrayLike | None, resets: ArrayLike | None, *, reverse: bool,
    time_major: bool, dtype: DTypeLike | None, key: Key, unroll: int, remat: Remat,
) -> Request:  # fmt: skip
    """Makes a request after the checks that do not trace the cell."""
    cell = as_cell(cell)
    _check_data.arrays("params", params)
    _check_data.arrays("initial_state", initial_state)
    _check_data.flag("reverse", reverse)
    _check_data.flag("time_major", time_major)
    time_axis = 0 if time_major else 1
    try:
        inputs, batch, time = _check_data.check_inputs(cell, inputs, time_axis)
    except (TypeError, ValueError):
        # In TF1's order of arguments the lengths stand here, and the inputs in place of params.
        _check_cell.params_not_inputs(cell, params)
        raise
    if sequence_length is not None:
        sequence_length = _check_data.sequence_length(sequence_length, batch, time, time_axis)
    if mask is not None:
        mask = _check_data.flags("mask", mask, batch, time, time_axis)
    if resets is not None:
        resets = _check_data.flags("resets", resets, batch, time, time_axis)
    unroll, remat = _check_data.count("unroll", unroll, least=1), _check_data.remat(remat)
    dtype = _check_data.floating(dtype)
    _check_data.one_key(key)
    return Request(
        cell=cell,
        params=params,
        inputs=inputs,
        initial_state=initial_state,
        lengths=sequence_length,
        mask=mask,
        resets=resets,
        key=key,
        time_axis=time_axis,
        reverse=bool(reverse),
        dtype=promoted((inputs, params)) if dtype is None else dtype,
        unroll=unroll,
        remat=remat,
        device=device((params, inputs)),
    )


def promoted(tree: PyTree) -> Any:
    """The dtype to which all floating leaves promote."""
    dtypes = [x.dtype for x in jax.tree.leaves(tree) if hasattr(x, "dtype")]
    canonical = jax.dtypes.canonicalize_dtype  # float64 becomes float32 without x64
    floating = [canonical(d) for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    # All leaves are cast to the result, so a user's strict promotion mode is not violated.
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, floating) if floating else jnp.result_type(float)


def _run(request: Request, engine: Engine, sharding: RowSharding | None) -> tuple[Any, State]:
    """Runs a request, compiled if JAX's cache may keep the cell."""
    # The cache of `jax.jit` keeps the cell, and every array inside it, as long as the process runs.
    # What an exporter traces may be no program that XLA can compile.
    may_cache = why_not_cached(request.cell) is None and engines.exporter() is None
    return (_compiled if may_cache else _execute)(request, engine, sharding)


def _execute(request: Request, engine: Engine, sharding: RowSharding | None) -> tuple[Any, State]:
    if sharding is not None:
        return sharding.run(request, _complete, engine)
    return engine.run(_complete(request))


_compiled = jax.jit(_execute, static_argnums=(1, 2))


def _complete(request: Request) -> Run:
    """Makes the run of a request: casts, checks the cell, prepares params, and makes masks."""
    cell, dtype, batch = request.cell, request.dtype, request.batch
    shapes = jax.tree.map(lambda x: x.shape, request.inputs)
    _check_cell.check_params(cell, request.params, shapes)
    inputs, raw_params = cast(request.inputs, dtype), cast(request.params, dtype)
    default = jax.tree.map(jnp.asarray, ask(cell, "start", raw_params, (batch,), dtype))
    _check_cell.batch_leaves(cell, default, batch, "state")
    state = start = default
    if request.initial_state is not None:
        state = _check_cell.match_initial_state(cell, request.initial_state, default)
        start = _cast_like(default, state)
    prepare_key = fold_in(request.key, PREPARE)
    params = ask(cell, "prepare", raw_params, key=prepare_key, batch_shape=(batch,))

    def zeros_of_a_step(x):
        # Both leading axes are dropped, so the layout, batch- or time-major, does not matter.
        return jnp.zeros((batch, *x.shape[2:]), x.dtype)

    def step(state):
        zeros = jax.tree.map(zeros_of_a_step, inputs)
        projected = ask(cell, "project", params, zeros)
        return take_step(cell, params, projected, state, key=request.key)

    # Traced before an engine runs the cell: an error in a step is clearer outside of a loop.
    output = _check_cell.check_step(cell, step, state, default, batch)
    has_scalars = any(x.ndim == 0 for x in jax.tree.leaves((state, output)))
    masks = Masks.of(_with_arrays(request), has_scalars)
    return Run.of(
        request,
        inputs=inputs,
        masks=masks,
        params=params,
        raw_params=raw_params,
        initial_state=state,
        start_state=start,
    )


def _with_arrays(request: Request) -> Request:
    """The request with lengths, mask and resets as JAX arrays; lengths are clamped to [0, T]."""
    return dataclasses.replace(
        request,
        lengths=None if request.lengths is None else as_lengths(request.lengths, request.time),
        mask=None if request.mask is None else jnp.asarray(request.mask),
        resets=None if request.resets is None else jnp.asarray(request.resets),
    )


def _cast_like(start: State, state: State) -> State:
    """`start` in the dtypes of `state`: a reset puts it in the place of the carried state."""

    def cast_leaf(s, carried):
        return s.astype(carried.dtype)

    return jax.tree.map(cast_leaf, start, state)


def cast(tree: PyTree, dtype: DTypeLike | None) -> PyTree:
    """The tree as JAX arrays, the floating ones cast to `dtype`."""

    def cast_leaf(x):
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast_leaf, tree)
