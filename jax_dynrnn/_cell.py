"""The cell protocol: the methods that a recurrent cell has, and that the engines call.

A cell is a static configuration whose methods are pure functions of `(params, inputs, state)`.
It holds no arrays. `B` is the batch size and `D` the feature size in the shapes below.
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
from ._types import Params as Params
from ._types import State as State

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


# So that jax.export can serialise programs that take or return a state.
jax.export.register_namedtuple_serialization(
    LSTMStateTuple, serialized_name="jax_dynrnn.LSTMStateTuple"
)


class Memory(NamedTuple):
    """The memory that a cell attends to. It is passed with the params, but is not a param."""

    # The check of params finds a memory by this flag: importing the class would be circular.
    is_param = False

    values: Any
    """`[B, S, M]`."""
    length: Any
    """int `[B]`: the number of valid slots in each row; `None`: all are valid."""


jax.export.register_namedtuple_serialization(Memory, serialized_name="jax_dynrnn.Memory")


def _explained_method(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `init`, `zero_state` or `attend`: if it fails, a bad argument is named in the error."""
    names = list(inspect.signature(method).parameters)

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            returned = method(*arguments, **options)
            if method.__name__ == "init":
                _check_cell.made(arguments, returned)
            return returned
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The arguments are examined only after a failure, so that valid calls stay fast.
            given = dict(zip(names, arguments, strict=False)) | options
            _check_cell.blame_arguments(method.__name__, given, error)
            raise

    return explained(call)


class Composition(abc.ABC):
    """How a cell is composed of other cells: `Stacked` or `Around`.

    It implements the methods of `Cell` in terms of the inner cells. A cell that returns it from
    `Cell.composition` inherits these as the defaults of its own methods.
    """

    why_not_separable: str | None = None
    """Why the cell has to be run as a whole; `None`: an engine may run the inner cells one by one.

    Such a cell needs a `step` of its own, since the composition does not describe its step.
    """

    @property
    @abc.abstractmethod
    def inner(self) -> tuple[Cell, ...]:
        """The inner cells."""

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
    """An attribute that is read from the cell's composition, with a default for other cells.

    It is a non-data descriptor (it has no `__set__`), so that a subclass, or an object, overrides
    it with a plain attribute.
    """

    def __init__(self, default: Any):
        self.default = default

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    def __get__(self, cell: Cell | None, owner: type[Any]) -> Any:
        composition = None if cell is None else cell.composition()
        return self.default if composition is None else getattr(composition, self.name)


