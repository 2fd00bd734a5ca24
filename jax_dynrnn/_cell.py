"""The cell protocol: what a recurrent cell is, and what the engines ask of it.

A cell is a pure function of `(params, inputs, state)` with a configuration and no
arrays of its own. `B` is the batch size and `D` the feature size in the shapes below.
"""

from __future__ import annotations

import abc
import functools
import importlib
import inspect
import itertools
import types
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Self

import jax
import jax.export
import jax.numpy as jnp

from . import _check_cell, _check_options
from ._arguments import check_construction, explained
from ._protocol import ask, result, structure
from ._repr import BriefRepr
from ._tools import fold_in, importable_name, is_shape, map_shapes, matmul, unboxed
from ._types import BatchShape, DTypeLike, Inputs, Key, Lengths, Projected, PyTree, Shapes

Params = Any  # a nested dict of arrays
State = Any  # an array, a tuple or a NamedTuple of arrays
Stages = Generator[tuple[jax.Array, jax.Array], jax.Array, Any]


class LSTMStateTuple(NamedTuple):
    """State of an LSTM: the memory `c` and the output `h`, in TF1's order.

    Example:
        >>> import jax_dynrnn as rnn
        >>> state = rnn.LSTMCell(4).zero_state(2)
        >>> state.c.shape, state.h.shape
        ((2, 4), (2, 4))
    """

    c: Any
    h: Any


jax.export.register_namedtuple_serialization(
    LSTMStateTuple, serialized_name="jax_dynrnn.LSTMStateTuple"
)


class Memory(NamedTuple):
    """What a cell attends to: it is in the params, but none of them."""

    is_param = False

    values: Any
    """`[B, S, M]`."""
    length: Any
    """int `[B]`, or `None` where all of it is real."""


jax.export.register_namedtuple_serialization(Memory, serialized_name="jax_dynrnn.Memory")


def _explained_method(method: Callable[..., Any]) -> Callable[..., Any]:
    """`init`, `zero_state` or `attend`; if it fails, what is wrong with its arguments is said."""
    names = list(inspect.signature(method).parameters)

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            made = method(*arguments, **options)
            if method.__name__ == "init":
                _check_cell.made(arguments, made)
            return made
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            given = dict(zip(names, arguments, strict=False)) | options
            _check_cell.blame_arguments(method.__name__, given, error)
            raise

    return explained(call)


class Composition(abc.ABC):
    """What a cell is made of: `Stacked` cells, or one with work `Around` it.

    It implements the methods of such a cell, which are its defaults.
    """

    inside_loop: str | None = None
    """Why the cell has to be run as a whole; `None`: the cells inside may be run apart."""

    @property
    @abc.abstractmethod
    def feature_ndim(self) -> Any: ...

    @property
    @abc.abstractmethod
    def attends(self) -> bool: ...

    @abc.abstractmethod
    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike) -> Params: ...

    @abc.abstractmethod
    def zero_state(self, batch_shape: BatchShape, dtype: DTypeLike) -> State: ...

    @abc.abstractmethod
    def prepare(self, params: Params, *, key: Key, batch_shape: tuple[Any, ...]) -> Params: ...

    @abc.abstractmethod
    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State: ...

    @abc.abstractmethod
    def attend(self, params: Params, *memory: Any) -> Params: ...

    @abc.abstractmethod
    def step(self, params: Params, inputs: Inputs, state: State, key: Key) -> tuple[Any, State]: ...


class _FromComposition:
    """An attribute that a cell made of others has from them, and any other cell by default.

    A plain attribute of a class or an object takes its place.
    """

    def __init__(self, default: Any):
        self.default = default

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    def __get__(self, cell: Cell | None, owner: type[Any]) -> Any:
        composition = None if cell is None else cell.composition()
        return self.default if composition is None else getattr(composition, self.name)


