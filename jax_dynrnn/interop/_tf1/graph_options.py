"""Finds the options of cells in a graph: forget bias, clips and activations."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .graph import ADD, BLOCKS, PASS_ON, Graph

FUNCTIONS = {
    "Elu": jax.nn.elu, "Relu": jax.nn.relu, "Relu6": jax.nn.relu6, "Selu": jax.nn.selu,
    "Sigmoid": jax.nn.sigmoid, "Softplus": jax.nn.softplus, "Softsign": jax.nn.soft_sign,
    "Tanh": jnp.tanh,
}  # fmt: skip
"""Activation functions by their operation."""
SLOPE = 0.2
"""That of TensorFlow's `leaky_relu` below 0, where the graph does not store it. JAX's is 0.01."""
BLOCK_CLIPS = {"BlockLSTM": 3.0, "LSTMBlockCell": 3.0}
"""The `cell_clip` of these operations, where the graph does not store it."""
CLIPS = {"Minimum": 1, "ClipByValue": 2}
"""Operations that clip, and which of their inputs is the upper bound."""
RESULTS = (
    "ConcatV2", "MatMul", "NextIteration", "Select", "SelectV2", "TensorArrayWriteV3",
    "TensorListSetItem",
)  # fmt: skip
"""Operations that receive what a step returns, those of the next cell of a stack among them."""
SUMS = ("BiasAdd", *ADD)
OPS = (*FUNCTIONS, *CLIPS, *RESULTS, *SUMS, "LeakyRelu", "Maximum", "Mul", "Split", "Sub")
"""All operations that are looked at here."""
OPTIONS = {"activation", "forget_bias", "cell_clip", "proj_clip", "y_activation"}
"""The options of cells that variables do not show."""

ACTIVATED = {
    "BasicRNNCell": ("kernel",),
    "CudnnCompatibleGRUCell": ("candidate/input_projection/kernel",),
    "GRUCell": ("candidate/kernel",),
    "IndRNNCell": ("kernel_w",),
}
"""Cells with one activation, and the kernel whose product it is applied to, in a sum."""
GATED = {
    "CoupledInputForgetGateLSTMCell": (0, 1),
    "IndyLSTMCell": (1, 2),
    "LSTMCell": (1, 2),
    "LayerNormBasicLSTMCell": (1, 2),
    "LayerNormLSTMCell": (1, 2),
    "UGRNNCell": (1, 0),
}
"""Cells with gates side by side: the positions of the candidate and of the forget gate."""

Variables = Mapping[str, list[str]]
"""The names of the shards of a cell's variables, by canonical name in the scope of the cell."""


class Gates:
    """The candidate and the forget gate of a cell whose gates are computed side by side."""

    def __init__(self, graph: Graph, class_name: str, variables: Variables):
        self._graph, self._variables = graph, variables
        candidate, forget = GATED[class_name]
        product = product_of(graph, variables)
        sums = [product, *graph.after([product], SUMS)] if product else []
        split = next(graph.using(sums, ("Split",)), None)
        self.candidate = split and self._normalised("transform", split, candidate)
        self.forget = split and self._normalised("forget", split, forget)

    def _normalised(self, name: str, split: str, position: int) -> str | None:
        """The output of a split, or its layer norm."""
        if f"{name}/beta" in self._variables:
            return self.norm(name)
        return f"{split}:{position}" if position else split

    def norm(self, name: str) -> str | None:
        """The output of a layer norm: the sum with its `beta`."""
        shards = self._graph.shards(self._variables.get(f"{name}/beta", []))
        added = [*shards, *self._graph.after(shards, (*PASS_ON, "ConcatV2", "Sub"))]
        return next(self._graph.using(added, ADD), None)

    def forget_sums(self) -> list[str]:
        """The sums of the forget gate with its bias and with peepholes."""
        return list(self._graph.after([self.forget], ADD)) if self.forget else []

    def forget_sigmoid(self) -> str | None:
        """The activation of the forget gate."""
        sums = [self.forget, *self.forget_sums()] if self.forget else []
        return next(self._graph.using(sums, ("Sigmoid",)), None)

    def new_state(self) -> list[str]:
        """The sum of old state and candidate, both multiplied by their gates, and its norm."""
        candidate = [self.candidate] if self.candidate else []
        functions = (*FUNCTIONS, "Identity", "LeakyRelu")
        activated = [*candidate, *self._graph.using(candidate, functions)]
        products = list(self._graph.using(activated, ("Mul",)))
        norm = self.norm("state")
        return [*self._graph.using(products, ADD), *([norm] if norm else [])]


