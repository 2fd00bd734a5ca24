"""Cells from the shapes of their variables, options included as far as these show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ... import cells as c
from ... import wrappers as w
from ...attention import BahdanauAttention, LuongAttention

MOST_DIGITS = 9  # of the number of a layer; Python refuses integers of some thousands

Shapes = Mapping[str, tuple]
"""By the canonical names of variables in the scope of the cell."""


def _columns(v: Shapes, name: str) -> int | None:
    return v[name][-1] if name in v else None


def _lstm(kind: Callable[..., Any], v: Shapes, gates: int = 4, **options: Any) -> Any:
    options |= {"use_peepholes": "w_f_diag" in v, "num_proj": _columns(v, "projection/kernel")}
    return kind(v["kernel"][1] // gates, **options)


CELLS: dict[type[Any], Callable[[Shapes], Any]] = {
    c.BasicRNNCell: lambda v: c.BasicRNNCell(v["bias"][0]),
    c.CFNCell: lambda v: c.CFNCell(v["bias"][0] // 2),
    c.CoupledInputForgetGateLSTMCell: lambda v: _lstm(
        c.CoupledInputForgetGateLSTMCell, v, 3, layer_norm="forget/gamma" in v
    ),
    c.CudnnCompatibleGRUCell: lambda v: c.CudnnCompatibleGRUCell(v["gates/bias"][0] // 2),
    c.GLSTMCell: lambda v: c.GLSTMCell(
        v["bias_i"][0],
        number_of_groups=sum(name.startswith("group") for name in v),
        num_proj=_columns(v, "projection/kernel"),
    ),
    c.GRUCell: lambda v: c.GRUCell(v["gates/bias"][0] // 2),
    c.IndRNNCell: lambda v: c.IndRNNCell(v["bias"][0]),
    c.IndyGRUCell: lambda v: c.IndyGRUCell(v["gates/bias"][0] // 2),
    c.IndyLSTMCell: lambda v: c.IndyLSTMCell(v["bias"][0] // 4),
    c.IntersectionRNNCell: lambda v: c.IntersectionRNNCell(
        v["bias"][0] // 4,
        num_in_proj=_columns(v, "in_projection/bias"),
    ),
    c.LSTMCell: lambda v: _lstm(c.LSTMCell, v),
    c.LayerNormBasicLSTMCell: lambda v: c.LayerNormBasicLSTMCell(
        v["kernel"][1] // 4, layer_norm="forget/gamma" in v
    ),
    c.LayerNormLSTMCell: lambda v: _lstm(
        c.LayerNormLSTMCell, v, layer_norm="forget/gamma" in v
    ),
    c.MinimalRNNCell: lambda v: c.MinimalRNNCell(v["bias"][0]),
    c.NASCell: lambda v: c.NASCell(
        v["kernel"][1] // 8,
        use_bias="bias" in v,
        num_proj=_columns(v, "projection_weights"),
    ),
    c.PhasedLSTMCell: lambda v: c.PhasedLSTMCell(
        v["period"][0], use_peepholes=v["mask_gates/kernel"][0] > v["new_input/kernel"][0]
    ),
    c.SRUCell: lambda v: c.SRUCell(v["bias"][0] // 2),
    c.UGRNNCell: lambda v: c.UGRNNCell(v["bias"][0] // 2),
    c.WeightNormLSTMCell: lambda v: _lstm(c.WeightNormLSTMCell, v, norm="norm_0" in v),
}  # fmt: skip
"""Those whose sizes are all in their variables. `LSTMCell` stands for the others of its scope."""


def _attention(inner: Any, v: Shapes, memories: list[tuple[Any, ...]]) -> Any:
    """`None` for mechanisms of several kinds, whose order the variables do not show."""
    additive = numbered({name: name for name in v}, r"bahdanau_attention(?:_(\d+))?/attention_v")
    layers = [columns for _, columns in numbered(v, r"attention_layer(?:_(\d+))?/kernel")]
    if additive and len(additive) == len(memories):
        mechanisms = [
            BahdanauAttention(v[name][0], memory_size=rows, normalize=f"{name[:-1]}g" in v)
            for name, (rows, _) in zip(additive, memories, strict=True)
        ]
    elif len(memories) == 1:
        rows, units = memories[0]
        scale = "luong_attention/attention_g" in v
        mechanisms = [LuongAttention(units, memory_size=rows, scale=scale)]
    else:
        return None
    sizes: Any = layers or None
    if len(memories) == 1:
        mechanisms, sizes = mechanisms[0], layers[0] if layers else None
    return w.AttentionWrapper(inner, mechanisms, attention_layer_size=sizes)


WRAPPERS: dict[type[Any], Callable[[Any, Shapes, list[tuple[Any, ...]]], Any]] = {
    w.AttentionWrapper: _attention,
    w.EmbeddingWrapper: lambda inner, v, _: w.EmbeddingWrapper(inner, *v["embedding"]),
    w.InputProjectionWrapper: lambda inner, v, _: w.InputProjectionWrapper(inner, v["bias"][0]),
    w.OutputProjectionWrapper: lambda inner, v, _: w.OutputProjectionWrapper(inner, v["bias"][0]),
}
"""From the cell inside, the shapes of all variables, and those of the nearest memory layers."""


def numbered(named: Mapping[str, Any], pattern: str) -> list[Any]:
    """What has a name like the pattern, by the number that its group is: without one, first."""
    found = {
        int(m[1] or 0): x
        for name, x in named.items()
        if (m := re.fullmatch(pattern, name)) and len(m[1] or "") <= MOST_DIGITS
    }
    return [found[i] for i in sorted(found)]
