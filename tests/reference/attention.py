"""AttentionWrapper in NumPy, row by row and slot by slot of the memory."""

import numpy as np

import jax_dynrnn as rnn
import reference


def score(mechanism, params, query, key):
    """The score of one slot of the memory for one row."""
    if isinstance(mechanism, rnn.LuongAttention):
        return key @ query * (params["attention_g"] if mechanism.scale else 1.0)
    query, v = query @ params["query_layer"]["kernel"], params["attention_v"]
    if not mechanism.normalize:
        return sum(v * np.tanh(key + query))
    v = params["attention_g"] * v / np.sqrt(sum(v**2))
    return sum(v * np.tanh(key + query + params["attention_b"]))


def monotonic(stops, previous):
    """The weights of monotonic attention, slot by slot, from the probabilities to stop at each.

    As in TF1's own test: what arrives at a slot is what did not stop at the slot before, and what
    stopped there in the step before.
    """
    weights, arrived = np.zeros(len(stops)), 0.0
    for s, stop in enumerate(stops):
        arrived = (1 - stops[s - 1]) * arrived + previous[s] if s else previous[0]
        weights[s] = stop * arrived
    return weights


def attend(mechanism, params, query, values, valid, previous):
    """The context and the weights of the slots, for one row."""
    weights = np.zeros(len(values))
    keys = np.where(valid[:, None], values, 0) @ params["memory_layer"]["kernel"]
    scores = np.array([score(mechanism, params, query, key) for key in keys])
    if "attention_score_bias" in params:
        stops = 1 / (1 + np.exp(-scores - params["attention_score_bias"]))
        weights = monotonic(np.where(valid, stops, 0), previous)
    elif valid.any():
        weights[valid] = np.exp(scores[valid]) / np.exp(scores[valid]).sum()
    context = np.zeros(values.shape[1])
    for w, v in zip(weights[valid], values[valid], strict=True):
        context = context + w * v
    return context, weights


def valid_slots(memory):
    batch, slots, _ = memory.values.shape
    length = np.full(batch, slots) if memory.length is None else np.asarray(memory.length)
    mask = np.ones((batch, slots), bool) if memory.mask is None else np.asarray(memory.mask)
    return mask & (np.arange(slots) < length[:, None])


def attention(cell, params, x, state):
    cell_inputs = np.concatenate([x, state.attention], 1)
    y, cell_state = reference.step(cell.cell, params["cell"], cell_inputs, state.cell_state)
    given, previous_kinds = cell.attention_mechanism, []
    several = isinstance(given, tuple)
    before = state.alignments if several else (state.alignments,)
    attentions, alignments = [], []
    for i, mechanism in enumerate(given if several else (given,)):
        kind = "luong" if isinstance(mechanism, rnn.LuongAttention) else "bahdanau"
        if hasattr(mechanism, "mode"):
            kind += "_monotonic"
        name = f"{kind}_attention" + (
            f"_{previous_kinds.count(kind)}" if kind in previous_kinds else ""
        )
        previous_kinds.append(kind)
        memory = params["memory"][i]
        rows = [
            attend(mechanism, params[name], *row)
            for row in zip(y, memory.values, valid_slots(memory), before[i], strict=True)
        ]
        context, weights = (np.stack(part) for part in zip(*rows, strict=True))
        if cell.attention_layer_size is not None:
            layer = params["attention_layer" + (f"_{i}" if i else "")]
            context = np.concatenate([y, context], 1) @ layer["kernel"]
        attentions.append(context)
        alignments.append(weights)
    attended = np.concatenate(attentions, 1)
    weights = tuple(alignments) if several else alignments[0]
    new = rnn.AttentionWrapperState(cell_state, attended, state.time + 1, weights)
    output = attended if cell.output_attention else y
    return ((output, weights) if cell.alignment_history else output), new


STEPS = {"AttentionWrapper": attention}
