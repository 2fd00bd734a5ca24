"""One name for each variable, whatever the version of TF1 that saved it."""

from __future__ import annotations

import re

SCOPES = {
    "nas_rnn": "nas_cell",
    "basic_lstm_cell": "lstm_cell",
    "cudnn_compatible_lstm_cell": "lstm_cell",
    "lstm_block_cell": "lstm_cell",
    "lstm_block_wrapper": "lstm_cell",
    "lstm_fused_cell": "lstm_cell",
    "gru_block_cell": "gru_cell",
}
"""Scopes of one cell under several names: their variables are interchangeable."""

NAMES = {
    "weights": "kernel",
    "biases": "bias",
    "recurrent_weights": "recurrent_kernel",
    # before TF 1.0; `w`, `b` and `w_p` are those of contrib's LSTMs to this day
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
"""The last part of a name, in lower case."""

OF_STATIC_STACK = re.compile(r"(\bcell_\d+)/(fw|bw)\b")
"""Of `stack_bidirectional_rnn`, whose layers have one scope less than those of the dynamic run."""

PART = re.compile(r"(?:(.*)/part|(.*/(?:matrix|w|w_p|w_[ft]_\d+)))_(\d{1,9})")
"""A shard of a variable: `kernel/part_0`, `Matrix_0`, `W_0`, `W_f_0_0`."""


def canonical(name: str) -> tuple[str, int]:
    """What names of the same variable have in common, and its shard: 0, if it is whole.

    >>> canonical("RNN/MultiRNNCell/Cell0/BasicLSTMCell/Linear/Matrix:0")
    ('rnn/multi_rnn_cell/cell_0/lstm_cell/kernel', 0)
    >>> canonical("rnn/lstm_cell/projection/weights/part_1")
    ('rnn/lstm_cell/projection/kernel', 1)
    >>> canonical("encoder/kernel/.ATTRIBUTES/VARIABLE_VALUE")  # of `tf.train.Checkpoint`
    ('encoder/kernel', 0)
    """
    name = re.sub(r"(/\.ATTRIBUTES/VARIABLE_VALUE)?(:\d+)?$", "", name)
    scopes = [_snake_case(scope) for scope in name.split("/")]
    if len(scopes) > 1 and re.match("(matrix|bias)", scopes[-1]) and scopes[-2] == "linear":
        del scopes[-2]
    scopes = OF_STATIC_STACK.sub(r"\1/bidirectional_rnn/\2", "/".join(scopes)).split("/")
    shard = PART.fullmatch("/".join(scopes))
    if shard:
        scopes = (shard[1] or shard[2] or "").split("/")
    *scopes, last = scopes
    scopes = [SCOPES.get(scope, scope) for scope in scopes]
    return "/".join([*scopes, NAMES.get(last, last)]), int(shard[3]) if shard else 0


def _snake_case(scope: str) -> str:
    """As TF1 makes a scope of a class's name; a layer of a stack was `Cell0` at first."""
    scope = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", scope)
    scope = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", scope).lower()
    return re.sub(r"^cell(\d+)$", r"cell_\1", scope)


def is_memory(name: str) -> bool:
    """Whether it is a `memory_layer`, the first or another, in any scope."""
    return re.fullmatch(r"(.*/)?memory_layer(_\d{1,9})?/kernel", name) is not None
