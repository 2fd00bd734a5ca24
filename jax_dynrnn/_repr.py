"""How configurations are printed: as the call that makes them, without what is a default."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ._tools import importable_name


class BriefRepr:
    """The base class of configurations, frozen dataclasses: `LSTMCell(4, forget_bias=0.5)`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in vars(cls):  # else the dataclass decorator writes one of all fields
            cls.__repr__ = cls.__repr__

    def __repr__(self) -> str:
        return as_code(self) if dataclasses.is_dataclass(self) else object.__repr__(self)


def as_code(x: object, prefix: str = "") -> str:
    """`x` as an expression, evaluable where that is possible.

    `prefix` is what the names of this library have before them, as in `rnn.LSTMCell(4)`.
    """
    if isinstance(x, list | tuple):
        left, right = "[]" if isinstance(x, list) else "()"
        comma = "," if isinstance(x, tuple) and len(x) == 1 else ""
        return left + ", ".join(as_code(item, prefix) for item in x) + comma + right
    if isinstance(x, functools.partial):
        given = [as_code(item, prefix) for item in (x.func, *x.args)]
        given += [f"{name}={as_code(value, prefix)}" for name, value in x.keywords.items()]
        return f"functools.partial({', '.join(given)})"
    is_brief = isinstance(x, BriefRepr) and type(x).__repr__ is BriefRepr.__repr__
    if is_brief and dataclasses.is_dataclass(x):
        name = f"{prefix if _is_ours(x) else ''}{type(x).__name__}"
        return f"{name}({', '.join(_arguments(x, prefix))})"
    return _function(x) or repr(x)


def _arguments(x: Any, prefix: str) -> list[str]:
    """Those of the call that makes a configuration: required ones, and what is no default."""
    given = []
    fields = [field for field in dataclasses.fields(x) if field.init and field.repr]
    for field in sorted(fields, key=lambda field: bool(field.kw_only)):
        value = getattr(x, field.name)
        required = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        if required or not _is_default(value, field):
            sequence = isinstance(value, tuple) and _is_ours(x)  # given as a list, as a rule
            written = as_code(list(value) if sequence else value, prefix)
            given.append(written if required and not field.kw_only else f"{field.name}={written}")
    return given


def _is_ours(x: Any) -> bool:
    return type(x).__module__.startswith("jax_dynrnn.")


def _is_default(value: object, field: dataclasses.Field) -> bool:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return value is default or (type(value) is type(default) and bool(value == default))


def _function(x: Any) -> str | None:
    """A function or a class under the name that it is imported by; a local one in brackets."""
    name = getattr(x, "__name__", None)
    if not callable(x) or not isinstance(name, str):
        return None
    places = {"jnp": jnp, "jax.nn": jax.nn, "jax.lax": jax.lax}
    places["jax.nn.initializers"] = jax.nn.initializers
    for place, module in places.items():
        if getattr(module, name, None) is x:
            return f"{place}.{name}"
    found = importable_name(x)
    if found is None:
        return name if name.startswith("<") else f"<{name}>"
    return found if x.__module__ in ("__main__", "builtins") else f"{x.__module__}.{found}"
