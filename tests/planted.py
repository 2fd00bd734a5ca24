"""The faults of `faults.py`: a pytest plugin that plants the fault named by an env variable.

Each fault is a function of this file that replaces a function of the package by a wrong one,
wherever the package refers to it. So no fault depends on the source text of a line, and an editor
that renames a function renames it here too.
"""

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_dynrnn import _memoize, _rnn, attention, cells, sequence, wrappers
from jax_dynrnn._composition import Around
from jax_dynrnn.cells import _lstm, _norm
from jax_dynrnn.engines import draws, exporters, masks, request, scan
from jax_dynrnn.engines.blocked import backward, blocks, tiling
from jax_dynrnn.engines.staged import batching, linearize, parts, preactivations, split_cell
from jax_dynrnn.interop import torch
from jax_dynrnn.interop._keras import connections
from jax_dynrnn.interop._layouts import convert
from jax_dynrnn.interop._tf1 import graph_runs
from jax_dynrnn.wrappers import dropout

VARIABLE = "JAX_DYNRNN_FAULT"
FAULTS: dict[str, Callable[[], None]] = {}
TESTS: dict[str, str] = {}
"""By fault, the test that should catch it, below `tests/`."""


def pytest_configure(config):
    if (name := os.environ.get(VARIABLE)) is not None:
        FAULTS[name]()


