"""Cells with collectives in their steps, under `jax.shard_map` and `vmap`.

`blocked` sorts rows and stops early on each device, so that collectives over the axis of the rows
would mix other rows or wait forever. It refuses them.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from laws import close

import jax_dynrnn as rnn


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Mixing(rnn.BasicRNNCell):
    """A vanilla RNN that applies `mix` to its new state."""

    mix: Any = jnp.tanh

    def pointwise(self, params, projected, recurred, state):
        new = self.mix(super().pointwise(params, projected, recurred, state)[0])
        return new, new


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class MixesInputs(rnn.BasicRNNCell):
    """A vanilla RNN with a collective in `project`."""

    def project(self, params, inputs):
        return super().project(params, jax.lax.pmean(inputs, "rows"))


def mean(x):
    return jax.lax.pmean(x, "rows")


def in_a_loop(x):
    return jax.lax.scan(lambda x, _: (x + mean(x), None), x, None, length=2)[0]


def in_a_branch(x):
    return jax.lax.cond(x.sum() > 0, mean, lambda x: mean(x) * 2, x)


def with_its_own_derivative(x):
    f = jax.custom_jvp(mean)
    f.defjvp(lambda x, dx: (mean(*x), mean(*dx)))
    return f(x)


COLLECTIVES = {
    "psum": functools.partial(jax.lax.psum, axis_name="rows"),
    "pmax": lambda x: jax.lax.pmax(jax.lax.stop_gradient(x), "rows"),
    "all_gather": lambda x: jax.lax.all_gather(x, "rows").mean(0),
    "ppermute": functools.partial(jax.lax.ppermute, axis_name="rows", perm=[(0, 1), (1, 0)]),
    "all_to_all": lambda x: jax.lax.all_to_all(x, "rows", 1, 1, tiled=True),
    "psum_scatter": lambda x: jax.lax.all_gather(
        jax.lax.psum_scatter(x, "rows", scatter_dimension=1, tiled=True), "rows", axis=1, tiled=True
    ),
    "axis_index": lambda x: x * (1 + jax.lax.axis_index("rows")).astype(x.dtype),
    "in_a_loop": in_a_loop,
    "in_a_branch": in_a_branch,
    "in_jit": jax.jit(mean),
    "checkpoint": jax.checkpoint(mean),
    "custom_jvp": with_its_own_derivative,
}
CELLS = {
    **{name: Mixing(4, mix=f) for name, f in COLLECTIVES.items()},
    "in_project": MixesInputs(4),
    "in_a_stack": rnn.MultiRNNCell([rnn.GRUCell(4), Mixing(4, mix=mean)]),
    "around": rnn.ResidualWrapper(rnn.GRUCell(3), residual_fn=lambda x, y: x + mean(y)),
}

INPUTS = np.random.default_rng(0).normal(size=(8, 130, 3))
LENGTHS = np.array([130, 3, 40, 0, 9, 60, 1, 2], np.int32)


def init(cell):
    """Params of a cell, created outside of `shard_map`: none depends on `mix`."""
    return cell.init(jax.random.key(0), INPUTS.shape, jnp.float64)


def on_two_devices(f, check_vma, axes=("rows",)):
    """`f(params, inputs, lengths)` with the rows on two devices."""
    rows = P("rows")
    sizes = (2,) * len(axes)
    devices = jax.devices()[: 2 ** len(axes)]
    mesh = jax.make_mesh(sizes, axes, (AxisType.Auto,) * len(axes), devices=devices)
    specs = {"in_specs": (P(), rows, rows), "out_specs": rows, "check_vma": check_vma}
    return jax.jit(jax.shard_map(f, mesh=mesh, **specs))


def reason(cell, check_vma):
    """The reason why `blocked` refuses a cell with rows on two devices, or `None`."""
    found = []

    def f(params, inputs, lengths):
        found.append(rnn.explain(cell, params, inputs, lengths).reasons["blocked"])
        return inputs

    on_two_devices(f, check_vma).trace(init(cell), INPUTS, LENGTHS)
    return found[0]


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_a_collective_over_the_rows_is_refused(name, check_vma):
    """`blocked` finds a collective anywhere in the step, in loops, branches and nested calls."""
    assert "a collective over the axis 'rows'" in (reason(CELLS[name], check_vma) or "")


@pytest.mark.parametrize("check_vma", [True, False])
def test_cells_without_a_collective_over_the_rows_are_supported(check_vma):
    """The same cell without a collective, or with one over its own `vmap` axis, is supported."""
    centred = jax.vmap(lambda y: y - jax.lax.pmean(y, "units"), 1, 1, axis_name="units")
    own = Mixing(4, mix=centred)
    assert [reason(cell, check_vma) for cell in (Mixing(4), own)] == [None, None]


def test_a_collective_is_refused_if_blocked_is_requested():
    """`implementation='blocked'` raises `NotImplementedError` with the reason."""

    def f(params, inputs, lengths):
        return rnn.dynamic_rnn(
            CELLS["psum"], params, inputs, lengths, implementation="blocked"
        )[0]  # fmt: skip

    with pytest.raises(NotImplementedError, match="a collective over the axis 'rows'"):
        on_two_devices(f, True).trace(init(CELLS["psum"]), INPUTS, LENGTHS)


@pytest.mark.parametrize("name", ["custom_jvp", "in_project", "around"])
def test_ragged_batches_on_two_devices_equal_scan(name):
    """Rows of different lengths on two devices have the results of `scan` under `vmap`.

    `explain` outside of `shard_map` comes first: its cached answer must not be used inside.
    """
    cell = CELLS[name]
    params = init(cell)
    assert rnn.explain(cell, params, INPUTS, LENGTHS).reasons["blocked"] is None

    def f(params, inputs, lengths, engine=None):
        return rnn.dynamic_rnn(cell, params, inputs, lengths, implementation=engine)[0]

    def by_vmap(params, inputs, lengths):
        halves = inputs.reshape(2, 4, *inputs.shape[1:]), lengths.reshape(2, 4)
        run = functools.partial(f, params, engine="scan")
        return jax.vmap(run, axis_name="rows")(*halves).reshape(8, 130, -1)

    expected = jax.jit(by_vmap)(params, INPUTS, LENGTHS)
    close(on_two_devices(f, True)(params, INPUTS, LENGTHS), expected, 1e-12)


def test_a_collective_over_an_axis_of_vmap_is_refused():
    """Under `vmap`, `blocked` runs its problems sequentially, so that they cannot communicate."""
    found = []

    def f(inputs, lengths):
        found.append(rnn.explain(CELLS["psum"], params, inputs, lengths).reasons["blocked"])
        return inputs

    params = init(CELLS["psum"])
    jax.vmap(f, axis_name="rows")(INPUTS[None], LENGTHS[None])
    assert "a collective over the axis 'rows'" in (found[0] or "")


def gathered(x):
    return jax.lax.all_gather(x * one_plus_axis_index(x), "units").mean(0)


def summed(x):
    return jax.lax.psum(x * one_plus_axis_index(x), "units")


def one_plus_axis_index(x):
    return 1 + jax.lax.axis_index("units").astype(x.dtype)


@pytest.mark.parametrize("mix, refused", [(gathered, False), (summed, True)])
def test_an_axis_that_the_rows_do_not_vary_over(mix, refused):
    """A collective over another mesh axis is supported, unless it changes the varying type."""
    cell, reasons = Mixing(4, mix=lambda x: jnp.tanh(mix(x))), []
    params = init(cell)

    def gradient(engine):
        def run(params, inputs, lengths):
            if not refused:  # params then vary over the axis of the units
                params = jax.lax.pcast(params, "units", to="varying")
            reasons.append(rnn.explain(cell, params, inputs, lengths).reasons["blocked"])
            y = rnn.dynamic_rnn(cell, params, inputs, lengths, implementation=engine)[0]
            return jax.lax.pmean(y, "units")

        run = on_two_devices(run, True, axes=("rows", "units"))
        return jax.grad(lambda p: (run(p, INPUTS, LENGTHS) ** 2).sum())(params)

    expected = gradient("scan")
    assert (reasons[0] is not None) == refused
    close(gradient(None if refused else "blocked"), expected, 1e-10)
