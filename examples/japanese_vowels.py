"""Nine men say /ae/: the final state of an LSTM tells who speaks.

The utterances are 7 to 29 steps long. `dynamic_rnn` runs over padded batches of them, and
`state` is what the cell knows after each row's own last step.

    python examples/japanese_vowels.py            # trains, tests, draws
    python examples/japanese_vowels.py --select   # how the settings were chosen
    python examples/japanese_vowels.py --smoke    # a short run: does the loss fall?
"""

import functools
import itertools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from data import japanese_vowels
from matplotlib.gridspec import GridSpec
from tqdm import tqdm

import jax_dynrnn as rnn


class Settings(NamedTuple):
    learning_rate: float  # of AdamW, at the start of a cosine down to 0
    noise: float  # standard deviation of what is added to the standardised inputs


CHOSEN = {"LSTM": Settings(5e-3, 0.6), "bidirectional LSTM": Settings(5e-3, 0.6)}  # by --select
GRID = [Settings(*pair) for pair in itertools.product((2e-3, 5e-3, 1e-2), (0.0, 0.5, 1.0, 1.5))]
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
    """A dense layer on the final state. Without a key there is no dropout."""
    if model == "LSTM":
        _, state = rnn.dynamic_rnn(LSTM, params["rnn"], inputs, sequence_length=lengths)
        h = state.h
    else:
        _, (forward, backward) = rnn.bidirectional_dynamic_rnn(
            DROPOUT_LSTM, DROPOUT_LSTM, params["rnn"], inputs, sequence_length=lengths, key=key
        )
        h = rnn.concatenate(forward.h, backward.h)
    return h @ params["dense"]["kernel"] + params["dense"]["bias"]


class Rows(NamedTuple):
    inputs: np.ndarray  # [rows, T, 12], padded
    lengths: np.ndarray  # [rows]
    labels: np.ndarray  # [rows]


def standardised(train, judged):
    """Both sets as padded `Rows`, by the mean and deviation of the set to train on."""
    steps = np.concatenate(train[0])
    mean, deviation = steps.mean(0), steps.std(0)
    return [
        Rows(*rnn.pad_sequences([(x - mean) / deviation for x in arrays], buckets=[26, 29]), labels)
        for arrays, labels in (train, judged)
    ]


def optimizer(settings, updates):
    schedule = optax.cosine_decay_schedule(settings.learning_rate, updates)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2))


@functools.partial(jax.jit, static_argnames=("model", "updates"))
def train_chunk(model, settings, updates, carry, train, judged, batches):
    """Some epochs of every run, all runs at once; then the loss and accuracy on `judged`."""

    def cross_entropy(params, rows, key=None):
        scores = logits(model, params, rows.inputs, rows.lengths, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, rows.labels)
        return losses.mean(), (scores.argmax(-1) == rows.labels).mean()

    def one_run(carry, train, judged, batches):
        def update(carry, batch):
            params, state, key = carry
            key, key_noise, key_dropout = jax.random.split(key, 3)
            rows = jax.tree.map(lambda x: x[batch], train)
            noise = settings.noise * jax.random.normal(key_noise, rows.inputs.shape)
            rows = rows._replace(inputs=rows.inputs + noise)  # the padding's reaches nothing
            gradient = jax.value_and_grad(cross_entropy, has_aux=True)
            (loss, _), grads = gradient(params, rows, key_dropout)
            updates_, state = optimizer(settings, updates).update(grads, state, params)
            return (optax.apply_updates(params, updates_), state, key), loss

        carry, losses = jax.lax.scan(update, carry, batches)
        return carry, losses, *cross_entropy(carry[0], judged)

    return jax.vmap(one_run)(carry, train, judged, batches)


