"""The error of a file that cannot be read, and its location in the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class CheckpointError(ValueError):
    """A file is truncated, corrupt, of another format, or holds values that NumPy cannot represent.

    Example:
        >>> import tempfile, pathlib
        >>> from jax_dynrnn.interop import checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pathlib.Path(folder, "model.index").write_bytes(b"no table")
        ...     try:
        ...         checkpoint.read_checkpoint(f"{folder}/model")
        ...     except checkpoint.CheckpointError as error:
        ...         print(str(error).partition("model.index: ")[2])
        expected a table of at least 48 bytes, got 8: the file is truncated, or no checkpoint
    """


@contextlib.contextmanager
def error_context(location: str) -> Iterator[None]:
    """Prefixes the message of an error with its location: a file, or a variable in it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{location}: {error}") from None
    except MemoryError:
        raise CheckpointError(f"{location}: needs more memory than there is") from None