class Cell(BriefRepr):
    """Base class of recurrent cells; a new cell implements three methods.

    `init`, `zero_state` and one of `__call__` and `step` are required. The other methods are
    optional, and their defaults are documented below. A cell made of other cells needs only
    `composition`. A subclass is a frozen dataclass under
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
    """The number of trailing feature axes of the inputs: 0 for ids, 2 to 4 for convolutions.

    An int applies to every leaf. Where the leaves differ it is a pytree of ints with the structure
    of the inputs: `(1, 3)` for inputs `([B, T, D], [B, T, height, width, channels])`.
    """

    attends: Any = _FromComposition(False)
    """Whether the cell, or a cell inside it, attends to a memory."""

    def composition(self, key: Key = None) -> Composition | None:
        """Returns how the cell is made of other cells, or `None` if it is not.

        The result is a `Stacked`, or an `Around` for one cell with work before and after it. Where
        it permits, engines run the inner cells one by one, each with the fastest method for it.
        `key` is the key of the run, or `None`. It may decide whether the inner cells can be run
        apart: dropout of the state, for one, does work between the steps only with a key.
        """
        del key
        return None

    def __new__(cls, *sizes: Any, **options: Any) -> Self:
        """Refuses options that only TF1, Flax or PyTorch have, and names the option to use here."""
        # Not in __init__, which the dataclass decorator generates for each subclass.
        check_construction(cls, sizes, options)
        return super().__new__(cls)

    @_explained_method
    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        """Initialises the params. Only the last `feature_ndim` sizes of each shape are read."""
        return _required_composition(self, "init").init(key, input_shape, dtype)

    @_explained_method
    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> State:
        """Returns a state of zeros; `batch_shape` is an int or a tuple, `()` for one row."""
        return _required_composition(self, "zero_state").zero_state(batch_shape, dtype)

    @explained
    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        """Takes one step: `inputs` `[B, D]` (or one row `[D]`) -> `(output, new_state)`.

        The state is checked as the initial state of a run is. Flax's argument order (state before
        inputs) cannot be detected if both have the same shapes.
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
        """Returns prepared params: what does not change between steps, computed once per run."""
        if (composition := self.composition()) is not None:
            return composition.prepare(params, key=key, batch_shape=batch_shape)
        return params

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        """Returns the start state: that of a run, and after every reset. `params` are raw."""
        if (composition := self.composition()) is not None:
            return composition.start(params, batch_shape, dtype)
        return ask(self, "zero_state", batch_shape, dtype)

    @explained
    def attend(
        self, params: Params, memory: PyTree, memory_length: Lengths | None = None
    ) -> Params:
        """Returns the params with a memory, for every cell inside that attends to one.

        Raises:
            TypeError: no cell inside attends to a memory.
        """
        composition = self.composition()
        if composition is not None and composition.attends:
            return composition.attend(params, memory, memory_length)
        raise TypeError(f"{self!r}: expected an AttentionWrapper somewhere inside, got none")

    def project(self, params: Params, inputs: Inputs) -> Any:
        """Returns the projected inputs: the part of a step that does not depend on the state.

        `params` are prepared. `inputs` may have more leading axes than those of one step, since
        an engine projects the inputs of many steps with one call.
        """
        del params
        return inputs

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        """Takes a step from projected inputs, with prepared params -> `(output, new_state)`."""
        if (composition := separable(self, key)) is not None:
            return composition.step(params, projected, state, key)
        if type(self).__call__ is Cell.__call__:  # which would call this method again
            reason = getattr(self.composition(key), "why_not_separable", "it is not composed")
            raise TypeError(
                f"{type(self).__name__}: expected it to define step, since its composition does "
                f"not describe the step in a run {'without' if key is None else 'with'} a key "
                f"({reason}), got none"
            )
        return ask(self, "__call__", params, projected, state, key=key)

    def __getstate__(self) -> dict[str, Any]:
        # Jitted functions such as jax.nn.relu can be a field, but pickle does not accept them.
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
        # A run calls project and step, never __call__ if step is overridden: an override of
        # __call__ alone would be ignored without a word.
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
    """Returns the composition if, in a run with `key`, the inner cells may be run one by one."""
    composition = cell.composition(key)
    if composition is None or composition.why_not_separable is not None:
        return None
    return composition


def _required_composition(cell: Cell, method: str) -> Composition:
    """Returns the composition, which `method` is inherited from, or raises if there is none."""
    composition = cell.composition()
    if composition is None:
        raise NotImplementedError(
            f"{type(cell).__name__}: expected it to define {method}, as every cell that is not "
            "made of others, got none"
        )
    return composition


