"""Dropout of the inputs, outputs and state of a cell, and recurrent dropout."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell, LSTMStateTuple, Params, StagedCell, State
from .._composition import Around, Stacked
from .._protocol import name_of
from .._tools import check_probability, filled_like, is_flag
from .._types import Inputs, Key, Outputs, Projected, PyTree, PyTreeDef
from ._wrapper import AroundWrapper, Wrapper


def default_state_filter(substate: PyTree) -> Any:
    """TF1's default: drops only `h` of an LSTM's state, and all of any other state."""
    return LSTMStateTuple(c=False, h=True) if isinstance(substate, LSTMStateTuple) else True


class _Keys(NamedTuple):
    """The keys of the inner cell, and of the dropout of inputs, state and output."""

    cell: Any = None
    inputs: Any = None
    state: Any = None
    output: Any = None

    @classmethod
    def split(cls, key: Key) -> _Keys:
        return cls() if key is None else cls(*jax.random.split(key, 4))


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """The prepared params: those of the cell, and the keys and masks that all steps share."""

    cell: Params
    keys: _Keys
    """The keys of variational masks."""
    recurrent: jax.Array | None
    """The mask of recurrent dropout, `[B, H]`; `None` without it."""
    shared: int
    """The number of leading axes along which a mask is broadcast."""


jax.tree_util.register_dataclass(_Prepared, ["cell", "keys", "recurrent"], ["shared"])


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class DropoutWrapper(AroundWrapper):
    """Dropout of the inputs, outputs and state of a cell, and recurrent dropout inside it.

        y, s' = cell(drop(x), s);  new_state = drop(s');  output = drop(y)
        drop(x) = x * mask / keep_prob,  mask ~ Bernoulli(keep_prob)

    Output dropout does not change the state, and state dropout does not change the output of the
    same step. Recurrent dropout is applied inside the cell: its recurrent kernels multiply
    `drop(h)` (in a `GRUCell` also `r * drop(h)`), and the carried state does not change.
    Without a `key` (evaluation) all dropout is the identity.

    State dropout scales the carried state by `1 / keep_prob` at every step. The state of a GRU is
    `u * h + (1 - u) * c`: with a variational mask, the units that it keeps grow without bound in
    long runs. `recurrent_keep_prob` has no such growth.

    Args:
        cell: the cell to run.
        input_keep_prob, output_keep_prob, state_keep_prob: probabilities in (0, 1] of
            keeping a value; 1.0 is no dropout.
        recurrent_keep_prob: probability in (0, 1] of keeping a unit of the hidden state that
            recurrent kernels multiply; 1.0 is no dropout. Each row of the batch has one mask for
            the whole run and all gates, regardless of the next two arguments.
        variational_recurrent: whether one mask is used for all steps of a run, instead of a new
            one per step. (A single step `cell(params, x, state, key=key)` draws it from that key.)
        variational_per_row: whether each row has a variational mask of its own; otherwise the
            batch shares one, as in TF1.
        dropout_state_filter_visitor: called with the state, and then with its parts from the top
            down; returns whether to drop its argument, or a structure of bools for the parts of
            its argument. `None`: everything but the memory `c` of an LSTM is dropped. Integers
            and rank-0 leaves are never dropped.

    Params, state, output: those of `cell`.

    Raises:
        TypeError, ValueError: `cell` is not a cell, a probability is not a float in
            (0, 1], or `variational_per_row` is given without `variational_recurrent`; with
            `recurrent_keep_prob`, `cell` has no recurrent kernel, or is a stack (wrap each of its
            layers instead).

    Differs from TF1: there is no `dtype`, `input_size` and `seed` (randomness comes from
    the `key` of the run); probabilities are Python floats, and 0 is an error; TF1 has no
    `recurrent_keep_prob`. In Keras it is `recurrent_dropout=1 - recurrent_keep_prob`, with a
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
        # Before check_options, which would convert a probability that is an array to a float.
        for kind in ("input", "output", "state", "recurrent"):
            check_probability(self, f"{kind}_keep_prob")
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
        per_row = self.variational_per_row or not self.variational_recurrent
        mask = self._recurrent_mask(key, batch_shape)
        return _Prepared(cell, keys, mask, 0 if per_row else len(batch_shape))

    def _recurrent_mask(self, key: Key, batch_shape: tuple[Any, ...]) -> jax.Array | None:
        if key is None or self.recurrent_keep_prob == 1.0:
            return None
        cell = _innermost(self.inner)
        h = jax.eval_shape(lambda: cell.recurrent_input(cell.zero_state(tuple(batch_shape))))
        # Not one more key in _Keys: splitting the key into 5 would change all other masks.
        key = jax.random.fold_in(key, len(_Keys._fields))
        return jax.random.bernoulli(key, self.recurrent_keep_prob, h.shape)

    def composition(self, key: Key = None) -> Around:
        return dataclasses.replace(super().composition(key), cell_params=_cell_params)

    def cell_key(self, key: Key) -> Any:
        return _Keys.split(key).cell

    def why_not_separable(self, key: Key) -> str | None:
        if key is not None and self.state_keep_prob < 1:
            return "state_keep_prob applies dropout to the state between steps"
        if key is not None and self.recurrent_keep_prob < 1:
            return "recurrent_keep_prob masks the hidden state, row by row, inside the step"
        return None

    def before(self, params: Params, inputs: Inputs, key: Key) -> tuple[Any, Any]:
        keys = self._mask_keys(params, key)
        return _drop(inputs, keys.inputs, self.input_keep_prob, True, params.shared), None

    def after(self, params: Params, saved: PyTree, output: Outputs, key: Key) -> Any:
        keys = self._mask_keys(params, key)
        return _drop(output, keys.output, self.output_keep_prob, True, params.shared)

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        output, state = self._recurrent_step(params, projected, state, key)
        keys, visitor = self._mask_keys(params, key), self.dropout_state_filter_visitor
        selected = _select_leaves(visitor or default_state_filter, state)
        return output, _drop(state, keys.state, self.state_keep_prob, selected, params.shared)

    def _recurrent_step(
        self, params: Params, projected: Projected, state: State, key: Key
    ) -> tuple[Any, State]:
        """Takes a step with input, recurrent and output dropout, but without state dropout."""
        if params.recurrent is None:
            return self.composition(key).step(params, projected, state, key)
        masked = []

        def drop(h):
            masked.append(h)
            return _masked(h, params.recurrent, self.recurrent_keep_prob)

        wrapper = _with_recurrent_input(self, drop)
        result = wrapper.composition(key).step(params, projected, state, key)
        # A cell of the user's may ignore recurrent_input: dropout would silently do nothing.
        if not masked:
            name = type(_innermost(self.inner)).__name__
            raise TypeError(
                f"DropoutWrapper: recurrent_keep_prob expected the stages of {name} to multiply "
                "self.recurrent_input(state), got stages that never call it; call it where they "
                "take the hidden state for a recurrent kernel"
            )
        return result

    def _mask_keys(self, params: Params, key: Key) -> _Keys:
        """Returns the keys of a step's masks; variational masks have the same at all steps."""
        return params.keys if self.variational_recurrent else _Keys.split(key)


