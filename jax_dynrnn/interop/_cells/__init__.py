"""Adapters: cells of other frameworks as cells of this package."""