class _Name(NamedTuple):
    """The module and name of a function; it stands for the function in a pickle or a copy.

    Many functions of `jax.nn` are jitted, and cannot be pickled or copied themselves.
    """

    module: str
    name: str

    def find(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


def _as_name(value: object) -> Any:
    """Returns a `_Name` for a function that can be imported, and any other value as it is."""
    name = importable_name(value)
    return value if name is None else _Name(value.__module__, name)


class StagedCell(Cell):
    """A cell whose step is matmuls with kernels and arithmetic between them; engines run it fast.

    `stages` is its step as a generator. Each `recurred = yield x, kernel` requests the product
    `x @ kernel`, so that an engine can compute these matmuls in its own way and order. Between
    the matmuls no row depends on another row, as in elementwise arithmetic.

    An engine may run `stages` in place of `step` in a run without a key. In a run with a key it
    may do so if `step` is not overridden: a cell overrides `step` only to draw random numbers.

    Example: two matmuls, of which the second multiplies a function of the first product
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
        """Returns the part of the state that recurrent kernels multiply, `[..., H]`, or `None`.

        `None` means that the cell has no recurrent kernel. `stages` multiplies this value, and
        uses `state` everywhere else. Recurrent dropout replaces this method, and so masks what is
        multiplied without changing the state that is carried.
        """
        del state
        return None

    def stages(self, params: Params, projected: Projected, state: State) -> Stages:
        """A generator: yields each `(x, kernel)`, is sent `x @ kernel`, returns the step's result.

        The result is `(output, new_state)`. `params` are prepared.
        """
        raise NotImplementedError

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        """Runs the stages, with `x @ kernel` for each product."""
        del key
        return run_stages(
            self.stages(params, projected, state), lambda i, x, kernel: matmul(x, kernel, "state")
        )


def run_stages(stages: Stages, multiply: Callable[..., Any]) -> tuple[Any, State]:
    """Runs the generator of `StagedCell.stages`; product i is `multiply(i, x, kernel)`."""
    if not isinstance(stages, Generator):
        raise TypeError(
            "stages: expected a generator, which yields each (x, kernel) and returns (output, "
            f"new_state), got {type(stages).__name__}"
        )
    try:
        yielded = next(stages)
        for i in itertools.count():
            if not isinstance(yielded, tuple) or len(yielded) != 2:
                raise TypeError(
                    "stages: expected each yield to be a tuple (x, kernel), got "
                    f"{structure(yielded)}"
                )
            yielded = stages.send(multiply(i, *yielded))
    except StopIteration as end:
        return end.value  # what the generator returned
    raise AssertionError("unreachable")  # type checkers do not know that count() never ends


class MatmulCell(StagedCell):
    """A cell with one matmul with the hidden state, then arithmetic within each unit.

    Its `stages` compute, with `H` the size of the hidden state and `Z` that of all gates together,

        projected = project(params, x)                               # [B, Z]
        recurred  = hidden(state) @ recurrent_kernel(params)         # [B, H] @ [H, Z]
        output, new_state = pointwise(params, projected, recurred, state)

    `pointwise` uses only elementwise arithmetic, equal splits of the last axis and
    vectors from params, so that every engine can trace it. Where `stages` is overridden to
    request a second matmul, as by an `LSTMCell` or `NASCell` with a projection, `pointwise` is
    not the whole rest of the step.

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
    """Whether each unit of `pointwise` depends only on the same unit of its arguments.

    `False` for a cell that normalises over its units. An engine that distributes the units over
    processors does not run such a cell.
    """

    def hidden(self, state: State) -> jax.Array:
        """Returns the hidden state, which the recurrent kernel multiplies: `[..., H]`."""
        raise NotImplementedError

    def recurrent_kernel(self, params: Params) -> jax.Array:
        """Returns the kernel that multiplies the hidden state: `[H, Z]`."""
        raise NotImplementedError

    def pointwise(
        self, params: Params, projected: Projected, recurred: jax.Array, state: State
    ) -> tuple[Any, State]:
        """Computes the step from the recurrent product `recurred` -> `(output, new_state)`."""
        raise NotImplementedError

    def recurrent_input(self, state: State) -> jax.Array:
        """Returns `hidden(state)`."""
        return self.hidden(state)

    def stages(self, params: Params, projected: Projected, state: State) -> Stages:
        """Requests the one recurrent product, and then computes `pointwise`."""
        recurred = yield self.recurrent_input(state), self.recurrent_kernel(params)
        return self.pointwise(params, projected, recurred, state)


PREPARE = 2**31 - 1
"""Folded into the run's key to derive the key of `prepare`; no step has this index."""


@jax.tree_util.register_static
class Adapter(Cell):
    """An object with the three methods that is not a `Cell`, with the interface of one.

    It is as static as that object: the two adapters of equal objects are equal.
    """

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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adapter) and self.foreign == other.foreign

    def __hash__(self) -> int:
        return hash(self.foreign)

    def __repr__(self) -> str:
        return repr(self.foreign)


def take_step(
    cell: Cell, params: Params, projected: Projected, state: State, *, key: Key = None
) -> tuple[Any, State]:
    """Calls `cell.step`, and checks that it returns `(output, new_state)`."""
    return result(cell, ask(cell, "step", params, projected, state, key=key), state)


