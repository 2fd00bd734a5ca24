"""Cells of other frameworks, as cells of this library."""
