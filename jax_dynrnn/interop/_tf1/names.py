"""Gives each variable one canonical name, whatever version of TF1 saved it."""

from __future__ import annotations

import re

SCOPE_ALIASES = {
    "nas_rnn": "nas_cell",
    "basic_lstm_cell": "lstm_cell",
    "cudnn_compatible_lstm_cell": "lstm_cell",
    "lstm_block_cell": "lstm_cell",
    "lstm_block_wrapper": "lstm_cell",
    "lstm_fused_cell": "lstm_cell",
    "gru_block_cell": "gru_cell",
}
"""Scopes of cells whose variables are interchangeable, and the one that stands for them."""

VARIABLE_ALIASES = {
    "weights": "kernel",
    "biases": "bias",
    "recurrent_weights": "recurrent_kernel",
    # before TF 1.0; LSTMs of contrib have `w`, `b` and `w_p` in all versions
    "matrix": "kernel",
    "w": "kernel",
    "b": "bias",
    "w_p": "projection/kernel",
    # GRUBlockCell
    "w_ru": "gates/kernel",
    "b_ru": "gates/bias",
    "w_c": "candidate/kernel",
    "b_c": "candidate/bias",
}
"""The last part of a name in lower case, and the canonical one."""

STATIC_STACK_SCOPE = re.compile(r"(\bcell_\d+)/(fw|bw)\b")
"""The scope of a layer of `stack_bidirectional_rnn`; the dynamic run has one more inside."""

SHARD = re.compile(r"(?:(.*)/part|(.*/(?:matrix|w|w_p|w_[ft]_\d+)))_(\d{1,9})")
"""A shard of a variable: `kernel/part_0`, `Matrix_0`, `W_0`, `W_f_0_0`, `W_0/part_0`."""


def canonical(name: str) -> tuple[str, int]:
    """The canonical name of a variable, and the index of its shard: 0 if it is not partitioned.

    >>> canonical("RNN/MultiRNNCell/Cell0/BasicLSTMCell/Linear/Matrix:0")
    ('rnn/multi_rnn_cell/cell_0/lstm_cell/kernel', 0)
    >>> canonical("rnn/lstm_cell/projection/weights/part_1")
    ('rnn/lstm_cell/projection/kernel', 1)
    >>> canonical("rnn/coupled_input_forget_gate_lstm_cell/W_0/part_1")
    ('rnn/coupled_input_forget_gate_lstm_cell/kernel', 1)
    >>> canonical("encoder/kernel/.ATTRIBUTES/VARIABLE_VALUE")  # of `tf.train.Checkpoint`
    ('encoder/kernel', 0)
    """
    name = re.sub(r"(/\.ATTRIBUTES/VARIABLE_VALUE)?(:\d+)?$", "", name)
    scopes = [_snake_case(scope) for scope in name.split("/")]
    # Before TF 1.0, the matrix and the bias of a cell were in a scope `Linear` of their own.
    if len(scopes) > 1 and re.match("(matrix|bias)", scopes[-1]) and scopes[-2] == "linear":
        del scopes[-2]
    scopes = STATIC_STACK_SCOPE.sub(r"\1/bidirectional_rnn/\2", "/".join(scopes)).split("/")
    path, index = "/".join(scopes), 0
    if shard := SHARD.fullmatch(path):
        path, index = shard[1] or shard[2] or "", int(shard[3])
        # A partitioner divides `W_0` once more.
        path = path.removesuffix("_0") if SHARD.fullmatch(path) else path
    *scopes, last = path.split("/")
    scopes = [SCOPE_ALIASES.get(scope, scope) for scope in scopes]
    return "/".join([*scopes, VARIABLE_ALIASES.get(last, last)]), index


def _snake_case(scope: str) -> str:
    """A class name in snake case, as TF1 makes scopes; a stack's layer was `Cell0` at first."""
    scope = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", scope)
    scope = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", scope).lower()
    return re.sub(r"^cell(\d+)$", r"cell_\1", scope)


def is_memory(name: str) -> bool:
    """Whether it is the kernel of a `memory_layer`, the first or another, in any scope."""
    return re.fullmatch(r"(.*/)?memory_layer(_\d{1,9})?/kernel", name) is not None
