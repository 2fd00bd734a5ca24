"""The fast engine in plain JAX: tiles of rows, blocks of steps, one matmul for each gradient."""

from .engine import Blocked as Blocked
