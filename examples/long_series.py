"""Which exercise it was: classifies series of up to 2,618 steps, in little memory, with `remat`.

The backward pass of a long run needs residuals of every step. With `remat="sqrt"` only some states
are saved and the steps between them are recomputed, so memory grows as the square root of the
length. The mean of the valid outputs is passed to a dense layer. NNX layers, optax.

    python examples/long_series.py            # trains on eight people, tests on two
    python examples/long_series.py --smoke    # a short run: does the loss fall?
"""

import harness
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from data import exercises
from flax import nnx
from tqdm import tqdm

import jax_dynrnn as rnn
from jax_dynrnn import nnx as rnnx

UNITS, BATCH, EPOCHS, RATE, HELD_OUT = 64, 28, 60, 5e-3, (9, 10)
CHANCE = 1 / 7


class Recogniser(nnx.Module):
    def __init__(self, rngs, remat="sqrt"):
        cell = rnn.DropoutWrapper(rnn.GRUCell(UNITS), output_keep_prob=0.8)
        self.layer = rnnx.Bidirectional(cell, in_features=6, rngs=rngs)
        self.dense = nnx.Linear(2 * UNITS, 7, rngs=rngs)
        self.remat = remat

    def __call__(self, series, lengths):
        outputs, _ = self.layer(series, lengths, remat=self.remat)
        return self.dense(rnn.mean_pool(outputs, lengths))


def loss(model, series, lengths, labels):
    scores = model(series, lengths)
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@nnx.jit
def update(model, optimizer, series, lengths, labels):
    value, gradients = nnx.value_and_grad(loss)(model, series, lengths, labels)
    optimizer.update(model, gradients)
    return value


def fit(series, lengths, labels, epochs, seed=0):
    """The model, and the mean loss of each epoch."""
    model, random = Recogniser(nnx.Rngs(seed)), np.random.default_rng(seed)
    schedule = optax.cosine_decay_schedule(RATE, epochs * (len(labels) // BATCH))
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    optimizer, losses = nnx.Optimizer(model, chain, wrt=nnx.Param), []
    for _ in tqdm(range(epochs), "training", unit="epoch"):
        values = [
            update(model, optimizer, series[rows], lengths[rows], labels[rows])
            for rows in harness.shuffled(len(labels), BATCH, random)
        ]
        losses.append(float(jnp.mean(jnp.array(values))))
    model.eval()
    return model, losses


def memory(series, lengths, labels):
    """Megabytes of temporary memory of a training step, by `remat`."""
    found = {}
    for remat in (None, "sqrt"):
        graph, state = nnx.split(Recogniser(nnx.Rngs(0), remat))

        def loss_of_state(state, *data, graph=graph):
            return loss(nnx.merge(graph, state), *data)

        # The state includes the counters of the random streams of dropout, which are integers.
        step = jax.jit(jax.grad(loss_of_state, allow_int=True))
        compiled = step.lower(state, series, lengths, labels).compile()
        found[str(remat)] = round(compiled.memory_analysis().temp_size_in_bytes / 1e6, 1)
    return found


def main(smoke):
    found = exercises()
    train = ~np.isin(found.subjects, HELD_OUT)
    steps = np.concatenate([x for x, chosen in zip(found.series, train, strict=True) if chosen])
    scaled = [(x - steps.mean(0)) / steps.std(0) for x in found.series]
    if smoke:
        scaled = [x[:200] for x in scaled]
    series, lengths = rnn.pad_sequences(scaled)
    data = series[train], lengths[train], found.labels[train]
    model, losses = fit(*data, epochs=3 if smoke else EPOCHS)
    if smoke:
        return losses, {}
    scores = nnx.jit(lambda model, *data: model(*data))(model, series[~train], lengths[~train])
    accuracy = float((scores.argmax(-1) == found.labels[~train]).mean())
    needed = memory(*(x[:BATCH] for x in data))
    figure, ax = plt.subplots(figsize=(5, 2))
    ax.barh(list(needed), list(needed.values()), color=["C3", "C0"])
    ax.set(xlabel="temporary memory of a training step, MB", ylabel="remat")
    harness.draw("long_series", figure)
    return losses, {
        "task": "shoulder exercises: series of up to 2,618 steps",
        "measure": "accuracy, two people held out",
        "value": round(accuracy, 4),
        "megabytes": needed,
        "reference": f"{CHANCE:.3f}, chance",
    }


if __name__ == "__main__":
    harness.run("long_series", __doc__, main)
