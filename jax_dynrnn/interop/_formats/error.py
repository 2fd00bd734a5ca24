"""The error of a file that cannot be read, and where in the file it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class CheckpointError(ValueError):
    """A file is truncated, corrupt, of another kind, or holds what NumPy cannot.

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
def located(where: str) -> Iterator[None]:
    """Says in front of an error's text where it was: a file, a variable."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    except MemoryError:
        raise CheckpointError(f"{where}: needs more memory than there is") from None