class Cell(BriefRepr):
    """What every recurrent cell does; a cell of your own implements three methods.

    `init`, `zero_state` and one of `__call__` and `step` are needed, the rest is
    optional and defaults to what is said here. A cell made of other cells needs `composition`
    alone. A subclass is a frozen dataclass under
    `jax.tree_util.register_static`, so that equal cells never recompile. A cell need not
    inherit from this class: any object with `init`, `zero_state` and `__call__` runs.

    Example:
        >>> import dataclasses, jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> @jax.tree_util.register_static
        ... @dataclasses.dataclass(frozen=True)
        ... class Sum(rnn.Cell):
        ...     def init(self, key, input_shape, dtype=jnp.float32):
        ...         return {}
        ...     def zero_state(self, batch_shape=(), dtype=jnp.float32):
        ...         return jnp.zeros(batch_shape, dtype)
        ...     def __call__(self, params, inputs, state, *, key=None):
        ...         total = state + inputs.sum(-1)
        ...         return total, total
        >>> outputs, state = rnn.dynamic_rnn(Sum(), {}, jnp.ones((2, 3, 1)), [3, 1])
        >>> outputs.tolist(), state.tolist()
        ([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], [3.0, 1.0])
    """

    feature_ndim: Any = _FromComposition(1)
    """Trailing feature axes of the inputs: 0 for ids, 2 to 4 for convolutions.

    An int holds for every leaf. Where the leaves differ it is a pytree of ints of the inputs'
    structure: `(1, 3)` for inputs `([B, T, D], [B, T, height, width, channels])`.
    """

    attends: Any = _FromComposition(False)
    """Whether it is, or has inside, a cell that attends to a memory."""

    def composition(self, key: Key = None) -> Composition | None:
        """The cells inside: `Stacked`, or one with work `Around` it; `None`: there are none.

        Engines run the cells inside one by one, each in the fastest way for it. `key` is that of
        the run, or `None`: it may decide whether there is work between the steps.
        """
        del key
        return None

    def __new__(cls, *sizes: Any, **options: Any) -> Self:
        """Says what to do about options of TF1, Flax or PyTorch that a cell does not have."""
        check_construction(cls, sizes, options)
        return super().__new__(cls)

    @_explained_method
    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        """Makes the params. Only the last `feature_ndim` sizes of each shape are read."""
        return _composition_of(self, "init").init(key, input_shape, dtype)

    @_explained_method
    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state of zeros; `batch_shape` is an int, or a tuple, `()` for one row."""
        return _composition_of(self, "zero_state").zero_state(batch_shape, dtype)

    @explained
    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        """Takes one step: `inputs` `[B, D]` (or one row `[D]`) -> `(output, new_state)`.

        The state is checked as that of a run. Inputs and a state of the same shapes in each
        other's place, as Flax has them, cannot be recognised.
        """
        batch_shape = leading_shape(inputs, self.feature_ndim)
        _check_options.one_key(key)
        try:
            state = _check_cell.state_of_step(self, params, inputs, state, batch_shape)
            prepare_key = fold_in(key, PREPARE)
            prepared = ask(self, "prepare", params, key=prepare_key, batch_shape=batch_shape)
            projected = ask(self, "project", prepared, inputs)
            return take_step(self, prepared, projected, state, key=key)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            _check_cell.blame_params(self, params, inputs, state, error)
            raise

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        """What is the same at every step, made once per run outside the loop."""
        if (composition := self.composition()) is not None:
            return composition.prepare(params, key=key, batch_shape=batch_shape)
        return params

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        """Where a run, and every reset, begins. `params` are not prepared."""
        if (composition := self.composition()) is not None:
            return composition.start(params, batch_shape, dtype)
        return ask(self, "zero_state", batch_shape, dtype)

    @explained
    def attend(
        self, params: Params, memory: PyTree, memory_length: Lengths | None = None
    ) -> Params:
        """The params with a memory for the cells inside that attend to one.

        Raises:
            TypeError: none does.
        """
        composition = self.composition()
        if composition is not None and composition.attends:
            return composition.attend(params, memory, memory_length)
        raise TypeError(f"{self!r}: expected an AttentionWrapper somewhere inside, got none")

    def project(self, params: Params, inputs: Inputs) -> Any:
        """What needs neither state nor time; `inputs` may have more leading axes."""
        del params
        return inputs

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        """The rest of a step, with prepared params -> `(output, new_state)`."""
        if (composition := separable(self, key)) is not None:
            return composition.step(params, projected, state, key)
        return ask(self, "__call__", params, projected, state, key=key)

    def __getstate__(self) -> dict[str, Any]:
        return {name: _as_name(value) for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            self.__dict__[name] = value.find() if isinstance(value, _Name) else value

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("init", "zero_state", "attend"):
            method = inspect.getattr_static(cls, name)
            is_plain = isinstance(method, types.FunctionType) and not hasattr(method, "__wrapped__")
            if is_plain:
                setattr(cls, name, _explained_method(method))
        own = vars(cls)
        if "__call__" in own and "step" not in own and cls.step is not Cell.step:
            raise TypeError(
                f"{cls.__name__} overrides __call__, but a run takes {cls.__mro__[1].__name__}'s "
                "project and step: expected an override of step, got one of __call__"
            )
        if "project" in own and cls.step is Cell.step and cls.__call__ is not Cell.__call__:
            raise TypeError(
                f"{cls.__name__} defines project and __call__: expected project and step, "
                "which a run uses together; __call__ then follows from them"
            )


def separable(cell: Cell, key: Key = None) -> Composition | None:
    """The composition of a cell whose inner cells may be run apart from it, in a run with `key`."""
    composition = cell.composition(key)
    return None if composition is None or composition.inside_loop is not None else composition


def _composition_of(cell: Cell, method: str) -> Composition:
    composition = cell.composition()
    if composition is None:
        raise NotImplementedError(
            f"{type(cell).__name__}: expected it to define {method}, as every cell that is not "
            "made of others, got none"
        )
    return composition


class _Name(NamedTuple):
    """Where a function is found: many of `jax.nn`'s pickle and copy in no other way."""

    module: str
    name: str

    def find(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


def _as_name(value: object) -> Any:
    name = importable_name(value)
    return value if name is None else _Name(value.__module__, name)


class StagedCell(Cell):
    """A cell whose step is arithmetic between matmuls with kernels: what engines can run fast.

    `stages` is its step as a generator. Each `recurred = yield x, kernel` asks for
    `x @ kernel`, so that an engine may do these matmuls in its own way and order; between
    them each row is computed by itself, as in elementwise arithmetic.

    An engine may take `stages` for `step` in a run without a key, and in one with a key if
    `step` is this class's own: a cell overrides it only to draw.

    Example: two matmuls, the second of what the first one gives
        >>> import dataclasses, jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> @jax.tree_util.register_static
        ... @dataclasses.dataclass(frozen=True)
        ... class Deep(rnn.StagedCell):
        ...     units: int
        ...     def init(self, key, input_shape, dtype=jnp.float32):
        ...         sizes = {"w": input_shape[-1], "u": self.units, "v": self.units}
        ...         keys = zip(sizes, jax.random.split(key, 3))
        ...         return {
        ...             name: jax.random.normal(k, (sizes[name], self.units), dtype) / 4
        ...             for name, k in keys
        ...         }
        ...     def zero_state(self, batch_shape=(), dtype=jnp.float32):
        ...         rows = (batch_shape,) if isinstance(batch_shape, int) else batch_shape
        ...         return jnp.zeros((*rows, self.units), dtype)
        ...     def project(self, params, inputs):
        ...         return inputs @ params["w"]
        ...     def recurrent_input(self, state):
        ...         return state
        ...     def stages(self, params, projected, state):
        ...         recurred = yield self.recurrent_input(state), params["u"]
        ...         hidden = yield jnp.tanh(projected + recurred), params["v"]
        ...         new = jnp.tanh(hidden)
        ...         return new, new
        >>> cell, inputs = Deep(40), jnp.ones((64, 100, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> rnn.explain(cell, params, inputs).reasons["blocked"] is None
        True
    """

    def recurrent_input(self, state: State) -> jax.Array | None:
        """What recurrent kernels multiply of the state, `[..., H]`; `None` if there are none.

        `stages` multiplies this, and uses `state` for all else, so that recurrent dropout can mask
        the one and leave the other alone.
        """
        del state
        return None

    def stages(self, params: Params, projected: Projected, state: State) -> Stages:
        """Yields each `(x, kernel)`, is sent `x @ kernel`, returns `(output, new_state)`."""
        raise NotImplementedError

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        """The stages, with plain matmuls."""
        del key
        return run_stages(
            self.stages(params, projected, state), lambda i, x, kernel: matmul(x, kernel, "state")
        )


def run_stages(stages: Stages, multiply: Callable[..., Any]) -> tuple[Any, State]:
    """Runs the generator of `StagedCell.stages`, with `multiply(i, x, kernel)` for matmul i."""
    if not isinstance(stages, Generator):
        raise TypeError(
            "stages: expected a generator, which yields each (x, kernel) and returns (output, "
            f"new_state), got {type(stages).__name__}"
        )
    try:
        asked = next(stages)
        for i in itertools.count():
            if not isinstance(asked, tuple) or len(asked) != 2:
                raise TypeError(
                    f"stages: expected each yield to be a tuple (x, kernel), got {structure(asked)}"
                )
            asked = stages.send(multiply(i, *asked))
    except StopIteration as end:
        return end.value
    raise AssertionError("unreachable")


class MatmulCell(StagedCell):
    """A cell with one matmul with the hidden state, then arithmetic within each unit.

    Its `stages` are, with `H` the size of the hidden state and `Z` all gates side by side,

        projected = project(params, x)                               # [B, Z]
        recurred  = hidden(state) @ recurrent_kernel(params)         # [B, H] @ [H, Z]
        output, new_state = pointwise(params, projected, recurred, state)

    `pointwise` uses only elementwise arithmetic, equal splits of the last axis and
    vectors from params, so that every engine can trace it. It is the whole step where
    `stages` asks for no other matmul; an `LSTMCell` or `NASCell` with a projection does.

    Example: a vanilla RNN is
        >>> import dataclasses, jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> @jax.tree_util.register_static
        ... @dataclasses.dataclass(frozen=True)
        ... class Tanh(rnn.MatmulCell):
        ...     units: int
        ...     def init(self, key, input_shape, dtype=jnp.float32):
        ...         w, r = jax.random.split(key)
        ...         return {
        ...             "w": jax.random.normal(w, (input_shape[-1], self.units), dtype),
        ...             "r": jax.random.normal(r, (self.units, self.units), dtype),
        ...         }
        ...     def zero_state(self, batch_shape=(), dtype=jnp.float32):
        ...         rows = (batch_shape,) if isinstance(batch_shape, int) else batch_shape
        ...         return jnp.zeros((*rows, self.units), dtype)
        ...     def project(self, params, inputs):
        ...         return inputs @ params["w"]
        ...     def hidden(self, state):
        ...         return state
        ...     def recurrent_kernel(self, params):
        ...         return params["r"]
        ...     def pointwise(self, params, projected, recurred, state):
        ...         new = jnp.tanh(projected + recurred)
        ...         return new, new
        >>> params = Tanh(4).init(jax.random.key(0), (2, 3, 5))
        >>> outputs, state = rnn.dynamic_rnn(Tanh(4), params, jnp.ones((2, 3, 5)))
        >>> outputs.shape, bool(jnp.allclose(outputs[:, -1], state))
        ((2, 3, 4), True)
    """

    unitwise: bool = True
    """Whether `pointwise` keeps within each unit. A cell that normalises over its units says
    no: an engine that gives each processor some of the units leaves it alone."""

    def hidden(self, state: State) -> jax.Array:
        """The part of the state that is multiplied: `[..., H]`."""
        raise NotImplementedError

    def recurrent_kernel(self, params: Params) -> jax.Array:
        """What multiplies it: `[H, Z]`."""
        raise NotImplementedError

    def pointwise(
        self, params: Params, projected: Projected, recurred: jax.Array, state: State
    ) -> tuple[Any, State]:
        """The arithmetic within each unit -> `(output, new_state)`."""
        raise NotImplementedError

    def recurrent_input(self, state: State) -> jax.Array:
        """`hidden(state)`."""
        return self.hidden(state)

    def stages(self, params: Params, projected: Projected, state: State) -> Stages:
        """`pointwise` after the one matmul."""
        recurred = yield self.recurrent_input(state), self.recurrent_kernel(params)
        return self.pointwise(params, projected, recurred, state)


PREPARE = 2**31 - 1
"""What `prepare`'s key is folded with: no step of a sequence has this place."""


@jax.tree_util.register_static
class Adapter(Cell):
    """A foreign object with the three methods, as a `Cell`: static where that object is."""

    def __init__(self, cell: Any):
        self.foreign = cell
        self.feature_ndim = getattr(cell, "feature_ndim", 1)
        self.init = cell.init
        self.zero_state = cell.zero_state
        for name in ("prepare", "start"):
            if hasattr(cell, name):
                setattr(self, name, getattr(cell, name))
        if hasattr(cell, "step"):
            self.step = cell.step
            self.project = getattr(cell, "project", self.project)

    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        return ask(self.foreign, "__call__", params, inputs, state, key=key)

    def __eq__(self, other):
        return isinstance(other, Adapter) and self.foreign == other.foreign

    def __hash__(self):
        return hash(self.foreign)

    def __repr__(self) -> str:
        return repr(self.foreign)


def take_step(
    cell: Cell, params: Params, projected: Projected, state: State, *, key: Key = None
) -> tuple[Any, State]:
    """`cell.step`, of which it is checked that it returns `(output, new_state)`."""
    return result(cell, ask(cell, "step", params, projected, state, key=key), state)


def as_cell(cell: Any, name: str = "cell") -> Cell:
    """`cell` with the whole protocol, or a `TypeError` that lists what it lacks."""
    if isinstance(cell, Cell):
        own_step = type(cell).__call__ is not Cell.__call__ or type(cell).step is not Cell.step
        if not own_step and separable(cell) is None:
            raise TypeError(
                f"{name}: expected {type(cell).__name__} to define __call__, or project and "
                "step, or composition, got none of them"
            )
        return cell
    if isinstance(cell, type):
        raise TypeError(
            f"{name}: expected a cell, got the class {cell.__name__} itself; make an "
            f"instance of it, as in {cell.__name__}(128)"
        )
    missing = [m for m in ("init", "zero_state") if not callable(getattr(cell, m, None))]
    missing += [] if callable(cell) else ["__call__"]
    if missing:
        bases = {base.__module__.partition(".")[0] for base in type(cell).__mro__}
        of = " and ".join(bases & {"flax", "haiku", "equinox"})
        hint = f"; jax_dynrnn.interop.foreign makes cells of those of {of}" if of else ""
        raise TypeError(
            f"{name}: expected a cell (an object with init, zero_state and __call__), "
            f"got {type(cell).__name__}, which has no {', '.join(missing)}{hint}"
        )
    return Adapter(cell)


def output_shape(cell: Cell, input_shape: Shapes) -> Any:
    """The shape of the output for one row, by tracing the cell without computing."""
    features = feature_shapes(cell, input_shape)

    def one_step(dtype):
        params = unboxed(cell.init(jax.random.key(0), features))
        params = cell.attend(params, None) if cell.attends else params  # any memory will do
        inputs = map_shapes(lambda s: jnp.zeros(s, dtype), features)
        start = ask(cell, "start", params, (), jnp.float32)
        return Cell.__call__(cell, params, inputs, start)[0]

    try:
        output = jax.eval_shape(lambda: one_step(jnp.float32))
    except TypeError:  # a cell that takes ids
        output = jax.eval_shape(lambda: one_step(jnp.int32))
    return jax.tree.map(lambda x: x.shape, output)


def output_size(cell: Cell, input_shape: Shapes, owner: object) -> int:
    """The last size of the output of a cell inside of `owner`, if that is one array.

    Raises:
        TypeError: it is not.
    """
    shape = output_shape(cell, input_shape)
    if not is_shape(shape) or not shape:
        raise TypeError(
            f"{type(owner).__name__}: expected a cell whose output is one array [batch, features], "
            f"got {cell!r}, whose output has the shape {shape} for each row; put a wrapper like "
            "EmitState outside"
        )
    return shape[-1]


def feature_shapes(cell: Cell, input_shape: Shapes) -> Any:
    """The last sizes of each shape in `input_shape`: what belongs to one step of one row."""
    ndims = feature_ndims(cell.feature_ndim, input_shape, is_shape)
    return jax.tree.map(lambda n, s: tuple(s)[len(s) - n :], ndims, input_shape)


def feature_ndims(
    feature_ndim: Any,
    inputs: Inputs,
    is_leaf: Callable[..., Any] | None = None,
    where: str = "inputs",
) -> Any:
    """How many feature axes each leaf of `inputs` has: ints, in the structure of `inputs`.

    Raises:
        ValueError: `feature_ndim` has another structure.
    """
    ndims, structure = jax.tree.flatten(feature_ndim)
    try:
        parts = structure.flatten_up_to(inputs)
    except ValueError as error:
        raise ValueError(
            f"{where}: expected the structure of the cell's feature_ndim={feature_ndim!r}, got "
            f"{jax.tree.structure(inputs, is_leaf=is_leaf)}"
        ) from error
    same = [
        jax.tree.map(lambda _, n=n: n, part, is_leaf=is_leaf)
        for n, part in zip(ndims, parts, strict=True)
    ]
    return structure.unflatten(same)


def leading_shape(inputs: Inputs, feature_ndim: Any) -> tuple[Any, ...]:
    """The axes before the features: of one step `(B,)`, of one row none."""
    return leading_axes(jax.tree.map(jnp.shape, inputs), feature_ndim)


def leading_axes(input_shape: Shapes, feature_ndim: Any) -> tuple[Any, ...]:
    """The same of inputs of `input_shape`."""
    ndims = jax.tree.leaves(feature_ndims(feature_ndim, input_shape, is_shape))
    shapes = jax.tree.leaves(input_shape, is_leaf=is_shape)
    return tuple(shapes[0][: len(shapes[0]) - ndims[0]]) if shapes else ()