def fit(model, settings, data, seeds, epochs=EPOCHS):
    """Trains one network for each seed, on its own pair of `Rows` in `data`.

    Returns the params, the training loss [seeds, epochs], and the loss and accuracy on the
    rows to judge by [seeds, epochs / CHUNK].
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
        losses, loss, accuracy = map(np.asarray, results)
        history.append((losses.reshape(len(seeds), CHUNK, -1).mean(-1), loss, accuracy))
    losses, loss, accuracy = zip(*history, strict=True)
    return carry[0], np.concatenate(losses, 1), np.stack(loss, 1), np.stack(accuracy, 1)


def select(train):
    """Judges the grid by five fifths of the training rows, each held out of one run.

    A fifth is a block of 6 utterances of each speaker's 30: like the test rows, they were
    said at another time. The cross-entropy decides; 270 rows make accuracies coarse.
    """
    arrays, labels = train
    folds = np.arange(len(labels)) % 30 // 6  # the rows are sorted by speaker
    data = []
    for fold in range(5):
        parts = (np.flatnonzero(folds != fold), np.flatnonzero(folds == fold))
        data.append(standardised(*(([arrays[i] for i in rows], labels[rows]) for rows in parts)))
    for model in CHOSEN:
        table = []
        for settings in GRID:
            _, _, loss, accuracy = fit(model, settings, data, seeds=range(5))
            table.append((loss[:, -1].mean(), accuracy[:, -1].mean(), settings))
        print(f"\n{model}\nlearning rate  noise  held-out loss  held-out accuracy")
        for loss, accuracy, (learning_rate, noise) in table:
            mark = "  <- chosen" if loss == min(table)[0] else ""
            print(f"{learning_rate:13}  {noise:5}  {loss:13.4f}  {accuracy:17.4f}{mark}")


def draw(path, params, test, curves):
    """Outputs and state of three test utterances, and the learning curves of every run."""
    figure = plt.figure(figsize=(13, 8.6))
    figure.suptitle(
        "outputs, state = dynamic_rnn(cell, params, inputs, sequence_length)", family="monospace"
    )
    draw_rows(figure, params, test)
    grid = GridSpec(1, 2, figure, left=0.07, right=0.97, bottom=0.07, top=0.36, wspace=0.2)
    axes = [figure.add_subplot(cell) for cell in grid]
    for color, (model, (losses, accuracy)) in zip(("C0", "C3"), curves.items(), strict=True):
        label = f"{model}, {len(losses)} seeds"
        epochs = np.arange(1, losses.shape[1] + 1)
        axes[0].semilogy(epochs, losses.T, color=color, lw=1, label=[label, "_", "_"])
        axes[1].plot(epochs[CHUNK - 1 :: CHUNK], accuracy.T, color=color, marker=".", lw=1)
    axes[0].set(title="Training loss (cross-entropy)", xlabel="epoch")
    axes[1].set(title="Accuracy on the 370 test utterances", xlabel="epoch", ylim=(None, 1))
    axes[0].legend(frameon=False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def draw_rows(figure, params, test):
    """A heat map of `outputs` for a short, a middle and a long row, and `state.h` beside it."""
    rows = np.argsort(test.lengths, kind="stable")[[0, len(test.lengths) // 2, -1]]
    lengths = test.lengths[rows]
    outputs, state = rnn.dynamic_rnn(LSTM, params["rnn"], test.inputs[rows], lengths)
    order = np.argsort(np.mean(state.h, 0))  # of the units, to be seen more easily
    widths = [29, 2.5, 3.5] * 3 + [1.2]
    grid = GridSpec(
        1, 10, figure, left=0.07, right=0.93, bottom=0.47, top=0.89, wspace=0.08,
        width_ratios=widths,
    )  # fmt: skip
    style = dict(aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ax, column = (figure.add_subplot(grid[3 * i + j]) for j in (0, 1))
        steps = outputs.shape[1]
        extent = (0.5, steps + 0.5, UNITS, 0)
        image = ax.imshow(outputs[i].T[order], extent=extent, **style)
        ax.axvline(length + 0.5, color="black", lw=1.5)
        if length < steps:
            middle = (length + steps + 1) / 2
            ax.text(middle, UNITS / 2, "padding: zeros", rotation=90, ha="center", va="center")
        title = f"outputs[{row}]: speaker {test.labels[row] + 1}, {length} steps"
        ax.set(title=title, xlabel="time step", xticks=[1, length, *([steps] * (length < steps))])
        column.imshow(state.h[i][order][:, None], **style)
        column.set(title="state.h", xticks=[], yticks=[])
        if i == 0:
            ax.set_ylabel("unit (sorted)")
        else:
            ax.set_yticks([])
    figure.colorbar(image, cax=figure.add_subplot(grid[9]), label="value")


def main(out):
    train, test = standardised(*japanese_vowels())
    curves, accuracies, seconds = {}, {}, {}
    for model, settings in CHOSEN.items():
        start = time.perf_counter()
        params, losses, _, accuracy = fit(model, settings, [(train, test)] * len(SEEDS), SEEDS)
        seconds[model] = round(time.perf_counter() - start, 1)
        curves[model] = losses, accuracy
        accuracies[model] = [round(float(a), 4) for a in accuracy[:, -1]]
        shown = "  ".join(f"seed {n}: {a:.4f}" for n, a in zip(SEEDS, accuracies[model]))
        print(f"{model}: test accuracy  {shown}  mean: {np.mean(accuracies[model]):.4f}")
        if model == "LSTM":
            lstm = jax.tree.map(lambda x: x[0], params)  # of seed 0, to be drawn
    print(f"six trainings: {sum(seconds.values()):.1f} seconds, compilation included")
    draw(out, lstm, test, curves)
    results = {"accuracy": accuracies, "seconds": seconds}
    results["versions"] = {"jax": jax.__version__, "jax_dynrnn": rnn.__version__}
    out.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")


def smoke():
    """Two short runs; ends with an error unless both losses fall to less than half."""
    data = [standardised(*japanese_vowels())]
    for model, settings in CHOSEN.items():
        loss = fit(model, settings, data, seeds=[0], epochs=2 * CHUNK)[1][0]
        print(f"{model}: loss {loss[0]:.3f} -> {loss[-1]:.3f}")
        if not loss[-1] < loss[0] / 2:
            raise SystemExit(f"{model}: the loss did not fall to less than half")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results/japanese_vowels.png")
    parser.add_argument("--select", action="store_true", help="choose settings, without test rows")
    parser.add_argument("--smoke", action="store_true", help="a short run: does the loss fall?")
    args = parser.parse_args()
    if args.select:
        select(japanese_vowels()[0])
    elif args.smoke:
        smoke()
    else:
        main(args.out)
