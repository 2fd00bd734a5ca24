"""A batch on a mesh of devices: each device runs its own rows.

The whole run is inside one `jax.shard_map`, so that no engine communicates in a loop: params that
are sharded are gathered once before it, and gradients are summed once after it. An engine only ever
has a batch on one device. What depends on the rows of all devices is done here (draws of random
numbers, rank-0 leaves of results), or asks for `row_axes` (masks).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from .._cell import Memory
from .._types import PyTree
from .devices import axes_of_vmap, pcast, sharding_of
from .draws import UNDIVIDED, RowDraws, UnknownDraw, draws_of
from .engine import Engine
from .request import Request, Run

Complete = Callable[[Request], Run]
"""Makes the run of a request."""
Flags = tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class RowSharding:
    """How the rows of a batch are distributed over the devices of a mesh."""

    mesh: AbstractMesh
    axes: tuple[str, ...]
    """The mesh axes that rows are distributed over, the major one first. None: every device runs
    all rows."""
    draws: RowDraws = UNDIVIDED
    """Derives the random key of each device: a device draws for its own rows only."""
    ranks_0: tuple[Flags, Flags] = ((), ())
    """Which leaves of the output and of the state have rank 0, and so are the same in all rows."""

    @classmethod
    def of(cls, request: Request, complete: Complete) -> RowSharding | None:
        """The sharding of a request; `None` if the run is not divided here.

        That is so without a mesh, inside a user's `jax.shard_map`, and on Auto axes that cannot
        divide the rows. The shardings of explicit axes are known from types. Those of Auto axes are
        not known before compilation: rows are distributed over as many of them as divide the batch.
        """
        mesh = _mesh_of(request)
        if mesh is None or AxisType.Manual in mesh.axis_types:
            return None
        is_explicit = AxisType.Explicit in mesh.axis_types
        axes = _explicit_axes(request) if is_explicit else _dividing_axes(mesh, request.batch)
        if not axes and not is_explicit:
            return None
        key = None if request.key is None else _key_for_tracing(request.key)
        types = dataclasses.replace(_types(request), key=key)
        step = functools.partial(_one_step, complete)
        jaxpr, results = _traced(step, types)
        outputs, state = (tuple(x.ndim == 0 for x in jax.tree.leaves(tree)) for tree in results)
        divided = cls(mesh, axes, UNDIVIDED, (outputs, state))
        draws = divided._row_draws(step, types, jaxpr, request.key) if axes else None
        if draws is not None:
            return dataclasses.replace(divided, draws=draws)
        return dataclasses.replace(divided, axes=()) if is_explicit else None

    def _row_draws(
        self, step: Callable[..., Any], types: Request, whole: Any, key: Any
    ) -> RowDraws | None:
        """How a device draws for its rows; `None` if it cannot run them by themselves.

        That is so if a param of a user's cell has a row for each row of the batch, if the cell
        constrains shardings itself, or if it is not known which random numbers belong to which row.
        """

        def own_step(request):
            return self._map(step, request, self._spec(0))

        try:
            own, _ = _traced(own_step, types)
        except Exception:  # whatever a user's cell raises for arrays of other sizes
            return None
        try:
            draws = draws_of(whole), draws_of(own)
        except UnknownDraw:
            return None
        if key is None:  # whatever is drawn comes from a key in the cell, its params or its state
            return UNDIVIDED if draws[0] == draws[1] else None
        return RowDraws.of(*draws, (types.batch, types.batch // self.num_parts), key)

    @property
    def num_parts(self) -> int:
        """The number of parts that the batch is divided into."""
        return math.prod(self.mesh.shape[name] for name in self.axes)

    def local(self, request: Request) -> Request:
        """The types of the request of one device."""

        def divide(x, spec):
            divisors = (1 if names is None else self.num_parts for names in _padded(spec, x))
            shape = tuple(n // by for n, by in zip(x.shape, divisors, strict=True))
            return jax.ShapeDtypeStruct(shape, x.dtype)

        types = _types(request)
        local = jax.tree.map(divide, types, self._specs(types))
        return dataclasses.replace(local, row_axes=self.axes)

    def run(self, request: Request, complete: Complete, engine: Engine) -> tuple[Any, Any]:
        """`engine.run(complete(request))`, by each device for its own rows."""

        def run_rows(request):
            if request.key is not None and self.axes:
                part = jax.lax.axis_index(self.axes)
                request = dataclasses.replace(request, key=self.draws.key(request.key, part))
            return engine.run(complete(request))

        of_outputs = self._spec(1 - request.time_axis)
        outputs, state = self._map(run_rows, request, of_outputs, engine.checks_vma)
        return outputs, self._placed_like(state, request.initial_state)

    def _map(
        self,
        f: Callable[[Request], Any],
        request: Request,
        of_outputs: P,
        checks_vma: bool = True,
    ) -> Any:
        """`f(request)`, by each device for its own rows -> `(outputs, state)`.

        `of_outputs` is the `PartitionSpec` of outputs that have rows.
        """
        leaves, structure = jax.tree.flatten(request)
        specs = jax.tree.leaves(self._specs(request))
        result_structure = None
        flags = [flag for part in self.ranks_0 for flag in part]
        of_results = [of_outputs] * len(self.ranks_0[0]) + [self._spec(0)] * len(self.ranks_0[1])
        out_specs = [P() if flag else spec for flag, spec in zip(flags, of_results, strict=True)]

        def of_leaves(leaves):
            nonlocal result_structure
            # Varying from here on: the gradients of what all devices share are then summed here,
            # outside of all loops.
            leaves = [pcast(x, frozenset(self.axes)) for x in leaves]
            own = dataclasses.replace(structure.unflatten(leaves), row_axes=self.axes)
            results, result_structure = jax.tree.flatten(f(own))
            pairs = zip(results, flags, strict=True)
            return [self._as_equal(x) if flag and self.axes else x for x, flag in pairs]

        mapped = jax.shard_map(
            of_leaves,
            mesh=self.mesh,
            in_specs=(specs,),
            out_specs=out_specs,
            check_vma=checks_vma,
        )
        if self._is_explicit:  # there `shard_map` does not change how its arguments are sharded
            leaves = [
                jax.reshard(x, NamedSharding(self.mesh, spec))
                for x, spec in zip(leaves, specs, strict=True)
            ]
        results = mapped(leaves)
        assert result_structure is not None
        return result_structure.unflatten(results)

    def _as_equal(self, x: jax.Array) -> jax.Array:
        """A rank-0 leaf, which is equal on all devices, with the type that says so."""
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = self._as_equal(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        of_first = jnp.where(jax.lax.axis_index(self.axes) == 0, x, jnp.zeros_like(x))
        summable = of_first.astype(jnp.int32) if x.dtype == bool else of_first
        return jax.lax.psum(summable, self.axes).astype(x.dtype)

    def _spec(self, axis: int) -> P:
        """Of an array whose axis `axis` is the batch."""
        if not self.axes:
            return P()
        names = self.axes[0] if len(self.axes) == 1 else self.axes
        return P(*(None,) * axis, names)

    def _specs(self, request: Request) -> Request:
        """The `PartitionSpec` of each array of a request, in its place."""

        def of_rows(tree: Any, axis: int = 0) -> Any:
            return jax.tree.map(lambda x: self._spec(axis) if np.ndim(x) else P(), tree)

        def of_param(x):
            return of_rows(x) if isinstance(x, Memory) else P()

        params = jax.tree.map(of_param, request.params, is_leaf=_is_memory)
        of_steps = functools.partial(of_rows, axis=1 - request.time_axis)
        return dataclasses.replace(
            request,
            params=params,
            inputs=of_steps(request.inputs),
            initial_state=of_rows(request.initial_state),
            key=None if request.key is None else P(),
            lengths=of_rows(request.lengths),
            mask=of_steps(request.mask),
            resets=of_steps(request.resets),
        )

    @property
    def _is_explicit(self) -> bool:
        return AxisType.Explicit in self.mesh.axis_types

    def _placed_like(self, state: PyTree, given: PyTree) -> Any:
        """On explicit axes the final state, sharded as the initial one was given."""
        if not self._is_explicit or given is None:
            return state
        leaves, structure = jax.tree.flatten(state)
        placed = []
        for x, like in zip(leaves, jax.tree.leaves(given), strict=True):
            sharding = jax.typeof(like).sharding
            placed.append(x if sharding.mesh.empty else jax.reshard(x, sharding))
        return structure.unflatten(placed)

    def note(self, request: Request) -> str:
        """What `explain` says of it."""
        num_devices, batch = math.prod(self.mesh.axis_sizes), request.batch
        if not self.axes:
            rows = f"each of the {num_devices} devices runs all {batch} rows"
        else:
            names = ", ".join(map(repr, self.axes))
            rows = (
                f"each device runs {batch // self.num_parts} of {batch} rows, which are distributed"
                f" over {names}"
            )
        sharded = [
            jax.tree_util.keystr(path)
            for path, x in jax.tree_util.tree_flatten_with_path(request.params)[0]
            if any(names is not None for names in _spec_of(x))
        ]
        if not sharded:
            return rows
        return f"{rows}; these params are gathered once, before the loop: {', '.join(sharded)}"


def _one_step(complete: Complete, request: Request) -> tuple[Any, Any]:
    """`(output, new_state)` of one step, with what a run draws before it."""
    run = complete(request)

    def zeros_of_a_step(x):
        return jnp.zeros((run.batch, *x.shape[2:]), x.dtype)

    projected = run.cell.project(run.params, jax.tree.map(zeros_of_a_step, run.inputs))
    return run.cell.step(run.params, projected, run.initial_state, key=run.step_key(0))


def _traced(f: Callable[[Request], Any], types: Request) -> tuple[Any, Any]:
    """The jaxpr of `f`, and the types of its results."""
    # Of leaves: a cell need not be hashable, and JAX hashes the structure of arguments.
    leaves, structure = jax.tree.flatten(types)

    def of_leaves(*leaves):
        return f(structure.unflatten(leaves))

    closed, results = jax.make_jaxpr(of_leaves, return_shape=True)(*leaves)
    return closed.jaxpr, results


def _types(request: Request) -> Request:
    def type_of(x):
        dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
        return jax.ShapeDtypeStruct(np.shape(x), dtype)

    return jax.tree.map(type_of, request)


def _key_for_tracing(key: Any) -> Any:
    """The type of a key whose draws are recognised in a jaxpr."""
    part = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.eval_shape(UNDIVIDED.key, jax.ShapeDtypeStruct(key.shape, key.dtype), part)


def _is_memory(x: object) -> bool:
    return isinstance(x, Memory)


def _padded(spec: Any, x: Any) -> tuple[Any, ...]:
    """A `PartitionSpec` with an entry for each axis of an array."""
    return (*spec, *(None,) * (len(np.shape(x)) - len(spec)))


def _named_sharding_of(x: Any) -> Any:
    """The `NamedSharding` of an array or its type, or `None`."""
    found = sharding_of(x)
    is_on_mesh = isinstance(found, NamedSharding) and not found.mesh.empty
    return found if is_on_mesh else None


def _spec_of(x: Any) -> tuple[Any, ...]:
    """The mesh axes of each axis of an array, as far as they are known."""
    sharding = _named_sharding_of(x)
    return _padded(() if sharding is None else tuple(sharding.spec), x)


def _mesh_of(request: Request) -> AbstractMesh | None:
    """The mesh that is set, or that an array of the request is on."""
    if not (mesh := jax.sharding.get_abstract_mesh()).empty:
        return mesh
    for x in jax.tree.leaves(request):
        if (sharding := _named_sharding_of(x)) is not None:
            return sharding.mesh.abstract_mesh
    return None


def _explicit_axes(request: Request) -> tuple[str, ...]:
    """The explicit mesh axes that the batch is sharded over."""
    of_steps = 1 - request.time_axis
    for tree, axis in (
        (request.inputs, of_steps),
        (request.lengths, 0),
        (request.mask, of_steps),
        (request.resets, of_steps),
        (request.initial_state, 0),
    ):
        for x in jax.tree.leaves(tree):
            if np.shape(x) and (names := _spec_of(x)[axis]) is not None:
                return names if isinstance(names, tuple) else (names,)
    return ()


def _dividing_axes(mesh: AbstractMesh, batch: Any) -> tuple[str, ...]:
    """The first axes of a mesh whose sizes divide the batch."""
    if not isinstance(batch, int) or batch == 0:
        return ()
    axes, parts = [], 1
    for name in mesh.axis_names:
        size = mesh.shape[name]
        if size > 1 and name not in axes_of_vmap() and batch % (parts * size) == 0:
            axes.append(name)
            parts *= size
    return tuple(axes)
