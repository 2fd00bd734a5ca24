"""A wrapper that lets a cell attend to a memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from .. import _check_data
from .._adapter import output_size
from .._cell import Memory, Params, State
from .._init import Initializer, glorot_uniform
from .._protocol import call_back
from .._tools import batch_tuple, fold_in, input_size, matmul
from .._types import BatchShape, DTypeLike, Key, Lengths, Projected, PyTree, Shapes
from ..attention import Mechanism, valid_slots
from ._wrapper import Wrapper

NOISE = 2**30
"""Folded into the key of a step for the noise of the first mechanism: cells inside fold in small
numbers."""


class AttentionWrapperState(NamedTuple):
    """State of an `AttentionWrapper`, under TF1's names.

    Attributes:
        cell_state: the state of the cell.
        attention: the last attention, `[..., A]`.
        time: the number of steps taken, rank 0.
        alignments: the last weights of the memory's slots, `[..., S]`, or a tuple of them for
            several mechanisms; at the start 0, or all in slot 0 for monotonic attention.

    Reference: `tf.contrib.seq2seq.AttentionWrapperState`.

    Example: a decoder that starts from the final state of an encoder
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.AttentionWrapper(rnn.GRUCell(8), rnn.LuongAttention(8))
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> params = cell.attend(params, jnp.ones((2, 7, 8)))
        >>> start = cell.start(params, (2,), jnp.float32)
        >>> start = start._replace(cell_state=jnp.ones((2, 8)))
        >>> outputs, _ = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)), None, start)
    """

    cell_state: Any
    attention: Any
    time: Any
    alignments: Any


jax.export.register_namedtuple_serialization(
    AttentionWrapperState, serialized_name="jax_dynrnn.AttentionWrapperState"
)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class AttentionWrapper(Wrapper):
    """A cell that attends to a memory, and receives its last attention beside the inputs.

        y, s'      = cell([x, attention], s)
        a          = softmax(score(y, keys))                # over the slots of the memory
        context    = sum over slots of a * values
        attention' = [y, context] W, or context             # also the output

    The memory is passed with the params: `params = cell.attend(params, memory, memory_length)`,
    or with `memory_mask=` for padding on the left or gaps.
    If the memory depends on learned params, call `attend` inside the function that is
    differentiated. Keys and values are computed once per run. If the wrapper is inside a stack or
    another wrapper, call `attend` of the outermost cell.

    Args:
        cell: the cell to run, with one array as its output.
        attention_mechanism: a `BahdanauAttention`, `LuongAttention`, one of their monotonic kinds,
            a `Mechanism` of your own, or a list of them, whose attentions are concatenated.
        attention_layer_size: size of the attention, or a list of sizes for several mechanisms;
            `None`: there is no layer, and the attention is the context.
        alignment_history: whether the output is `(output, alignments)`.
        cell_input_fn: `cell_input_fn(x, attention)` returns the inputs of the cell; `None`:
            `[x, attention]`.
        output_attention: whether the output is the attention; `False`: it is `y`.
        kernel_initializer: of the attention layers; `None` is Glorot's uniform.

    Params: the cell's under `cell`, each mechanism's under `bahdanau_attention` or
    `luong_attention` (the second of a kind under `..._1`), `attention_layer/kernel`
    `[size of y + M, A]` (`attention_layer_1/...`); and the memory under `memory`.
    State: `AttentionWrapperState`. Output: `[..., A]` or `y`.

    Raises:
        TypeError, ValueError: an argument has another type or shape; a run without a memory.

    Differs from TF1: the memory is not in the mechanism; a memory of length 0 gives a context
    of 0; the history of alignments is an output over time, not in the state; there is no
    `initial_cell_state` (see `AttentionWrapperState`). The size of the state depends on the
    memory, so `start` returns the first state, and `zero_state` raises an error.

    Reference: `tf.contrib.seq2seq.AttentionWrapper`; Luong et al., arXiv:1508.04025.

    Example: the alignments of each step, over memories of 7 and 4 slots
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.AttentionWrapper(
        ...     rnn.GRUCell(8), rnn.BahdanauAttention(8), attention_layer_size=6,
        ...     alignment_history=True)
        >>> inputs, memory = jnp.ones((2, 5, 3)), jnp.ones((2, 7, 8))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> params = cell.attend(params, memory, memory_length=[7, 4])
        >>> (outputs, alignments), state = rnn.dynamic_rnn(cell, params, inputs)
        >>> outputs.shape, alignments.shape, bool((alignments[1, :, 4:] == 0).all())
        ((2, 5, 6), (2, 5, 7), True)
    """

    params_name: ClassVar[str | None] = "cell"

    attention_mechanism: Mechanism | Sequence[Mechanism]
    _: dataclasses.KW_ONLY
    attention_layer_size: int | Sequence[int] | None = None
    alignment_history: bool = False
    cell_input_fn: Callable[..., Any] | None = None
    output_attention: bool = True
    kernel_initializer: Initializer | None = None

    attends = True  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.attention_mechanism
        if not isinstance(given, Mechanism):
            given = tuple(given) if isinstance(given, Sequence) else (given,)
            for mechanism in given or (None,):
                if not isinstance(mechanism, Mechanism):
                    raise TypeError(
                        "AttentionWrapper: expected attention_mechanism to be a "
                        "BahdanauAttention or LuongAttention, or a list of them, got "
                        f"{type(mechanism).__name__}"
                    )
            object.__setattr__(self, "attention_mechanism", given)
        sizes = self.attention_layer_size
        if isinstance(sizes, Sequence):
            object.__setattr__(self, "attention_layer_size", tuple(sizes))
        for size in self._layer_sizes:
            _check_data.count("AttentionWrapper: attention_layer_size", size, least=1)
        if sizes is not None and len(self._layer_sizes) != len(self.mechanisms):
            raise ValueError(
                f"AttentionWrapper: expected {len(self.mechanisms)} sizes in "
                f"attention_layer_size, one for each mechanism, got {sizes!r}"
            )

    @property
    def feature_ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1

    @property
    def mechanisms(self) -> dict[str, Mechanism]:
        """The mechanisms by the names of their params.

        A name that occurs again is numbered: `luong_attention`, `luong_attention_1`.
        """
        given = self.attention_mechanism
        given = (given,) if isinstance(given, Mechanism) else given
        named: dict[str, Mechanism] = {}
        for mechanism in given:
            numbered = (f"{mechanism.name}_{n}" for n in itertools.count(1))
            names = itertools.chain([mechanism.name], numbered)
            named[next(name for name in names if name not in named)] = mechanism
        return named

    @property
    def _layer_sizes(self) -> tuple[int, ...]:
        sizes = self.attention_layer_size
        if sizes is None:
            return ()
        return sizes if isinstance(sizes, tuple) else (sizes,)  # pyright: ignore

    def _sizes(self) -> list[int]:
        """Returns the size of the attention of each mechanism."""
        return list(self._layer_sizes) or [m.memory_size for m in self.mechanisms.values()]  # pyright: ignore

    def _cell_inputs(self, inputs: jax.Array, attention: jax.Array) -> jax.Array:
        if self.cell_input_fn is not None:
            names = "inputs, attention"
            return call_back("cell_input_fn", self.cell_input_fn, names, inputs, attention)
        return jnp.concatenate([inputs, attention], -1)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        sizes = input_size(self, input_shape), sum(self._sizes())
        # cell_input_fn may be any function: only tracing it shows what the cell receives.
        types = (jax.ShapeDtypeStruct((size,), dtype) for size in sizes)
        received = jax.eval_shape(self._cell_inputs, *types).shape
        query = output_size(self.inner, received, self)
        params: Params = {"cell": self.inner.init(jax.random.fold_in(key, 0), received, dtype)}
        for i, (name, mechanism) in enumerate(self.mechanisms.items()):
            params[name] = mechanism.init(jax.random.fold_in(key, 2 * i + 1), query, dtype)
        for i, (size, m) in enumerate(
            zip(self._layer_sizes, self.mechanisms.values(), strict=False)
        ):
            initialize = self.kernel_initializer or glorot_uniform
            shape = (query + m.memory_size, size)  # pyright: ignore[reportOperatorIssue]
            kernel = initialize(jax.random.fold_in(key, 2 * i + 2), shape, dtype)
            params[_layer_name(i)] = {"kernel": kernel}
        return params

    def attend(
        self,
        params: Params,
        memory: PyTree,
        memory_length: Lengths | None = None,
        *,
        memory_mask: PyTree = None,
    ) -> Params:
        """Returns the params with a memory to attend to.

        Args:
            params: those that `init` returned.
            memory: `[B, S, M]`, or for several mechanisms a list of memories, one for each.
            memory_length: the number of valid slots, an int for each row; `None`: all are valid.
            memory_mask: bool `[B, S]`, the valid slots, for padding on the left or gaps; with
                lengths, a slot is valid if it is valid by both. For several memories, a list.
        """
        several = isinstance(memory, list | tuple)
        memories = list(memory) if several else [memory] * len(self.mechanisms)

        def for_each(given):
            # With one memory, a list has an item for each row; with several, for each memory.
            listed = several and isinstance(given, list | tuple)
            return list(given) if listed else [given] * len(memories)

        lengths, masks = for_each(memory_length), for_each(memory_mask)
        counts = len(memories), len(lengths), len(masks)
        if {*counts} != {len(self.mechanisms)}:
            raise ValueError(
                f"attend: expected one memory, or {len(self.mechanisms)}, one for each "
                f"mechanism, got {counts[0]}, {counts[1]} lengths and {counts[2]} masks"
            )
        parts = zip(self.mechanisms.values(), memories, lengths, masks, strict=True)
        if self.inner.attends:
            params = super().attend(params, memory, memory_length, memory_mask=memory_mask)
        return {**params, "memory": tuple(mechanism.memory(*part) for mechanism, *part in parts)}

    def _memory(self, params: Params) -> tuple[Memory, ...]:
        """Returns the memories that `attend` added to the params."""
        memory = params.get("memory")
        if memory is None:
            raise ValueError(
                "AttentionWrapper: expected params with a memory, got none; call params = "
                "cell.attend(params, memory, memory_length) first"
            )
        return memory

    def valid_slots(self, params: Params) -> jax.Array | None:
        """bool `[B, S]`: the valid slots of the memory that `attend` added to the params, those of
        several mechanisms side by side; `None`: all are."""
        memories = self._memory(params)
        valid = [valid_slots(memory) for memory in memories]
        if all(v is None for v in valid):
            return None
        every = [
            jnp.ones(m.values.shape[:-1], bool) if v is None else v
            for m, v in zip(memories, valid, strict=True)
        ]
        return jnp.concatenate(every, -1)

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> State:
        raise ValueError(
            "AttentionWrapper: the size of its state depends on the memory: expected a call of "
            "start(params, batch_shape, dtype) with the params that attend returned, got one "
            "of zero_state"
        )

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        batch = batch_tuple(batch_shape)
        slots = [memory.values.shape[-2] for memory in self._memory(params)]
        mechanisms = zip(self.mechanisms.values(), slots, strict=True)
        return AttentionWrapperState(
            cell_state=super().start(params, batch_shape, dtype),
            attention=jnp.zeros((*batch, sum(self._sizes())), dtype),
            time=jnp.zeros((), jnp.int32),
            alignments=self._one_or_tuple([m.first(batch, n, dtype) for m, n in mechanisms]),
        )

    def _one_or_tuple(self, parts: list[Any]) -> Any:
        """Returns the part of a single mechanism, or the tuple for a list of mechanisms."""
        return parts[0] if isinstance(self.attention_mechanism, Mechanism) else tuple(parts)

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        prepared, attended = super().prepare(params, key=key, batch_shape=batch_shape), []
        for (name, mechanism), memory in zip(
            self.mechanisms.items(), self._memory(params), strict=True
        ):
            if memory.values.shape[:-2] != tuple(batch_shape):
                raise ValueError(
                    f"AttentionWrapper: expected a memory of the inputs' batch {batch_shape}, got "
                    f"{memory.values.shape[:-2]}, of a memory of shape {memory.values.shape}"
                )
            attended.append(mechanism.attended(params[name], memory))
            prepared[name] = mechanism.prepare(params[name])
        return {**prepared, "memory": tuple(attended)}

    def why_not_separable(self, key: Key) -> str | None:
        del key
        return "each step receives the attention of the step before"

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        cell_inputs = self._cell_inputs(projected, state.attention)
        y, cell_state = self.cell_step(params, cell_inputs, state.cell_state, key)
        # The query is the output of this step, so attention follows the cell, as in TF1.
        attentions, alignments, previous = [], [], state.alignments
        previous = [previous] if isinstance(self.attention_mechanism, Mechanism) else previous
        for i, (name, mechanism) in enumerate(self.mechanisms.items()):
            noise_key = fold_in(key, NOISE + i)
            given = params[name], y, params["memory"][i], previous[i]
            attention, weights = mechanism(*given, key=noise_key)
            if self._layer_sizes:
                both = jnp.concatenate([y, attention], -1)
                attention = matmul(both, params[_layer_name(i)]["kernel"], "output")
            attentions.append(attention)
            alignments.append(weights)
        attention, weights = jnp.concatenate(attentions, -1), self._one_or_tuple(alignments)
        output = attention if self.output_attention else y
        state = AttentionWrapperState(cell_state, attention, state.time + 1, weights)
        return (output, weights) if self.alignment_history else output, state


def _layer_name(i: int) -> str:
    """The name of attention layer i: TF1's for the first, and a numbered one for the others."""
    return f"attention_layer_{i}" if i else "attention_layer"
