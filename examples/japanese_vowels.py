"""Nine men say /ae/: recognises the speaker from the final state of an LSTM.

The utterances are 7 to 29 steps long. `dynamic_rnn` runs over padded batches of them, and
`state` is the state after each row's own last step.

    python examples/japanese_vowels.py            # trains, tests, draws
    python examples/japanese_vowels.py --select   # how the settings were chosen
    python examples/japanese_vowels.py --smoke    # a short run: does the loss fall?
"""

import argparse
import functools
import itertools
import operator
import time
from pathlib import Path
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from data import japanese_vowels
from packages import REPOSITORY
from tqdm import tqdm
from vowels_picture import draw

import jax_dynrnn as rnn


class Settings(NamedTuple):
    learning_rate: float  # of AdamW, at the start of a cosine decay to 0
    noise: float  # standard deviation of the noise added to the standardised inputs


GRID = [Settings(*pair) for pair in itertools.product((2e-3, 5e-3, 1e-2), (0.0, 0.5, 1.0, 1.5))]
CHOSEN = {"LSTM": Settings(2e-3, 1.0), "bidirectional LSTM": Settings(1e-2, 1.0)}  # by --select
SEEDS, UNITS, SPEAKERS, BATCH, EPOCHS, CHUNK = (0, 1, 2), 100, 9, 54, 60, 5

LSTM = rnn.LSTMCell(UNITS)
DROPOUT_LSTM = rnn.DropoutWrapper(
    LSTM, state_keep_prob=0.5, variational_recurrent=True, variational_per_row=True
)


def init(model, key, input_shape):
    key_rnn, key_dense = jax.random.split(key)
    if model == "LSTM":
        params, width = LSTM.init(key_rnn, input_shape), UNITS
    else:
        params = rnn.init_bidirectional(key_rnn, DROPOUT_LSTM, DROPOUT_LSTM, input_shape)
        width = 2 * UNITS
    kernel = jax.nn.initializers.glorot_uniform()(key_dense, (width, SPEAKERS))
    return {"rnn": params, "dense": {"kernel": kernel, "bias": jnp.zeros(SPEAKERS)}}


def logits(model, params, inputs, lengths, key=None):
    """Logits of a dense layer on the final state. Without a key there is no dropout."""
    if model == "LSTM":
        _, state = rnn.dynamic_rnn(LSTM, params["rnn"], inputs, sequence_length=lengths)
        h = state.h
    else:
        _, (forward, backward) = rnn.bidirectional_dynamic_rnn(
            DROPOUT_LSTM, DROPOUT_LSTM, params["rnn"], inputs, sequence_length=lengths, key=key
        )
        h = jnp.concatenate([forward.h, backward.h], axis=-1)
    return h @ params["dense"]["kernel"] + params["dense"]["bias"]


class Rows(NamedTuple):
    inputs: np.ndarray  # [rows, T, 12], padded
    lengths: np.ndarray  # [rows]
    labels: np.ndarray  # [rows]


def standardised(train, judged):
    """Both sets as padded `Rows`, standardised by mean and deviation of the training set."""
    steps = np.concatenate(train[0])
    mean, deviation = steps.mean(0), steps.std(0)
    return [
        Rows(*rnn.pad_sequences([(x - mean) / deviation for x in arrays], buckets=[26, 29]), labels)
        for arrays, labels in (train, judged)
    ]


def optimizer(settings, updates):
    schedule = optax.cosine_decay_schedule(settings.learning_rate, updates)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2))


def cross_entropy(params, model, rows, key=None):
    """The mean cross-entropy, and the accuracy."""
    scores = logits(model, params, rows.inputs, rows.lengths, key)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, rows.labels)
    return losses.mean(), (scores.argmax(-1) == rows.labels).mean()


@functools.partial(jax.jit, static_argnames=("model", "updates"))
def train_chunk(model, settings, updates, carry, train, judged, batches):
    """Trains all runs for some epochs, under `vmap`; then evaluates them on `judged`."""

    def one_run(carry, train, judged, batches):
        def update(carry, batch):
            params, state, key = carry
            key, key_noise, key_dropout = jax.random.split(key, 3)
            rows = jax.tree.map(operator.itemgetter(batch), train)
            noise = settings.noise * jax.random.normal(key_noise, rows.inputs.shape)
            rows = rows._replace(inputs=rows.inputs + noise)  # noise in the padding has no effect
            gradient = jax.value_and_grad(cross_entropy, has_aux=True)
            (loss, _), grads = gradient(params, model, rows, key_dropout)
            steps, state = optimizer(settings, updates).update(grads, state, params)
            return (optax.apply_updates(params, steps), state, key), loss

        carry, losses = jax.lax.scan(update, carry, batches)
        return carry, losses, *cross_entropy(carry[0], model, judged)

    return jax.vmap(one_run)(carry, train, judged, batches)


