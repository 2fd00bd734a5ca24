"""Wrappers in NumPy; the step of the inner cell is that of its own transcription."""

import jax
import numpy as np

import reference

from .core import sigmoid


def dense(layer, x, activation=None):
    y = x @ layer["kernel"] + layer["bias"]
    return y if activation is None else np.asarray(activation(y))


def highway(cell, params, x, state):
    output, state = reference.step(cell.cell, params["cell"], x, state)
    carry = sigmoid(x @ params["carry_w"] + params["carry_b"])
    if cell.couple_carry_transform_gates:
        return carry * x + (1 - carry) * output, state
    transform = sigmoid(x @ params["transform_w"] + params["transform_b"])
    return carry * x + transform * output, state


def zoneout(cell, params, x, state):
    """Zoneout without a key, in evaluation: the mean over all masks."""
    output, new = reference.step(cell.cell, params, x, state)
    keep = cell.state_keep_prob
    return output, jax.tree.map(lambda old, new: keep * new + (1 - keep) * old, state, new)


def input_projection(cell, params, x, state):
    return reference.step(cell.cell, params["cell"], dense(params, x, cell.activation), state)


def output_projection(cell, params, x, state):
    output, state = reference.step(cell.cell, params["cell"], x, state)
    return dense(params, output, cell.activation), state


def embedding(cell, params, x, state):
    one_hot = np.eye(cell.embedding_classes)[x]
    return reference.step(cell.cell, params["cell"], one_hot @ params["embedding"], state)


def attention_cell(cell, params, x, state):
    state, attention, past = state
    size, own = attention.shape[1], params["attention"]
    cell_inputs = dense(params, np.concatenate([x, attention], 1))
    output, state = reference.step(cell.cell, params["cell"], cell_inputs, state)
    rows = past.reshape(len(past), -1, size)
    query = dense(own, np.concatenate(jax.tree.leaves(state), 1))
    attended = np.zeros_like(attention)
    for b, memory in enumerate(rows):
        scores = [own["attn_v"] @ np.tanh(m @ own["attn_w"][0, 0] + query[b]) for m in memory]
        weights = np.exp(scores) / np.exp(scores).sum()
        attended[b] = weights @ memory
    output = dense(params["attn_output_projection"], np.concatenate([output, attended], 1))
    return output, (state, attended, np.concatenate([past[:, size:], output], 1))


def residual(cell, params, x, state):
    output, state = reference.step(cell.cell, params, x, state)
    return x + output, state


def multi(cell, params, x, state):
    states = []
    for i, (layer, before) in enumerate(zip(cell.cells, state, strict=True)):
        x, new = reference.step(layer, params[f"cell_{i}"], x, before)
        states.append(new)
    return x, tuple(states)


STEPS = {
    "ResidualWrapper": residual,
    "MultiRNNCell": multi,
    "HighwayWrapper": highway,
    "ZoneoutWrapper": zoneout,
    "InputProjectionWrapper": input_projection,
    "OutputProjectionWrapper": output_projection,
    "EmbeddingWrapper": embedding,
    "AttentionCellWrapper": attention_cell,
}
