"""Params may be any mapping that is a pytree: all cells accept it, and gradients have its type."""

import collections
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import laws
import pytest
from cases import LENGTHS, B
from flax.core import FrozenDict
from laws import MASK, RESETS, close, compiled

import jax_dynrnn as rnn


@jax.tree_util.register_pytree_node_class
class Named(Mapping):
    """A minimal mapping, registered as a pytree without names for its leaves."""

    def __init__(self, items):
        self._items = dict(items)

    def __getitem__(self, name):
        return self._items[name]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)

    def tree_flatten(self):
        names = sorted(self._items)
        return [self._items[name] for name in names], names

    @classmethod
    def tree_unflatten(cls, names, leaves):
        return cls(zip(names, leaves, strict=True))


def reversed_dict(items):
    """A mapping whose leaves have another order than those of a dict."""
    return collections.OrderedDict(reversed(sorted(dict(items).items())))


def as_kind(kind, tree):
    """The tree with every mapping converted to `kind`."""
    if not isinstance(tree, Mapping):
        return tree
    return kind({name: as_kind(kind, x) for name, x in tree.items()})


@pytest.mark.where(
    lambda combination: (combination.engine, combination.dtype) == ("scan", "float64")
)
@pytest.mark.everyday(
    lambda combination: combination.engine == "scan" and not combination.case.variant
)
def test_any_mapping_gives_the_same_program(combination):
    """A call, `start`, `attend` and a run trace to the same program for every mapping type."""
    case, key = combination.case, combination.case.key()
    _, inputs, state = laws.arguments(combination)
    features = jax.tree.map(lambda x: x[:, 0], inputs)
    params = case.cell.init(jax.random.key(1), jax.tree.map(jnp.shape, inputs), combination.dtype)

    def everything(params):
        if case.memory_sizes:
            params = case.cell.attend(params, *case.memory(combination.dtype))
        start = (
            case.cell.start(params, (B,), combination.dtype)
            if hasattr(case.cell, "start")
            else None
        )
        step = case.cell(params, features, state, key=key)
        run = rnn.dynamic_rnn(case.cell, params, inputs, LENGTHS, state, key=key)
        return start, step, run

    expected = program(everything, params)
    for kind in (FrozenDict, Named):
        assert program(everything, as_kind(kind, params)) == expected


def program(f, *arguments):
    """The lines of the jaxpr of `f`, without unused results.

    Those are left by probes, whose results are cached, and so appear in the first trace only.
    """
    lines = str(jax.make_jaxpr(f)(*arguments)).splitlines()
    return [line for line in lines if not line.lstrip().startswith("_:")]


@pytest.mark.where(
    lambda combination: (
        combination.dtype == "float64" and combination.case.name in ("lstm", "attentions")
    )
)
def test_gradients_have_the_kind_of_the_params(combination):
    """Gradients have the mapping type of the params, whatever the order of its leaves."""
    params, inputs, state = laws.arguments(combination)
    expected, gradients = compiled(combination)(params, inputs, state, LENGTHS, MASK, RESETS)
    given = as_kind(reversed_dict, params)
    actual, found = compiled(combination)(given, inputs, state, LENGTHS, MASK, RESETS)
    assert jax.tree.structure(found[0]) == jax.tree.structure(given)
    close(actual, expected, combination.tolerance)
    close(as_kind(dict, found[0]), gradients[0], combination.tolerance)