def fit(model, settings, data, seeds, epochs=EPOCHS):
    """Trains one network for each seed, on its own pair of `Rows` in `data`.

    Returns the params, the training loss [seeds, epochs], and the loss and the accuracy on
    the held-out rows [seeds, epochs / CHUNK].
    """
    train, judged = jax.tree.map(lambda *leaves: np.stack(leaves), *data)
    shape = (len(seeds), CHUNK, train.labels.shape[1])
    updates = epochs * shape[2] // BATCH
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(jnp.array(seeds))
    params = jax.vmap(lambda key: init(model, key, train.inputs.shape))(keys[:, 0])
    carry = params, jax.vmap(optimizer(settings, updates).init)(params), keys[:, 1]
    shuffle, history = np.random.default_rng(seeds), []
    for _ in tqdm(range(epochs // CHUNK), f"{model}, {len(seeds)} seeds", unit="chunk"):
        rows = shuffle.permuted(np.broadcast_to(np.arange(shape[2]), shape), axis=-1)
        batches = rows.reshape(len(seeds), -1, BATCH)
        carry, *results = train_chunk(model, settings, updates, carry, train, judged, batches)
        losses, loss, accuracy = jax.device_get(results)
        losses = losses.reshape(len(seeds), CHUNK, -1).mean(-1)
        history.append((losses, loss[:, None], accuracy[:, None]))
    return carry[0], *(np.concatenate(parts, 1) for parts in zip(*history, strict=True))


def select(train):
    """Evaluates the grid by five-fold cross-validation on the training rows, with two seeds.

    A fold is a block of 6 consecutive utterances of each speaker's 30, because the test rows were
    recorded at another time too. Settings are compared by the loss: accuracies over 270 rows are
    too coarse.
    """
    arrays, labels = train
    folds = np.arange(len(labels)) % 30 // 6  # the rows are sorted by speaker
    data = []
    for fold in range(5):
        parts = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        data.append(standardised(*[([arrays[i] for i in rows], labels[rows]) for rows in parts]))
    for model in CHOSEN:
        table = []
        for settings in GRID:
            _, _, loss, accuracy = fit(model, settings, 2 * data, seeds=range(10))
            table.append((loss[:, -1].mean(), accuracy[:, -1].mean(), settings))
        print(f"\n{model}\nlearning rate  noise  held-out loss  held-out accuracy")
        for loss, accuracy, (learning_rate, noise) in table:
            mark = "  <- chosen" if loss == min(table)[0] else ""
            print(f"{learning_rate:13}  {noise:5}  {loss:13.4f}  {accuracy:17.4f}{mark}")


def smoke():
    """Does two short runs; exits with an error unless both losses fall to less than half."""
    data = [standardised(*japanese_vowels())]
    for model in CHOSEN:
        loss = fit(model, Settings(1e-2, 0.0), data, seeds=[0], epochs=CHUNK)[1][0]
        print(f"{model}: loss {loss[0]:.3f} -> {loss[-1]:.3f}")
        if not loss[-1] < loss[0] / 2:
            raise SystemExit(f"{model}: the loss did not fall to less than half")


def main(out, keep):
    train, test = standardised(*japanese_vowels())
    params, curves, accuracies, seconds = {}, {}, {}, 0.0
    for model, settings in CHOSEN.items():
        start = time.perf_counter()
        fitted = fit(model, settings, [(train, test)] * len(SEEDS), SEEDS)
        seconds += time.perf_counter() - start
        params[model], losses, _, accuracy = fitted
        curves[model] = losses, accuracy
        final = accuracies[model] = [round(float(a), 4) for a in accuracy[:, -1]]
        shown = "  ".join(f"seed {n}: {a:.4f}" for n, a in zip(SEEDS, final, strict=True))
        print(f"{model}: test accuracy  {shown}  mean: {np.mean(final):.4f}")
    print(f"six trainings: {seconds:.1f} seconds, compilation included")
    draw(out, LSTM, jax.tree.map(operator.itemgetter(0), params["LSTM"]["rnn"]), test, curves)
    print(f"the picture: {out}")
    figures = {
        "task": "speaker recognition: the final state of a bidirectional LSTM",
        "measure": f"accuracy, 370 test utterances, mean of {len(SEEDS)} seeds",
        "value": round(float(np.mean(accuracies["bidirectional LSTM"])), 4),
        "reference": "0.954, MATLAB's example of the same",
        "accuracies": accuracies,
    }
    folder = harness.RESULTS if keep else out.parent
    harness.save_result("japanese_vowels", figures, seconds, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results/japanese_vowels.png")
    parser.add_argument(
        "--select", action="store_true", help="choose settings on training rows only"
    )
    parser.add_argument("--smoke", action="store_true", help="a short run: does the loss fall?")
    parser.add_argument(
        "--keep", action="store_true", help="save the result for the README's table"
    )
    args = parser.parse_args()
    if args.select:
        select(japanese_vowels()[0])
    elif args.smoke:
        smoke()
    else:
        main(args.out, args.keep)