def _drop(tree: PyTree, key: Key, keep_prob: float, selected: Any, shared: int) -> Any:
    """Applies dropout to the `selected` leaves; `True` selects all.

    Masks have size 1 in the `shared` leading axes, along which they are broadcast.
    """
    if key is None or keep_prob == 1.0:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    selected = jax.tree.leaves(selected) if selected is not True else [True] * len(leaves)

    def drop(i, x):
        if not (selected[i] and x.ndim and jnp.issubdtype(x.dtype, jnp.floating)):
            return x
        shape = (1,) * shared + x.shape[shared:]
        mask = jax.random.bernoulli(jax.random.fold_in(key, i), keep_prob, shape)
        return _masked(x, mask, keep_prob)

    return structure.unflatten([drop(i, x) for i, x in enumerate(leaves)])


def _masked(x: jax.Array, mask: jax.Array, keep_prob: float) -> jax.Array:
    """Sets masked elements to 0, and scales the others so that the expectation is unchanged."""
    return jnp.where(jnp.broadcast_to(mask, x.shape), x / keep_prob, 0)


def _cell_params(params: Params) -> Params:
    """Returns the params of the cell inside, from raw or prepared params of the wrapper."""
    return params.cell if isinstance(params, _Prepared) else params


def _innermost(cell: Cell) -> Any:
    """Returns the cell inside all of this package's wrappers."""
    while isinstance(cell, Wrapper):
        cell = cell.inner
    return cell


def _check_recurrent(cell: Cell) -> None:
    """Checks that there is one cell with a recurrent kernel inside `cell`."""
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
            "by a recurrent kernel (an LSTM, a GRU, any MatmulCell; inside this library's "
            f"wrappers too), got {name_of(cell)}; if that holds another cell, wrap the one inside"
        )


def _with_recurrent_input(cell: Any, drop: Callable[..., Any]) -> Any:
    """Returns a copy of `cell` whose innermost cell multiplies `drop(h)` by its recurrent kernels.

    A method of the copy is replaced, rather than a mask passed to `step`, so that recurrent dropout
    also works for cells that override `step`.
    """
    copied = copy.copy(cell)
    # Cells are frozen dataclasses, hence object.__setattr__.
    if isinstance(cell, Wrapper):
        object.__setattr__(copied, "cell", _with_recurrent_input(cell.inner, drop))
    else:
        original = cell.recurrent_input
        object.__setattr__(copied, "recurrent_input", lambda state: drop(original(state)))
    return copied


def _select_leaves(visitor: Callable[..., Any], substate: PyTree) -> Any:
    """Calls `visitor` from the top down, and returns a bool for each leaf: whether to drop it."""
    answer = visitor(substate)
    if is_flag(answer) and (not answer or jax.tree_util.all_leaves([substate])):
        return filled_like(bool(answer), substate)
    # One level of the tree: every child counts as a leaf.
    parts, structure = jax.tree.flatten(substate, is_leaf=lambda x: x is not substate)
    # As in TF1, True for a part means that the visitor is called with each of its own parts.
    if is_flag(answer):
        answers = [True] * len(parts)
    else:
        answers = _answers_for_parts(answer, substate, structure)
    return structure.unflatten(
        [
            _select_leaves(visitor, part) if selected else filled_like(False, part)
            for part, selected in zip(parts, answers, strict=True)
        ]
    )


def _answers_for_parts(answer: Any, substate: PyTree, structure: PyTreeDef) -> list[Any]:
    """Checks an answer that has one bool for each part of `substate`, and returns the bools."""
    if isinstance(answer, tuple | list) and isinstance(substate, tuple | list):
        answers = list(answer)  # of any type of sequence, whatever that of the state is
    else:
        answers = jax.tree.leaves(answer) if jax.tree.structure(answer) == structure else []
    if len(answers) != structure.num_leaves or not all(map(is_flag, answers)):
        raise TypeError(
            "DropoutWrapper: expected dropout_state_filter_visitor to return a bool, or one for "
            f"each part of {jax.tree.map(np.shape, substate)}, got {answer!r}"
        )
    return answers
