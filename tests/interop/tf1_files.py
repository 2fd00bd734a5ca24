"""Models of TensorFlow 1 in every form of file, and the printed programs that run them here."""

import contextlib
import re

import jax
import numpy as np
import tensorflow as tf
import tf1_cells
from tensorflow_run import CELLS
from tf1_graphs import stacked

v1 = tf.compat.v1
B, T, D, H = 2, 4, 3, 4
ACTIVATIONS = {
    "tanh": tf.tanh, "relu": tf.nn.relu, "softsign": tf.nn.softsign, "leaky": tf.nn.leaky_relu,
    "identity": tf.identity, "none": lambda x: x, "elu": tf.nn.elu, "sigmoid": tf.sigmoid,
}  # fmt: skip
FORGETTING = (
    "BasicLSTMCell", "LSTMCell", "LSTMCell, all options", "LSTMBlockCell", "ClippedLSTMBlockCell",
    "LayerNormBasicLSTMCell", "CoupledInputForgetGateLSTMCell", "UGRNNCell",
)  # fmt: skip
"""Cells with a forget bias."""


class Model:
    """A graph with a run of cells, random values of its variables, and its results."""

    def __init__(self, case):
        self.case = case
        self.graph = tf.Graph()

    @contextlib.contextmanager
    def session(self):
        """Builds the graph as TF1 programs do, and runs it."""
        version = "enable" if self.case["control_flow"] == "v2" else "disable"
        getattr(v1, f"{version}_control_flow_v2")()
        try:
            with self.graph.as_default(), v1.Session() as session:
                self._build()
                # Averages start from the variables.
                session.run(v1.variables_initializer(v1.trainable_variables()))
                session.run(v1.global_variables_initializer())
                draw = np.random.default_rng(0)
                for variable in v1.global_variables():
                    shape = variable.shape.as_list()
                    variable.load((0.6 * draw.normal(size=shape)).astype(np.float32), session)
                yield session
        finally:
            v1.enable_control_flow_v2()

    def _build(self):
        case = self.case
        shape = (None, None, D) if case["run"] != "static" else (B, T, D)
        self.x = v1.placeholder(tf.float32, shape, name="x")
        shards = v1.fixed_size_partitioner(case["shards"]) if case["shards"] > 1 else None
        resource = case["variables"] == "resource"
        outer = v1.variable_scope(case["scope"] or v1.get_variable_scope(), use_resource=resource)
        with outer, v1.variable_scope(v1.get_variable_scope(), partitioner=shards):
            self.results = self._results()
        if case["averages"] != "none":
            self.averages = v1.train.ExponentialMovingAverage(0.9)
            self.averages.apply(v1.trainable_variables())
        self.named = [
            tf.identity(x, f"result_{i}") for i, x in enumerate(tf.nest.flatten(self.results))
        ]

    def _results(self):
        case, x = self.case, self.x
        options = {"dtype": tf.float32, "time_major": case["time_major"]}
        axis = 1 if case["time_major"] else 0
        if case["lengths"]:
            options["sequence_length"] = tf.fill([tf.shape(x)[axis]], tf.shape(x)[1 - axis])
        if case["run"] == "fused":
            return tf1_cells.lstm_block(x, H, case["forget_bias"], 0.3 if case["shards"] else -1.0)
        if case["run"] == "bidirectional":
            cells = self._cell(H), self._cell(2)
            return v1.nn.bidirectional_dynamic_rnn(*cells, x, **options)
        if case["run"] == "stacked":
            return stacked(
                ([self._cell(H), self._cell(2)], [self._cell(2), self._cell(H)]), x, None
            )
        if case["run"] == "static":
            steps = tf.unstack(x, axis=1)
            outputs, state = v1.nn.static_rnn(self._cell(H), steps, dtype=tf.float32)
            return tf.stack(outputs, 1), state
        cell = self._cell(H)
        if case["run"] == "stack":
            cell = CELLS.MultiRNNCell(
                [cell, CELLS.DropoutWrapper(self._cell(H), 1.0), self._cell(2)]
            )
        if case["run"] == "residual":
            cell = CELLS.MultiRNNCell([cell, CELLS.ResidualWrapper(self._cell(cell.output_size))])
        if case["run"] == "attention":
            self.memory = v1.placeholder(tf.float32, (None, None, 6), name="memory")
            cell = tf1_cells.BahdanauWrapper(cell, self.memory, case["output_attention"])
        state = self._initial(cell, axis)
        return v1.nn.dynamic_rnn(cell, x, initial_state=state, **options)

    def _cell(self, num_units):
        case = self.case
        activation = ACTIVATIONS[case["activation"]]
        return tf1_cells.make(case["cell"], num_units, activation, case["forget_bias"])

    def _initial(self, cell, axis):
        """A learned initial state for every leaf, as TF1 programs write it, or `None`."""
        kind, batch = self.case["initial"], tf.shape(self.x)[axis]
        if kind == "zeros":
            return None
        sizes = tf.nest.flatten(cell.state_size)
        # Partitioned rows would be shards of a few units.
        with v1.variable_scope("first", partitioner=None) as scope:
            scope.set_partitioner(None)
            shapes = [[n] if kind == "tiled" else [1, n] for n in sizes]
            rows = [v1.get_variable(f"state_{i}", shape) for i, shape in enumerate(shapes)]
        states = {
            "tiled": lambda row: tf.tile(tf.expand_dims(row, 0), [batch, 1]),
            "row": lambda row: tf.tile(row, [batch, 1]),
            "product": lambda row: tf.ones([batch, 1]) * row,
        }[kind]
        return tf.nest.pack_sequence_as(cell.state_size, [states(row) for row in rows])

    def save(self, session, folder):
        """Writes the model in its form; returns the path for the command."""
        form, path = self.case["form"], f"{folder}/model"
        if form == "frozen":
            names = [x.op.name for x in self.named]
            graph = self.graph.as_graph_def()
            frozen = v1.graph_util.convert_variables_to_constants(session, graph, names)
            with open(f"{path}.pb", "wb") as file:
                file.write(frozen.SerializeToString())
            return f"{path}.pb"
        if form == "saved_model":
            outputs = {x.op.name: x for x in self.named}
            v1.saved_model.simple_save(session, path, {"x": self.x}, outputs)
            return path
        only = self.case["averages"] == "only"
        v1.train.Saver(self.averages.variables_to_restore() if only else None).save(session, path)
        return str(folder) if form == "folder" else path

    def run(self, session, x, memory):
        given = {self.x: x} | ({self.memory: memory} if self.case["run"] == "attention" else {})
        return session.run(self.named, given)


def run_printed(program, x, memory, attention):
    """The leaves of the results of a printed program, with our inputs in place of placeholders."""
    ones = r"jnp\.ones\(\([\d, ]*\)\)"
    if attention:
        program = re.sub(rf"\], {ones}\)", "], memory)", program, count=1)
    program = re.sub(ones, "x", program)
    found = {"x": x, "memory": memory}
    exec(program, found)
    state = found["state"] if "state" in found else found["states"]
    if attention:
        state = (state.cell_state, state.attention)
    return jax.tree.leaves((found["outputs"], state))