def as_cell(cell: Any, name: str = "cell") -> Cell:
    """Returns `cell` as a `Cell`: itself, or an `Adapter`.

    Raises:
        TypeError: methods are missing, which the message lists.
    """
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
        packages = {base.__module__.partition(".")[0] for base in type(cell).__mro__}
        known = " and ".join(packages & {"flax", "haiku", "equinox"})
        hint = f"; jax_dynrnn.interop.foreign makes cells of those of {known}" if known else ""
        raise TypeError(
            f"{name}: expected a cell (an object with init, zero_state and __call__), "
            f"got {type(cell).__name__}, which has no {', '.join(missing)}{hint}"
        )
    return Adapter(cell)


def output_shape(cell: Cell, input_shape: Shapes) -> Any:
    """Returns the shape of the output for one row, by tracing a step without computing it."""
    features = feature_shapes(cell, input_shape)

    def output_of_step(dtype):
        params = unboxed(cell.init(jax.random.key(0), features))
        # None stands for a memory of one slot; no output but the alignments depends on the number.
        params = cell.attend(params, None) if cell.attends else params
        inputs = map_shapes(lambda s: jnp.zeros(s, dtype), features)
        start = ask(cell, "start", params, (), jnp.float32)
        # As a run takes it (prepare, project, step), even where __call__ is overridden.
        return Cell.__call__(cell, params, inputs, start)[0]

    try:
        output = jax.eval_shape(lambda: output_of_step(jnp.float32))
    except TypeError:  # a cell that takes ids refuses floats
        output = jax.eval_shape(lambda: output_of_step(jnp.int32))
    return jax.tree.map(lambda x: x.shape, output)


def output_size(cell: Cell, input_shape: Shapes, owner: object) -> int:
    """Returns the last size of the output of a cell inside `owner`.

    Raises:
        TypeError: the output is not one array.
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
    """Returns the feature sizes of each shape in `input_shape`: those of one step of one row."""

    def features(ndim, shape):
        return tuple(shape)[len(shape) - ndim :]  # not shape[-ndim:], which keeps all if ndim is 0

    return jax.tree.map(
        features, feature_ndims(cell.feature_ndim, input_shape, is_shape), input_shape
    )


def feature_ndims(
    feature_ndim: Any,
    inputs: Inputs,
    is_leaf: Callable[..., Any] | None = None,
    where: str = "inputs",
) -> Any:
    """Returns the number of feature axes of each leaf: ints, in the structure of `inputs`.

    `feature_ndim` may be a prefix of that structure; each int then applies to a whole subtree.

    Raises:
        ValueError: `feature_ndim` has another structure.
    """
    ndims, treedef = jax.tree.flatten(feature_ndim)
    try:
        subtrees = treedef.flatten_up_to(inputs)
    except ValueError as error:
        raise ValueError(
            f"{where}: expected the structure of the cell's feature_ndim={feature_ndim!r}, got "
            f"{jax.tree.structure(inputs, is_leaf=is_leaf)}"
        ) from error
    broadcast = [
        jax.tree.map(lambda _, n=n: n, subtree, is_leaf=is_leaf)
        for n, subtree in zip(ndims, subtrees, strict=True)
    ]
    return treedef.unflatten(broadcast)


def leading_shape(inputs: Inputs, feature_ndim: Any) -> tuple[Any, ...]:
    """Returns the sizes before the feature axes: `(B,)` for one step, `()` for one row."""
    return leading_axes(jax.tree.map(jnp.shape, inputs), feature_ndim)


def leading_axes(input_shape: Shapes, feature_ndim: Any) -> tuple[Any, ...]:
    """Returns the sizes before the feature axes, for inputs of the shapes `input_shape`."""
    ndims = jax.tree.leaves(feature_ndims(feature_ndim, input_shape, is_shape))
    shapes = jax.tree.leaves(input_shape, is_leaf=is_shape)
    return tuple(shapes[0][: len(shapes[0]) - ndims[0]]) if shapes else ()
