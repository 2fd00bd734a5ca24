"""Dropout of a cell's inputs, outputs, state, and of what its recurrent kernels multiply."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._cell import Cell, LSTMStateTuple, Params, StagedCell, State
from .._composition import Stacked
from .._protocol import name_of
from .._tools import check_probability, is_flag
from .._types import Inputs, Key, Outputs, Projected, PyTree, PyTreeDef
from ._wrapper import AroundWrapper, Wrapper


def default_state_filter(substate: PyTree) -> Any:
    """TF1's default: of an LSTM's state only `h` is dropped, of any other all of it."""
    return LSTMStateTuple(c=False, h=True) if isinstance(substate, LSTMStateTuple) else True


class _Keys(NamedTuple):
    """One key for each thing that draws: the inner cell, and the three dropouts."""

    cell: Any = None
    inputs: Any = None
    state: Any = None
    output: Any = None

    @classmethod
    def split(cls, key: Key) -> _Keys:
        return cls() if key is None else cls(*jax.random.split(key, 4))


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """What is the same at every step of a run."""

    cell: Params
    keys: _Keys
    """Of variational masks."""
    recurrent: jax.Array | None
    """The mask of recurrent dropout, `[B, H]`; `None` without it."""
    shared: int
    """How many of the first axes share a mask."""


jax.tree_util.register_dataclass(_Prepared, ["cell", "keys", "recurrent"], ["shared"])


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class DropoutWrapper(AroundWrapper):
    """Drops features of the inputs, the outputs and the state of a cell, or of its recurrence.

        y, s' = cell(drop(x), s);  new_state = drop(s');  output = drop(y)
        drop(x) = x * mask / keep_prob,  mask ~ Bernoulli(keep_prob)

    Output dropout does not touch the state, and state dropout does not touch this step's
    output. Recurrent dropout is inside of the cell: its recurrent kernels multiply `drop(h)`
    (in a `GRUCell` also `r * drop(h)`), and the state that is carried on is not touched.
    Without a `key` (evaluation) it is the identity.

    State dropout scales the carried state by `1 / keep_prob` at every step. Units of a GRU, whose
    state is `u * h + (1 - u) * c`, then grow without bound in long runs if one variational mask
    keeps them at every step. `recurrent_keep_prob` has no such growth.

    Args:
        cell: the cell to run.
        input_keep_prob, output_keep_prob, state_keep_prob: probabilities in (0, 1] of
            keeping a value; 1.0 draws nothing.
        recurrent_keep_prob: probability in (0, 1] of keeping a unit of what recurrent kernels
            multiply; 1.0 draws nothing. There is one mask `[B, H]` for a run, with a row for each
            row of the batch and shared by all gates, whatever the next two arguments say.
        variational_recurrent: one mask for all steps of a run instead of one for each.
            (Stepping by hand, `cell(params, x, state, key=key)` takes it from that key.)
        variational_per_row: with it, a mask for each row; else the batch shares one, as
            in TF1.
        dropout_state_filter_visitor: called with the state and its parts from the top
            down, returns whether to drop what it was given, or a structure of bools for
            its parts. `None`: not the memory `c` of an LSTM, all else. Integers and rank-0
            leaves are never dropped.

    Params, state, output: those of `cell`.

    Raises:
        TypeError, ValueError: `cell` is not a cell, a probability is not a float in
            (0, 1], or `variational_per_row` is given alone; with `recurrent_keep_prob`, `cell`
            has no recurrent kernel, or is a stack, whose layers are wrapped one by one.

    Differs from TF1: there is no `dtype`, `input_size` and `seed` (randomness comes from
    the `key` of the run); probabilities are Python floats, and 0 is refused; TF1 has no
    `recurrent_keep_prob`. Keras has it as `recurrent_dropout=1 - recurrent_keep_prob`, with a
    mask for each gate.

    Reference: `tf.nn.rnn_cell.DropoutWrapper`; Zaremba et al., arXiv:1409.2329; for
    `variational_recurrent` and, with tied weights, `recurrent_keep_prob` Gal and Ghahramani,
    arXiv:1512.05287.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.DropoutWrapper(rnn.GRUCell(64), output_keep_prob=0.5)
        >>> inputs = jnp.ones((2, 5, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> train, _ = rnn.dynamic_rnn(cell, params, inputs, key=jax.random.key(1))
        >>> test, _ = rnn.dynamic_rnn(cell, params, inputs)
        >>> bool((train == 0).any()), bool((test == 0).any())
        (True, False)
    """

    input_keep_prob: float = 1.0
    output_keep_prob: float = 1.0
    state_keep_prob: float = 1.0
    _: dataclasses.KW_ONLY
    recurrent_keep_prob: float = 1.0
    variational_recurrent: bool = False
    variational_per_row: bool = False
    dropout_state_filter_visitor: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for place in ("input", "output", "state", "recurrent"):
            check_probability(self, f"{place}_keep_prob")
        super().__post_init__()
        if self.recurrent_keep_prob < 1:
            _check_recurrent(self.inner)
        if self.variational_per_row and not self.variational_recurrent:
            raise ValueError(
                "DropoutWrapper: variational_per_row=True expects "
                "variational_recurrent=True, got False"
            )

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        keys = _Keys.split(key)
        cell = self.inner.prepare(params, key=keys.cell, batch_shape=batch_shape)
        by_row = self.variational_per_row or not self.variational_recurrent
        mask = self._recurrent_mask(key, batch_shape)
        return _Prepared(cell, keys, mask, 0 if by_row else len(batch_shape))

    def _recurrent_mask(self, key: Key, batch_shape: tuple[Any, ...]) -> jax.Array | None:
        if key is None or self.recurrent_keep_prob == 1.0:
            return None
        cell = _innermost(self.inner)
        h = jax.eval_shape(lambda: cell.recurrent_input(cell.zero_state(tuple(batch_shape))))
        # A split into more keys would change those that the other masks are drawn from.
        key = jax.random.fold_in(key, len(_Keys._fields))
        return jax.random.bernoulli(key, self.recurrent_keep_prob, h.shape)

    def cell_params(self, params: Params) -> Params:
        return params.cell if isinstance(params, _Prepared) else params

    def cell_key(self, key: Key) -> Any:
        return _Keys.split(key).cell

    def why_inside_loop(self, key: Key) -> str | None:
        if key is not None and self.state_keep_prob < 1:
            return "state_keep_prob drops from the state between the steps"
        if key is not None and self.recurrent_keep_prob < 1:
            return "recurrent_keep_prob masks, row by row, what is multiplied inside of the step"
        return None

    def before(self, params: Params, inputs: Inputs, key: Key) -> tuple[Any, Any]:
        keys = self._masks(params, key)
        return _drop(inputs, keys.inputs, self.input_keep_prob, True, params.shared), None

    def after(self, params: Params, saved: PyTree, output: Outputs, key: Key) -> Any:
        keys = self._masks(params, key)
        return _drop(output, keys.output, self.output_keep_prob, True, params.shared)

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        output, state = self._recurrent_step(params, projected, state, key)
        keys, visitor = self._masks(params, key), self.dropout_state_filter_visitor
        chosen = _filter(visitor or default_state_filter, state)
        return output, _drop(state, keys.state, self.state_keep_prob, chosen, params.shared)

    def _recurrent_step(
        self, params: Params, projected: Projected, state: State, key: Key
    ) -> tuple[Any, State]:
        """The step of the cell with recurrent dropout, between input and output dropout."""
        if params.recurrent is None:
            return self.composition(key).step(params, projected, state, key)
        multiplied = []

        def drop(h):
            multiplied.append(h)
            return _masked(h, params.recurrent, self.recurrent_keep_prob)

        within = _with_recurrent_input(self, drop)
        result = within.composition(key).step(params, projected, state, key)
        if not multiplied:
            name = type(_innermost(self.inner)).__name__
            raise TypeError(
                f"DropoutWrapper: recurrent_keep_prob expected the stages of {name} to multiply "
                "self.recurrent_input(state), got stages that never call it; call it where they "
                "take the hidden state for a recurrent kernel"
            )
        return result

    def _masks(self, params: Params, key: Key) -> _Keys:
        """The keys of a step's masks, which are those of all steps if they are variational."""
        return params.keys if self.variational_recurrent else _Keys.split(key)


def _drop(tree: PyTree, key: Key, keep_prob: float, chosen: Any, shared: int) -> Any:
    """Drops from the `chosen` leaves, with masks of size 1 in the `shared` first axes."""
    if key is None or keep_prob == 1.0:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    chosen = jax.tree.leaves(chosen) if chosen is not True else [True] * len(leaves)

    def drop(i, x):
        if not (chosen[i] and x.ndim and jnp.issubdtype(x.dtype, jnp.floating)):
            return x
        shape = (1,) * shared + x.shape[shared:]
        mask = jax.random.bernoulli(jax.random.fold_in(key, i), keep_prob, shape)
        return _masked(x, mask, keep_prob)

    return structure.unflatten([drop(i, x) for i, x in enumerate(leaves)])


def _masked(x: jax.Array, mask: jax.Array, keep_prob: float) -> jax.Array:
    return jnp.where(jnp.broadcast_to(mask, x.shape), x / keep_prob, 0)


def _innermost(cell: Cell) -> Any:
    """The cell inside of all wrappers."""
    while isinstance(cell, Wrapper):
        cell = cell.inner
    return cell


def _check_recurrent(cell: Cell) -> None:
    """Checks that recurrent dropout has one place inside of `cell`."""
    cell = _innermost(cell)
    if isinstance(cell.composition(), Stacked):
        raise TypeError(
            f"DropoutWrapper: recurrent_keep_prob expected one cell, got a {name_of(cell)}; wrap "
            "each of its layers, as in "
            "MultiRNNCell([DropoutWrapper(a, recurrent_keep_prob=0.8), b])"
        )
    staged = isinstance(cell, StagedCell)
    if not staged or type(cell).recurrent_input is StagedCell.recurrent_input:
        raise TypeError(
            "DropoutWrapper: recurrent_keep_prob expected a cell that multiplies its hidden state "
            "by a recurrent kernel (an LSTM, a GRU, any MatmulCell; inside of this library's "
            f"wrappers too), got {name_of(cell)}; if that holds another cell, wrap the one inside"
        )


def _with_recurrent_input(cell: Any, drop: Callable[..., Any]) -> Any:
    """`cell`, but the recurrent kernels of the innermost one multiply `drop(h)`.

    It is a copy whose method is replaced: so a cell that overrides `step` to draw needs to know
    nothing of it.
    """
    within = copy.copy(cell)
    if isinstance(cell, Wrapper):
        object.__setattr__(within, "cell", _with_recurrent_input(cell.inner, drop))
    else:
        original = cell.recurrent_input
        object.__setattr__(within, "recurrent_input", lambda state: drop(original(state)))
    return within


def _filter(visitor: Callable[..., Any], substate: PyTree) -> Any:
    """The tree of bools, one for each leaf, that `visitor` stands for."""
    answer = visitor(substate)
    if is_flag(answer) and (not answer or jax.tree_util.all_leaves([substate])):
        return jax.tree.map(lambda _: bool(answer), substate)
    parts, structure = jax.tree.flatten(substate, is_leaf=lambda x: x is not substate)
    answers = [True] * len(parts) if is_flag(answer) else _of_parts(answer, substate, structure)
    return structure.unflatten(
        [
            _filter(visitor, part) if go else jax.tree.map(lambda _: False, part)
            for part, go in zip(parts, answers, strict=True)
        ]
    )


def _of_parts(answer: Any, substate: PyTree, structure: PyTreeDef) -> list[Any]:
    """The bools of an answer that has one for each part of `substate`."""
    if isinstance(answer, tuple | list) and isinstance(substate, tuple | list):
        answers = list(answer)
    else:
        answers = jax.tree.leaves(answer) if jax.tree.structure(answer) == structure else []
    if len(answers) != structure.num_leaves or not all(map(is_flag, answers)):
        raise TypeError(
            "DropoutWrapper: expected dropout_state_filter_visitor to return a bool, or one for "
            f"each part of {jax.tree.map(jnp.shape, substate)}, got {answer!r}"
        )
    return answers
