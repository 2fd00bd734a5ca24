"""Finds in a graph what surrounds a cell: residual connections, initial states, the time axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .graph import ADD, BLOCKS, PASS_ON, Graph
from .graph_options import (
    CLIPS,
    FUNCTIONS,
    GATED,
    RESULTS,
    SUMS,
    Gates,
    Variables,
    product_of,
)

READS = {"TensorArrayReadV3": 2, "TensorListGetItem": 0}
"""Operations that read the inputs of a step, and which of their inputs those of the run are in."""
UNSTACKED = {"TensorArrayScatterV3": 2, "TensorListFromTensor": 0}
"""Operations that split the inputs of a run into steps, and which of their inputs these are."""
DROPOUT = ("Mul", "RealDiv", "SelectV2", *PASS_ON)
BROADCAST = ("BroadcastTo", "ExpandDims", "Pack", "Reshape", "Squeeze", "Tile", *PASS_ON)
"""Operations that make a row the state of every row of a batch."""
NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
FUSED_EPSILON = 1e-4
"""That of these operations, where the graph does not store it."""
WRITES = ("MatMul", "TensorArrayWriteV3", "TensorListSetItem")
"""Operations that receive the output of a cell, and not its state."""
OPS = (*READS, *UNSTACKED, *DROPOUT, *BROADCAST, *RESULTS, *NORMS, "ConcatV2", "Transpose")
"""All operations that are looked at here."""
STEP = (*FUNCTIONS, *CLIPS, *DROPOUT, *SUMS, "LeakyRelu", "MatMul", "Maximum", "Split", "Sub")
"""Operations between the product in a cell and its output."""
BLOCK_STATES = {"BlockLSTM": (2, 3), "BlockLSTMV2": (2, 3), "LSTMBlockCell": (1, 2)}
BLOCK_STATES |= {"GRUBlockCell": (1,)}
"""Which inputs of an operation that is a whole cell are the state: `c` and `h`, or the only one."""


def time_major(graph: Graph, kernels: Iterable[list[str]]) -> bool | None:
    """Whether time is the first axis of a run's inputs; `None` if its loop is not found.

    Args:
        graph: of the model.
        kernels: the names of its cells' kernels, or of the shards of each.
    """
    for shards in kernels:
        product = graph.product(shards)
        if product and graph.op(product).startswith("BlockLSTM"):
            return True
        for source in (
            graph.before(product, (*BLOCKS, "ConcatV2", "MatMul", *DROPOUT)) if product else ()
        ):
            inputs = _unstacked(graph, source)
            if inputs is not None:
                return inputs
    return None


def _unstacked(graph: Graph, step: str) -> bool | None:
    """Whether the inputs are split into steps without a transposition in the run's own scope."""
    position = READS.get(graph.op(step))
    given = graph.inputs(step)[position:] if position is not None else ()
    unstack = graph.origin(given[0]) if given else ""
    position = UNSTACKED.get(graph.op(unstack))
    values = graph.inputs(unstack)[position:] if position is not None else ()
    if not values:
        return None
    value = values[0]
    # The user's own transposition makes inputs of a run that has time first.
    scope = unstack.partition("/TensorArrayUnstack")[0]
    return not (graph.op(value) == "Transpose" and value.startswith(f"{scope}/transpose"))


def is_residual(graph: Graph, variables: Variables) -> bool:
    """Whether the inputs of a cell are added to its outputs."""
    product, inputs, _ = _step(graph, variables)
    if product is None or inputs is None:
        return False
    sums = set(graph.using(graph.before(inputs, DROPOUT), ADD))
    return any(name in sums for name in graph.after(graph.outputs(product), STEP))


def _step(graph: Graph, variables: Variables) -> tuple[str | None, str | None, str | None]:
    """The product in a cell's step, the inputs of the cell, and the state `h`."""
    product = product_of(graph, variables)
    given = graph.inputs(product) if product else ()
    if product is None or not given:
        return product, None, None
    if graph.op(product) in BLOCKS:
        return product, given[0], None
    joined = graph.inputs(given[0]) if graph.op(given[0]) == "ConcatV2" else ()
    if joined:
        # The last input of a concatenation is its axis.
        return (product, *joined[:2]) if len(joined) == 3 else (product, None, None)
    # Some cells multiply inputs and state by different kernels.
    return product, given[0], None


def initial_state(graph: Graph, class_name: str, variables: Variables) -> dict[str, str]:
    """What each leaf of a cell's state is at first; empty if it is not known.

    Returns:
        Outputs of operations, by the names `c` and `h`, or `state`.
    """
    product, _, h = _step(graph, variables)
    op = graph.op(product) if product else ""
    if product and op in BLOCK_STATES:
        given = graph.inputs(product)
        leaves = [given[i] for i in BLOCK_STATES[op] if i < len(given)]
    elif class_name in GATED and class_name != "UGRNNCell":
        gate = Gates(graph, class_name, variables).forget_sigmoid()
        product = next(graph.using([gate] if gate else [], ("Mul",)), None)
        c = next((x for x in graph.inputs(product) if x != gate), None) if product else None
        leaves = [c, h]
    else:
        leaves = [h]
    names = ("c", "h") if len(leaves) == 2 else ("state",)
    named = dict(zip(names, leaves, strict=False))
    return {} if None in leaves else {name: graph.origin(x) for name, x in named.items() if x}


def broadcast_row(graph: Graph, state: str, is_row: Callable[[str], bool]) -> str | None:
    """The variable that is the state of every row of a batch; `None` if there is none."""
    for source in graph.before(state, (*BROADCAST, *ADD, "Mul", "MatMul")):
        node = graph.node(source)
        is_factor = node is not None and node.op in ("Mul", "MatMul")
        # Zeros are added, and ones multiplied, only for the shape.
        neutral = 1.0 if is_factor else 0.0
        if node and node.op in (*ADD, "Mul", "MatMul") and graph.constant(source) != neutral:
            return None
        if is_row(source):
            return source
    return None


def returns_attention(graph: Graph, kernel: list[str]) -> bool | None:
    """Whether the output of a cell is its attention, not that of the cell inside.

    Args:
        graph: of the model.
        kernel: of the only attention layer.

    Returns:
        `None` if this is not found.
    """
    attention = graph.product(kernel)
    joined = graph.inputs(attention)[0] if attention else ""
    inner = graph.inputs(joined)[:1] if graph.op(joined) == "ConcatV2" else ()
    for output, is_attention in ((attention, True), *((x, False) for x in inner)):
        passed = graph.after([output], ("Identity", "Select", "SelectV2")) if output else ()
        if output and any(graph.using([output, *passed], WRITES)):
            return is_attention
    return None


def epsilon(graph: Graph, variance: list[str]) -> float | None:
    """The epsilon of a batch norm, from its `moving_variance`; `None` if it is not found."""
    read = [*variance, *graph.after(variance, PASS_ON)]
    # A switch between training and inference has two outputs.
    outputs = [*read, *(f"{name}:1" for name in read)]
    fused = next(graph.using(outputs, NORMS), None)
    if fused is not None:
        return graph.attribute(fused, "epsilon", FUSED_EPSILON)
    return next(filter(None, map(graph.constant, graph.using(outputs, ADD))), None)
