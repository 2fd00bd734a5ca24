"""Which cells cannot be pickled for no fault of their own."""

from __future__ import annotations

import sys
from typing import Any


def unimportable(cell: Any) -> str | None:
    """Names a class or function that no import finds (pickle stores names), or `None`."""
    if not _is_importable(type(cell)):
        return f"the class {type(cell).__qualname__} has no importable name"
    for name, value in getattr(cell, "__dict__", {}).items():
        for part in value if isinstance(value, tuple | list) else (value,):
            if hasattr(part, "zero_state"):
                if (reason := unimportable(part)) is not None:
                    return reason
            elif hasattr(part, "__code__") and not _is_importable(part):
                return f"{name} is a function without an importable name: {part.__qualname__}"
    return None


def _is_importable(thing: Any) -> bool:
    found = sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is thing
