"""The cell protocol: the methods that a recurrent cell has, and that the engines call.

A cell is a static configuration whose methods are pure functions of `(params, inputs, state)`.
It holds no arrays. `B` is the batch size and `D` the feature size in the shapes below.
"""

from __future__ import annotations

import abc
import functools
import importlib
import inspect
import types
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Self

import jax
import jax.export
import jax.numpy as jnp

from . import _check_cell, _check_options
from ._arguments import check_construction, explained
from ._features import batch_shape_of
from ._protocol import ask, result, structure
from ._repr import BriefRepr
from ._tools import fold_in, importable_name, matmul
from ._types import BatchShape, DTypeLike, Inputs, Key, Lengths, Projected, PyTree, Shapes
from ._types import Params as Params
from ._types import State as State

Stages = Generator[tuple[jax.Array, jax.Array], jax.Array, Any]


class LSTMStateTuple(NamedTuple):
    """State of an LSTM: the memory `c` and the output `h`, in TF1's order.

    Attributes:
        c: the memory `[..., H]`.
        h: the output `[..., H]`, or `[..., P]` with a projection.

    Reference: `tf.nn.rnn_cell.LSTMStateTuple`.

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
    mask: Any = None
    """bool `[B, S]`: the valid slots; `None`: those within the lengths."""


jax.export.register_namedtuple_serialization(Memory, serialized_name="jax_dynrnn.Memory")


def _explained_method(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `init`, `zero_state` or `attend`: if it fails, a bad argument is named in the error."""
    names = list(inspect.signature(method).parameters)

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            returned = method(*arguments, **options)
            if method.__name__ == "init":
                _check_cell.check_initialized_params(arguments, returned)
            return returned
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The arguments are examined only after a failure, so that valid calls stay fast.
            given = dict(zip(names, arguments, strict=False)) | options
            _check_cell.explain_argument_error(method.__name__, given, error)
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
    def attend(self, params: Params, *memory: Any, memory_mask: Any = None) -> Params: ...

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

        The result is a `Stacked`, or an `Around` for one cell with work before and after it. If the
        composition permits, engines run the inner cells one by one, each with the fastest method
        for it. `key` is the key of the run, or `None`. It may decide whether the inner cells can be
        run separately: for example, dropout of the state works between the steps only in a run
        with a key.
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
        """Initialises the params; only the last `feature_ndim` sizes of each shape are read."""
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
        batch_shape = batch_shape_of(inputs, self.feature_ndim)
        _check_options.one_key(key)
        try:
            state = _check_cell.state_of_step(self, params, inputs, state, batch_shape)
            prepare_key = fold_in(key, PREPARE)
            prepared = ask(self, "prepare", params, key=prepare_key, batch_shape=batch_shape)
            projected = ask(self, "project", prepared, inputs)
            return take_step(self, prepared, projected, state, key=key)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            _check_cell.explain_params_error(self, params, inputs, state, error)
            raise

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        """Returns prepared params: what does not change between steps, computed once per run."""
        if (composition := self.composition()) is not None:
            return composition.prepare(params, key=key, batch_shape=batch_shape)
        return params

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        """Returns the start state, of a run and after every reset, from raw `params`."""
        if (composition := self.composition()) is not None:
            return composition.start(params, batch_shape, dtype)
        return ask(self, "zero_state", batch_shape, dtype)

    @explained
    def attend(
        self,
        params: Params,
        memory: PyTree,
        memory_length: Lengths | None = None,
        *,
        memory_mask: PyTree = None,
    ) -> Params:
        """Returns the params with a memory, for every cell inside that attends to one.

        Raises:
            TypeError: no cell inside attends to a memory.
        """
        composition = self.composition()
        if composition is not None and composition.attends:
            return composition.attend(params, memory, memory_length, memory_mask=memory_mask)
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
        # __call__ alone would be silently ignored.
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
            f"{type(cell).__name__}: expected a method {method}, which every cell without a "
            "composition must define, got none"
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
        yielded, i = next(stages), 0
        while True:
            if not isinstance(yielded, tuple) or len(yielded) != 2:
                raise TypeError(
                    "stages: expected each yield to be a tuple (x, kernel), got "
                    f"{structure(yielded)}"
                )
            yielded, i = stages.send(multiply(i, *yielded)), i + 1
    except StopIteration as end:
        return end.value  # what the generator returned


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


def take_step(
    cell: Cell, params: Params, projected: Projected, state: State, *, key: Key = None
) -> tuple[Any, State]:
    """Calls `cell.step`, and checks that it returns `(output, new_state)`."""
    return result(cell, ask(cell, "step", params, projected, state, key=key), state)
