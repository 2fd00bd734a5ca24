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


def attend(mechanism, params, query, values, length):
    """The context and the weights of the slots, for one row."""
    context, weights = np.zeros(values.shape[1]), np.zeros(len(values))
    if length == 0:
        return context, weights
    keys = values[:length] @ params["memory_layer"]["kernel"]
    scores = np.exp([score(mechanism, params, query, key) for key in keys])
    weights[:length] = scores / scores.sum()
    return sum(w * v for w, v in zip(weights, values, strict=True)), weights


def attention(cell, params, x, state):
    cell_inputs = np.concatenate([x, state.attention], 1)
    y, cell_state = reference.step(cell.cell, params["cell"], cell_inputs, state.cell_state)
    given, previous_kinds = cell.attention_mechanism, []
    several = isinstance(given, tuple)
    attentions, alignments = [], []
    for i, mechanism in enumerate(given if several else (given,)):
        kind = "luong" if isinstance(mechanism, rnn.LuongAttention) else "bahdanau"
        name = f"{kind}_attention" + (
            f"_{previous_kinds.count(kind)}" if kind in previous_kinds else ""
        )
        previous_kinds.append(kind)
        memory = params["memory"][i]
        length = memory.length
        if length is None:
            length = [memory.values.shape[1]] * len(x)
        rows = [
            attend(mechanism, params[name], *row)
            for row in zip(y, memory.values, length, strict=True)
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