def product_of(graph: Graph, variables: Variables) -> str | None:
    """The operation that multiplies a cell's inputs with its kernel."""
    names = ("gates/kernel", "gates/kernel_w", "kernel", "kernel_w", "candidate/kernel")
    shards = next((variables[name] for name in names if name in variables), None)
    return graph.product(shards) if shards else None


def options(graph: Graph, class_name: str, variables: Variables) -> dict[str, Any] | None:
    """The options of a cell; `None` if its operations are not found."""
    product = product_of(graph, variables)
    if product is None:
        return None
    if graph.op(product) in BLOCKS:
        return _block_options(graph, product)
    if class_name in GATED:
        return _gated_options(graph, Gates(graph, class_name, variables), variables)
    kernels = [variables[name] for name in ACTIVATED.get(class_name, ()) if name in variables]
    product = graph.product(kernels[0]) if kernels else None
    if product is None:
        return None
    return _activation(graph, [product, *graph.after([product], SUMS)][-1])


def _block_options(graph: Graph, block: str) -> dict[str, Any]:
    """The options of an operation that is a whole cell."""
    if "LSTM" not in graph.op(block):
        return {}
    # The second version has no forget bias: it is in the bias.
    forget_bias = 0.0 if graph.op(block) == "BlockLSTMV2" else 1.0
    clip = graph.attribute(block, "cell_clip", BLOCK_CLIPS.get(graph.op(block), 0.0))
    found = {"forget_bias": _rounded(graph.attribute(block, "forget_bias", forget_bias))}
    return found | ({"cell_clip": _rounded(clip)} if clip > 0 else {})


def _gated_options(graph: Graph, gates: Gates, variables: Variables) -> dict[str, Any] | None:
    """The options of a cell with gates side by side."""
    found = _activation(graph, gates.candidate) if gates.candidate else None
    if found is None or gates.forget_sigmoid() is None:
        return None
    added = map(graph.constant, gates.forget_sums())
    # A sum with 0 may have been optimised away.
    found["forget_bias"] = _rounded(next((x for x in added if x is not None), 0.0))
    projected = graph.product(variables.get("projection/kernel", []))
    clips = {
        "proj_clip": _clip(graph, [projected] if projected else []),
        "cell_clip": _clip(graph, gates.new_state()),
    }
    return found | {name: clip for name, clip in clips.items() if clip is not None}


def _activation(graph: Graph, source: str) -> dict[str, Any] | None:
    """The activation that is applied to an output, as an option; `None` if it is not known."""
    through = [source, *graph.after([source], ("Identity",))]
    found = list(graph.using(through, (*FUNCTIONS, *RESULTS, "LeakyRelu", "Maximum", "Mul", "Sub")))
    ops = {graph.op(name) for name in found}
    if len(ops) == 1 and ops <= set(FUNCTIONS):
        function = FUNCTIONS[ops.pop()]
        return {} if function is jnp.tanh else {"activation": function}
    if ops == {"LeakyRelu"}:
        slope = _rounded(graph.attribute(found[0], "alpha", SLOPE))
        return {"activation": functools.partial(jax.nn.leaky_relu, negative_slope=slope)}
    # Without an activation, the output is multiplied by a gate, or is what the step returns. Other
    # functions are products with constants, or with their input.
    products = [name for name in found if graph.op(name) == "Mul"]
    composite = any(_is_composite(graph, name, through) for name in products)
    if found and ops <= {"Mul", *RESULTS} and not composite:
        return {"activation": jax.nn.identity}
    return None


def _is_composite(graph: Graph, product: str, sources: Iterable[str]) -> bool:
    """Whether a product is a part of a function of `sources`."""
    others = [x for x in graph.inputs(product) if x not in sources]
    return not others or graph.constant(product) is not None


def _clip(graph: Graph, sources: list[str]) -> float | None:
    """The bound that an output is clipped to; `None` if it is not."""
    for name in graph.using(sources, CLIPS):
        bounds = graph.inputs(name)[CLIPS[graph.op(name)] :]
        bound = graph.uniform(bounds[0]) if bounds else None
        # The two inputs of a minimum may be swapped.
        bound = graph.constant(name) if bound is None else bound
        if bound is not None:
            return _rounded(bound)
    return None


def _rounded(value: float) -> float:
    """A number as it was written: TensorFlow stores 32 bits, in which 0.7 is 0.699999988."""
    return float(f"{value:.7g}")
