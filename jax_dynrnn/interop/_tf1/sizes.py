"""Constructs cells from the shapes of their variables, with the options that these show."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from ... import cells as c
from ... import wrappers as w
from ...attention import (
    BahdanauAttention,
    BahdanauMonotonicAttention,
    LuongAttention,
    LuongMonotonicAttention,
)

MAX_DIGITS = 9  # of the number of a layer; Python refuses to parse thousands

Shapes = Mapping[str, tuple]
"""The shape of each variable, by canonical name inside of the scope of the cell."""


def _columns(shapes: Shapes, name: str) -> int | None:
    """The number of columns of an optional variable."""
    return shapes[name][-1] if name in shapes else None


def _sized_by(name: str, parts: int, cell_class: type[Any], shapes: Shapes) -> Any:
    """A cell whose variable `name` has `parts` times as many elements as the cell has units."""
    return cell_class(shapes[name][0] // parts)


_by_bias = functools.partial(_sized_by, "bias")
_by_gates = functools.partial(_sized_by, "gates/bias", 2)


def _lstm(cell_class: type[Any], shapes: Shapes, gates: int = 4, **options: Any) -> Any:
    """An LSTM; variables show its peepholes and its projection."""
    options |= {
        "use_peepholes": "w_f_diag" in shapes,
        "num_proj": _columns(shapes, "projection/kernel"),
    }
    return cell_class(shapes["kernel"][1] // gates, **options)


def _layer_norm_lstm(cell_class: type[Any], shapes: Shapes, gates: int = 4) -> Any:
    return _lstm(cell_class, shapes, gates, layer_norm="forget/gamma" in shapes)


def _weight_norm_lstm(shapes: Shapes) -> Any:
    return _lstm(c.WeightNormLSTMCell, shapes, norm="norm_0" in shapes)


def _layer_norm_basic_lstm(shapes: Shapes) -> Any:
    return c.LayerNormBasicLSTMCell(shapes["kernel"][1] // 4, layer_norm="forget/gamma" in shapes)


def _glstm(shapes: Shapes) -> Any:
    return c.GLSTMCell(
        shapes["bias_i"][0],
        number_of_groups=sum(name.startswith("group") for name in shapes),
        num_proj=_columns(shapes, "projection/kernel"),
    )


def _intersection(shapes: Shapes) -> Any:
    return c.IntersectionRNNCell(
        shapes["bias"][0] // 4, num_in_proj=_columns(shapes, "in_projection/bias")
    )


def _nas(shapes: Shapes) -> Any:
    return c.NASCell(
        shapes["kernel"][1] // 8,
        use_bias="bias" in shapes,
        num_proj=_columns(shapes, "projection_weights"),
    )


def _phased(shapes: Shapes) -> Any:
    # With peepholes, the kernel of the mask gates has rows for the cell state too.
    use_peepholes = shapes["mask_gates/kernel"][0] > shapes["new_input/kernel"][0]
    return c.PhasedLSTMCell(shapes["period"][0], use_peepholes=use_peepholes)


CELLS: dict[type[Any], Callable[[Shapes], Any]] = {
    c.BasicRNNCell: functools.partial(_by_bias, 1, c.BasicRNNCell),
    c.CFNCell: functools.partial(_by_bias, 2, c.CFNCell),
    c.CoupledInputForgetGateLSTMCell: functools.partial(
        _layer_norm_lstm, c.CoupledInputForgetGateLSTMCell, gates=3
    ),
    c.CudnnCompatibleGRUCell: functools.partial(_by_gates, c.CudnnCompatibleGRUCell),
    c.GLSTMCell: _glstm,
    c.GRUCell: functools.partial(_by_gates, c.GRUCell),
    c.IndRNNCell: functools.partial(_by_bias, 1, c.IndRNNCell),
    c.IndyGRUCell: functools.partial(_by_gates, c.IndyGRUCell),
    c.IndyLSTMCell: functools.partial(_by_bias, 4, c.IndyLSTMCell),
    c.IntersectionRNNCell: _intersection,
    c.LSTMCell: functools.partial(_lstm, c.LSTMCell),
    c.LayerNormBasicLSTMCell: _layer_norm_basic_lstm,
    c.LayerNormLSTMCell: functools.partial(_layer_norm_lstm, c.LayerNormLSTMCell),
    c.MinimalRNNCell: functools.partial(_by_bias, 1, c.MinimalRNNCell),
    c.NASCell: _nas,
    c.PhasedLSTMCell: _phased,
    c.SRUCell: functools.partial(_by_bias, 2, c.SRUCell),
    c.UGRNNCell: functools.partial(_by_bias, 2, c.UGRNNCell),
    c.WeightNormLSTMCell: _weight_norm_lstm,
}
"""The cells whose sizes can all be inferred; `LSTMCell` stands for the others of its scope."""


def _attention(inner: Any, shapes: Shapes, memories: list[tuple[Any, ...]]) -> Any:
    """An attention wrapper; `None` for mechanisms of several kinds, whose order is not stored."""
    additive = {
        kind: numbered({name: name for name in shapes}, rf"{kind.NAME}(?:_(\d+))?/attention_v")
        for kind in (BahdanauAttention, BahdanauMonotonicAttention)
    }
    additive = [(kind, names) for kind, names in additive.items() if names]
    layers = [columns for _, columns in numbered(shapes, r"attention_layer(?:_(\d+))?/kernel")]
    if [len(names) for _, names in additive] == [len(memories)]:
        ((kind, names),) = additive
        mechanisms = [
            kind(shapes[name][0], memory_size=rows, normalize=f"{name[:-1]}g" in shapes)
            for name, (rows, _) in zip(names, memories, strict=True)
        ]
    elif len(memories) == 1 and not additive:
        rows, units = memories[0]
        is_monotonic = f"{LuongMonotonicAttention.NAME}/attention_score_bias" in shapes
        multiplicative = LuongMonotonicAttention if is_monotonic else LuongAttention
        scale = f"{multiplicative.NAME}/attention_g" in shapes
        mechanisms = [multiplicative(units, memory_size=rows, scale=scale)]
    else:
        return None
    sizes: Any = layers or None
    if len(memories) == 1:
        mechanisms, sizes = mechanisms[0], layers[0] if layers else None
    return w.AttentionWrapper(inner, mechanisms, attention_layer_size=sizes)


def _embedding(inner: Any, shapes: Shapes, memories: list[tuple[Any, ...]]) -> Any:
    del memories
    return w.EmbeddingWrapper(inner, *shapes["embedding"])


def _projection(
    wrapper_class: type[Any], inner: Any, shapes: Shapes, memories: list[tuple[Any, ...]]
) -> Any:
    del memories
    return wrapper_class(inner, shapes["bias"][0])


WRAPPERS: dict[type[Any], Callable[[Any, Shapes, list[tuple[Any, ...]]], Any]] = {
    w.AttentionWrapper: _attention,
    w.EmbeddingWrapper: _embedding,
    w.InputProjectionWrapper: functools.partial(_projection, w.InputProjectionWrapper),
    w.OutputProjectionWrapper: functools.partial(_projection, w.OutputProjectionWrapper),
}
"""Wrappers, made of the cell inside, the shapes of all variables, and the nearest memory layers."""


def numbered(named: Mapping[str, Any], pattern: str) -> list[Any]:
    """The values whose names match the pattern, by the number in its group; no number is 0."""
    found = {
        int(m[1] or 0): x
        for name, x in named.items()
        if (m := re.fullmatch(pattern, name)) and len(m[1] or "") <= MAX_DIGITS
    }
    return [found[i] for i in sorted(found)]
