"""Serves the ported model of port_tf1_g2p.py, without JAX: two ONNX models, run by onnxruntime.

The encoder is one model; one step of the decoder is another, whose state is named inputs and
outputs. The server loops over steps in NumPy. `jax.export` stores the whole of decoding as one
program instead, for a server with JAX. The ids of all three are compared on 200 words.

    make serving                       # installs jax2onnx and onnxruntime in .venv-serving
    .venv-serving/bin/python examples/serve_g2p.py
"""

import functools
import time

import jax
import jax.export
import jax.numpy as jnp
import jax2onnx
import numpy as np
import onnxruntime
import port_tf1_g2p as g2p

WORDS = 200


def encoder_model(params):
    """ONNX: `letters`, `lengths` -> the memory, for any number of words."""
    ids = jax.ShapeDtypeStruct(("words", g2p.MOST), jnp.int32)
    count = jax.ShapeDtypeStruct(("words",), jnp.int32)
    model = jax2onnx.to_onnx(
        functools.partial(g2p.memory, params),
        [ids, count],
        input_names=["letters", "lengths"],
        output_names=["memory"],
    )
    return model.SerializeToString()


def decoder_model(params, first):
    """ONNX: `ids`, `memory`, `lengths`, and the state by name -> `scores`, and the new state."""

    def step(ids, memory, lengths, *state):
        attended = g2p.DECODER.attend(params["decoder"], memory, lengths)
        # `time`, a count of steps that this decoder does not use, stays that of the start state.
        start = g2p.DECODER.start(attended, ids.shape[0], jnp.float32)
        state = start._replace(**dict(zip(first, state, strict=True)))
        output, new = g2p.DECODER(attended, g2p.EMBED(ids), state)
        return g2p.logits(params, output), *(getattr(new, name) for name in first)

    names = ["ids", "memory", "lengths", *first]
    shapes = [
        jax.ShapeDtypeStruct(("words",), jnp.int32),
        jax.ShapeDtypeStruct(("words", g2p.MOST, 256), jnp.float32),
        jax.ShapeDtypeStruct(("words",), jnp.int32),
        *(jax.ShapeDtypeStruct(("words", x.shape[-1]), x.dtype) for x in first.values()),
    ]
    outputs = ["scores", *(f"new_{name}" for name in first)]
    model = jax2onnx.to_onnx(step, shapes, input_names=names, output_names=outputs)
    return model.SerializeToString()


def first_state(params, words):
    """The arrays of the decoder's start state by their names: zeros, for any memory."""
    memory = jnp.zeros((words, g2p.MOST, 256))
    start = g2p.DECODER.start(g2p.DECODER.attend(params["decoder"], memory), words, jnp.float32)
    names = "cell_state", "attention", "alignments"
    return {name: np.asarray(getattr(start, name)) for name in names}


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def served(encoder, decoder, state, letters, lengths):
    """The ids `[words, 20]` that a server computes with onnxruntime and NumPy."""
    (memory,) = encoder.run(None, {"letters": letters, "lengths": lengths})
    ids, found = np.full(len(letters), g2p.PAD, np.int32), []
    finished = np.zeros(len(letters), bool)
    for _ in range(g2p.MOST):
        given = {"ids": ids, "memory": memory, "lengths": lengths, **state}
        used = {x.name: given[x.name] for x in decoder.get_inputs()}
        scores, *new = decoder.run(None, used)
        state = dict(zip(state, new, strict=True))
        ids = np.where(finished, g2p.END, scores.argmax(-1)).astype(np.int32)
        finished |= ids == g2p.END
        found.append(ids)
        if finished.all():
            break
    found += [np.full_like(ids, g2p.END)] * (g2p.MOST - len(found))
    return np.stack(found, 1)


def exported(params):
    """`decoded` of any number of words as stored bytes: program and weights."""
    (words,) = jax.export.symbolic_shape("words")
    types = (
        jax.ShapeDtypeStruct((words, g2p.MOST), jnp.int32),
        jax.ShapeDtypeStruct((words,), jnp.int32),
    )
    decode = jax.jit(functools.partial(g2p.decoded, params))
    return jax.export.export(decode, platforms=["cpu"])(*types).serialize()


def main():
    """Prints the sizes of the models, their times on 200 words, and how many ids are equal."""
    params = g2p.load()
    words = np.random.default_rng(0).choice(sorted(g2p.dictionary()), WORDS, replace=False)
    letters, lengths = (np.asarray(x, np.int32) for x in g2p.encoded(words.tolist()))
    right = np.asarray(g2p.decoded(params, letters, lengths)[0])

    state = first_state(params, WORDS)
    models = encoder_model(params), decoder_model(params, state)
    program = exported(params)
    encoder, decoder = map(session, models)
    call = jax.jit(jax.export.deserialize(program).call)
    runs = {
        "onnxruntime": lambda: served(encoder, decoder, state, letters, lengths),
        "jax.export": lambda: np.asarray(call(letters, lengths)[0]),
    }
    sizes = "encoder {:,} bytes, decoder {:,}; jax.export {:,}"
    print(sizes.format(*map(len, models), len(program)))
    equal = {}
    for name, run in runs.items():
        run()
        begin = time.perf_counter()
        equal[name] = int((run() == right).all(1).sum())
        seconds = time.perf_counter() - begin
        print(f"{name}: {equal[name]} of {WORDS} words equal, {1000 * seconds:.0f} ms")
    return equal


if __name__ == "__main__":
    main()
