"""The repr of configurations: the call that constructs them, without defaults."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ._tools import importable_name


class BriefRepr:
    """Base class of configurations with a short repr: `LSTMCell(4, forget_bias=0.5)`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # The dataclass decorator adds its own __repr__, of all fields, to a class that has none in
        # its namespace. So the inherited one is copied there.
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls.__repr__

    def __repr__(self) -> str:
        return as_code(self) if dataclasses.is_dataclass(self) else object.__repr__(self)


def as_code(x: object, prefix: str = "") -> str:
    """Returns a Python expression for `x`, which can be evaluated if its parts can be imported.

    `prefix` is put before the names of this library, as in `rnn.LSTMCell(4)`.
    """
    if isinstance(x, list | tuple):
        left, right = "[]" if isinstance(x, list) else "()"
        comma = "," if isinstance(x, tuple) and len(x) == 1 else ""
        return left + ", ".join(as_code(item, prefix) for item in x) + comma + right
    if isinstance(x, functools.partial):
        given = [as_code(item, prefix) for item in (x.func, *x.args)]
        given += [f"{name}={as_code(value, prefix)}" for name, value in x.keywords.items()]
        return f"functools.partial({', '.join(given)})"
    # Not of a class that defines its own __repr__: that is respected.
    is_brief = isinstance(x, BriefRepr) and type(x).__repr__ is BriefRepr.__repr__
    if is_brief and dataclasses.is_dataclass(x):
        name = f"{prefix if _is_ours(x) else ''}{type(x).__name__}"
        return f"{name}({', '.join(_arguments(x, prefix))})"
    return _function_name(x) or repr(x)


def _arguments(x: Any, prefix: str) -> list[str]:
    """The arguments of the call that constructs `x`: required ones, and those without defaults."""
    given = []
    fields = [field for field in dataclasses.fields(x) if field.init and field.repr]
    # Positional arguments come first. Inheritance may have put keyword-only fields before them.
    for field in sorted(fields, key=lambda field: bool(field.kw_only)):
        value = getattr(x, field.name)
        required = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        if required or not _is_default(value, field):
            # The cells of this package convert lists, which users write, to tuples, which hash.
            was_list = isinstance(value, tuple) and _is_ours(x)
            code = as_code(list(value) if was_list else value, prefix)
            given.append(code if required and not field.kw_only else f"{field.name}={code}")
    return given


def _is_ours(x: Any) -> bool:
    return type(x).__module__.startswith("jax_dynrnn.")


def _is_default(value: object, field: dataclasses.Field) -> bool:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    # The types are compared too, because 1 == True.
    return value is default or (type(value) is type(default) and bool(value == default))


def _function_name(x: Any) -> str | None:
    """Returns the name by which a function or class is imported, and `<name>` for a local one."""
    name = getattr(x, "__name__", None)
    if not callable(x) or not isinstance(name, str):
        return None
    # The __module__ of JAX's functions is private, so their public modules are searched first.
    modules = {"jnp": jnp, "jax.nn": jax.nn, "jax.lax": jax.lax}
    modules["jax.nn.initializers"] = jax.nn.initializers
    for module_name, module in modules.items():
        if getattr(module, name, None) is x:
            return f"{module_name}.{name}"
    found = importable_name(x)
    if found is None:
        return name if name.startswith("<") else f"<{name}>"
    return found if x.__module__ in ("__main__", "builtins") else f"{x.__module__}.{found}"