def fault(test: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers a fault, with its docstring as its name, and the test that should catch it."""

    def register(plant):
        name = inspect.getdoc(plant)
        assert name is not None and name not in FAULTS
        FAULTS[name] = plant
        TESTS[name] = test
        return plant

    return register


def replace(right: Callable, wrong: Callable) -> None:
    """Replaces `right` by `wrong` in every module and class of the package."""
    modules = [module for name, module in sys.modules.items() if name.startswith("jax_dynrnn")]
    classes = {x for module in modules for x in vars(module).values() if isinstance(x, type)}
    found = [
        (owner, name)
        for owner in (*modules, *(c for c in classes if c.__module__.startswith("jax_dynrnn")))
        for name, x in vars(owner).items()
        if x is right
    ]
    assert found, f"nothing in the package refers to {right}"
    for owner, name in found:
        setattr(owner, name, wrong)


# Masks and resets.


@fault("test_loop.py::test_outputs_and_state")
def _():
    """mask off by one"""
    right = sequence.sequence_mask

    def wrong(lengths, maxlen=None, dtype=bool):
        return right(jnp.asarray(lengths) + 1, maxlen, dtype)

    replace(right, wrong)


@fault("test_loop.py::test_reverse")
def _():
    """reverse ignoring lengths"""
    right = _rnn._with_arrays

    def wrong(request):
        lengths = None if request.reverse else request.lengths
        return right(dataclasses.replace(request, lengths=lengths))

    replace(right, wrong)


@fault("test_loop.py::test_resets_in_reverse")
def _():
    """reset on the wrong side of a step in reverse"""
    replace(masks._between_steps, lambda resets, reverse: resets)


@fault("test_loop.py::test_a_reset_in_a_gap_waits")
def _():
    """reset at an invalid step ignored"""
    right = masks._between_steps
    replace(masks._at_valid_steps, lambda resets, valid, reverse: valid & right(resets, reverse))


@fault("test_loop.py::test_rank_0_leaves_are_updated_up_to_the_longest_row")
def _():
    """rank-0 leaves updated at every step"""
    replace(masks._scalar_update_steps, lambda request, valid: None)


@fault("test_laws.py::test_padding_changes_nothing")
def _():
    """first valid step taken at t = 0 under a mask"""
    right = masks.first_valid_step

    def wrong(masks, inputs, time_axis):
        return right(dataclasses.replace(masks, first=None), inputs, time_axis)

    replace(right, wrong)


# The reference engine.


@fault("test_loop.py::test_outputs_and_state")
def _():
    """final state from step T, outputs not zeroed"""
    replace(scan._select, lambda flags, yes, no, updates=None: yes)


@fault("test_laws.py::test_gradients_are_finite_differences")
def _():
    """NaN as the input of padded steps"""

    right = masks.first_valid_step

    def wrong(masks, inputs, time_axis):
        return jax.tree.map(lambda x: x * jnp.nan, right(masks, inputs, time_axis))

    replace(right, wrong)


@fault("test_loop.py::test_keys_depend_on_the_index_of_the_step")
def _():
    """key not folded"""
    replace(request._Batch.step_key, lambda self, t: self.key)


# Cells.


@fault("test_golden.py")
def _():
    """reset after instead of before the matmul"""

    def wrong(self, params, projected, state):
        kernels = [params[name]["kernel"][-self.num_units :] for name in ("gates", "candidate")]
        gates, candidate = projected
        recurred = yield state, kernels[0]
        reset, update = jnp.split(jax.nn.sigmoid(gates + recurred), 2, -1)
        recurred = yield state, kernels[1]
        new = jnp.tanh(candidate + reset * recurred)
        new = update * state + (1 - update) * new
        return new, new

    replace(cells.GRUCell.stages, wrong)


@fault("test_dropout.py::test_recurrent_dropout_agrees_with_numpy")
def _():
    """recurrent dropout missing from the reset state"""

    def wrong(self, params, projected, state):
        kernels = [params[name]["kernel"][-self.num_units :] for name in ("gates", "candidate")]
        gates, candidate = projected
        recurred = yield self.recurrent_input(state), kernels[0]
        reset, update = jnp.split(jax.nn.sigmoid(gates + recurred), 2, -1)
        recurred = yield reset * state, kernels[1]
        activation = self.activation or jnp.tanh
        new = update * state + (1 - update) * activation(candidate + recurred)
        return new, new

    replace(cells.GRUCell.stages, wrong)


@fault("test_dropout.py::test_recurrent_dropout_agrees_with_numpy")
def _():
    """recurrent dropout of the carried state"""
    right = cells.GRUCell.stages

    def wrong(self, params, projected, state):
        return right(self, params, projected, self.recurrent_input(state))

    replace(right, wrong)


@fault("test_golden.py")
def _():
    """forget bias dropped"""
    right = _lstm.LSTM.memory

    def wrong(self, params, gates, c):
        i, j, f = gates
        return right(self, params, [i, j, f - self.forget_bias], c)

    replace(right, wrong)


@fault("test_golden.py")
def _():
    """two gates swapped"""
    right = _lstm.LSTM.memory
    replace(right, lambda self, params, gates, c: right(self, params, [gates[0], *gates[:0:-1]], c))


@fault("test_golden.py")
def _():
    """clip after the output peephole"""

    def wrong(self, params, projected, recurred, state):
        gates = jnp.split(projected + recurred, len(self.GATES), -1)
        *gates, o = [
            self.normalized(params, name, x) for name, x in zip(self.GATES, gates, strict=True)
        ]
        c = self.normalized(params, "state", self.memory(params, gates, state.c))
        o = jax.nn.sigmoid(self.peep(params, "w_o_diag", o, c))
        c = _lstm.clip(c, self.cell_clip)
        m = o * self.activate(c)
        return m, type(state)(c, m)

    replace(_lstm.LSTM.pointwise, wrong)


@fault("test_transcriptions.py")
def _():
    """a gate normalised with the wrong gain"""
    right = _norm.LayerNormLSTM.normalized
    replace(
        right,
        lambda self, params, name, x: right(self, params, "forget" if self.layer_norm else name, x),
    )


@fault("cells/test_attention.py")
def _():
    """a memory attended to beyond its length"""
    right = attention.Mechanism.__call__

    replace(
        right,
        lambda self, params, query, attended, *more, **options: right(
            self, params, query, attended._replace(valid=None), *more, **options
        ),
    )


# Wrappers.


@fault("test_dropout.py::test_output_dropout_leaves_the_state")
def _():
    """output dropout leaking into the state"""
    right = dropout.DropoutWrapper.step

    def wrong(self, params, projected, state, *, key=None):
        output, state = right(self, params, projected, state, key=key)
        return output, state._replace(h=output) if hasattr(state, "h") else output

    replace(right, wrong)


@fault("test_transcriptions.py::test_results")
def _():
    """zoneout with old and new state swapped"""
    right = wrappers.ZoneoutWrapper._mix
    replace(right, lambda self, key, i, old, new: right(self, key, i, new, old))


@fault("test_composition.py")
def _():
    """all layers of a stack with one key"""
    right = parts._layers
    replace(right, lambda stack: [(cell, of, lambda key: key) for cell, of, _ in right(stack)])


@fault("test_dropout.py::test_kept_values_are_scaled")
def _():
    """a wrapper's work after the step ignored"""
    replace(Around.work_after, lambda self, params, saved, output, key: output)


# The engine `blocked`.


@fault("test_blocked.py::test_many_blocks")
def _():
    """blocks of the backward pass in the order of the forward pass"""
    right = blocks.Blocks.repeat

    def wrong(self, tile, body, carry, backward=False):
        return right(self, tile, body, carry)

    replace(right, wrong)


@fault("test_blocked.py::test_sizes_that_tiles_do_not_divide")
def _():
    """rows written in sorted order"""

    replace(
        tiling.Tiling.write_rows,
        lambda self, buffer, y, tile: jax.lax.dynamic_update_slice_in_dim(
            buffer, y, self.first_row(tile), 0
        ),
    )


@fault("test_blocked.py::test_sizes_that_tiles_do_not_divide")
def _():
    """a tile that ends at its shortest row"""
    replace(tiling.Tiling.longest, lambda self, tile: self.own_ends(tile).min())


@fault("test_blocked.py::test_sizes_that_tiles_do_not_divide")
def _():
    """steps shared by two blocks counted twice"""
    right = tiling.Tiling.valid

    def wrong(self, tile, block):
        t = self.start(block) + jnp.arange(self.steps, dtype=jnp.int32)
        return right(self, tile, block) | (t[:, None] < self.own_ends(tile)[None])

    replace(right, wrong)


@fault("test_blocked.py::test_sizes_that_tiles_do_not_divide")
def _():
    """rows shared by two tiles run by both"""

    def wrong(self, tile):
        return jax.lax.dynamic_slice_in_dim(self.ends, self.first_row(tile), self.rows)

    replace(tiling.Tiling.own_ends, wrong)


@fault("test_blocked.py::test_many_blocks_with_mask_and_resets")
def _():
    """a reset that lets a gradient through"""
    right = backward.BlockVJP._step

    def wrong(self, operands, carry, x):
        vjp, d_y, valid, _ = x
        return right(self, operands, carry, (vjp, d_y, valid, None))

    replace(right, wrong)


@fault("test_composition.py")
def _():
    """gradients that leave out what a block adds to the start state"""
    right = backward.BlockVJP.run

    def wrong(self, saved, d_outputs, d_state):
        d_state, d_start, d_weights, d_inputs = right(self, saved, d_outputs, d_state)
        return d_state, jax.tree.map(jnp.zeros_like, d_start), d_weights, d_inputs

    replace(right, wrong)


@fault("test_blocked.py::test_many_blocks")
def _():
    """gradients of kernels with wrong operands"""
    right = split_cell.kernel_cotangent
    replace(right, lambda operand, d_product: right(operand + 1, d_product))


@fault("test_blocked.py::test_many_blocks")
def _():
    """one added to the cotangents of the elementwise weights"""
    right = backward.BlockVJP._sum_cotangents

    def wrong(self, vjp, cotangents, residuals):
        d_elementwise, *others = right(self, vjp, cotangents, residuals)
        return [d + 1 for d in d_elementwise], *others

    replace(right, wrong)


@fault("test_blocked.py::test_preactivations_in_some_columns")
def _():
    """a pre-activation in the wrong columns"""
    right = preactivations.Preactivation.sum

    def wrong(self, projected, product):
        total = right(self, projected, product)
        return total if self.covers_all_columns else projected + product

    replace(right, wrong)


@fault("test_transforms.py::test_second_order")
def _():
    """a derivative that omits the tangents of the params"""
    right = linearize._derivative

    def wrong(passes, x, constants, residuals, y, x_tangents):
        params, *others = x_tangents
        none = jax.tree.map(jnp.zeros_like, params)
        return right(passes, x, constants, residuals, y, (none, *others))

    replace(right, wrong)


@fault("test_laws.py::test_vmap_is_a_loop")
def _():
    """the first problem's result for all under vmap"""
    right = batching.sequential_under_vmap

    def wrong(f, batched=None):
        function = jax.custom_batching.custom_vmap(f)

        @function.def_vmap
        def _(size, is_mapped, *arguments):
            first = jax.tree.map(lambda x, m: x[0] if m else x, arguments, tuple(is_mapped))
            out = function(*first)
            out = jax.tree.map(lambda y: jnp.broadcast_to(y, (size, *y.shape)), out)
            return out, jax.tree.map(lambda _: True, out)

        return function

    replace(right, wrong)


@fault("test_draws.py::test_draws_are_those_of_one_device")
def _():
    """every device draws the random numbers of the first rows"""
    right = draws.RowDraws.key
    replace(right, lambda self, key, part: right(self, key, part * 0))


@fault("test_mesh.py::test_rows_of_each_device_have_the_results_of_one_device")
def _():
    """rank-0 leaves updated up to the longest row of each device"""
    right = masks._scalar_update_steps

    def wrong(request, valid):
        return right(dataclasses.replace(request, row_axes=None), valid)

    replace(right, wrong)


@fault("test_blocked.py::test_tracers_that_a_cell_closes_over")
def _():
    """a cell that closes over tracers run by two passes"""
    replace(split_cell.closes_over_arrays, lambda run: False)


@fault("test_eager_decoding.py::test_plain_functions_see_variables_that_have_changed")
def _():
    """decoders called eagerly reuse the program of a function that reads other variables now"""
    right = _memoize.run_compiled
    code = {}

    def wrong(loop, cell, options, functions, arrays):
        # A jitted function per code object, as if equal code meant equal functions.
        same = [code.setdefault(getattr(f, "__code__", f), jax.jit(f)) for f in functions if f]
        return right(loop, cell, options, (*same, *functions[len(same) :]), arrays)

    replace(right, wrong)


@fault("test_engines.py::test_exported_to_onnx")
def _():
    """a reversed run exported to ONNX without turning the outputs around"""
    right = scan._scan

    def wrong(step, state, xs, **options):
        state, ys = right(step, state, xs, **options)
        return state, jax.tree.map(jnp.flipud, ys) if exporters.exporter() else ys

    replace(right, wrong)


# Weights of other frameworks.


@fault("interop/test_weights_keras.py")
def _():
    """the output gate of an LSTM always a sigmoid"""
    right = _lstm.LSTM.pointwise

    def wrong(self, params, projected, recurred, state):
        output, new = right(self, params, projected, recurred, state)
        if self.recurrent_activation is None:
            return output, new
        *_, o = jnp.split(projected + recurred, len(self.GATES), -1)
        m = jax.nn.sigmoid(self.peep(params, "w_o_diag", o, new.c)) * self.activate(new.c)
        return m, new._replace(h=m)

    replace(right, wrong)


@fault("interop/test_weights_jax.py")
def _():
    """the forget bias not moved out of the bias of other frameworks"""
    right = convert._format_of
    replace(right, lambda framework: right(framework)._replace(forget_bias=lambda layer: 0.0))


@fault("interop/test_weights_torch.py")
def _():
    """the gates of PyTorch in TF1's order"""
    torch.GATES["lstm"] = "igfo"


@fault("interop/test_tf1_files.py")
def _():
    """the time axis of a graph's run not read"""
    replace(graph_runs.time_major, lambda graph, kernels: False)


@fault("interop/test_keras_models.py")
def _():
    """the layers in a TimeDistributed run without it"""
    right = connections.inside_time_distributed
    replace(right, lambda layer: (right(layer)[0], 0))
