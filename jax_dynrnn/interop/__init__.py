"""Weights of other frameworks as params, and back."""

from . import checkpoint as checkpoint
