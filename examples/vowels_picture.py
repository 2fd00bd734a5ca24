"""Draws the picture of `japanese_vowels.py`: outputs and state, and learning curves."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.gridspec import GridSpec

import jax_dynrnn as rnn

STYLE = dict(aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")


def draw(path, cell, params, test, curves):
    """Draws outputs and state of three test utterances, and the learning curves of every run.

    Args:
        path: the file of the picture.
        cell, params: the LSTM and its params.
        test: the rows from which the utterances are chosen.
        curves: for each model the loss `[seeds, epochs]`, and the accuracy `[seeds, k]` at
            k evenly spaced epochs, including the last one.
    """
    figure = plt.figure(figsize=(13, 8.6))
    call = "outputs, state = dynamic_rnn(cell, params, inputs, sequence_length=lengths)"
    figure.suptitle(call, family="monospace", y=0.975)
    _draw_rows(figure, cell, params, test)
    _draw_curves(figure, curves)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _draw_rows(figure, cell, params, test):
    """Draws `outputs` of a short, a medium and a long row as heat maps, `state.h` beside each."""
    rows = np.argsort(test.lengths, kind="stable")
    rows = rows[test.labels[rows] == test.labels[rows[-1]]]  # all of one speaker
    rows = rows[[0, len(rows) // 2, -1]]
    lengths = test.lengths[rows]
    outputs, state = rnn.dynamic_rnn(cell, params, test.inputs[rows], sequence_length=lengths)
    order = np.argsort(np.mean(state.h, 0))  # sorted units are easier to see
    outputs, h = np.asarray(outputs)[:, :, order], np.asarray(state.h)[:, order]
    grid = GridSpec(1, 10, figure, 0.06, 0.47, 0.93, 0.89, 0.08, width_ratios=[29, 3, 3] * 3 + [1])
    for i, length in enumerate(lengths):
        ax, column = (figure.add_subplot(grid[3 * i + j]) for j in (0, 1))
        image = _heat_map(ax, outputs[i], length, i)
        ax.set_title(f"speaker {test.labels[rows[i]] + 1}, {length} steps: outputs[{i}]")
        column.imshow(h[i, :, None], **STYLE)
        column.set(xticks=[], yticks=[])
        column.set_xlabel(f"state.h[{i}]", labelpad=21)  # below the last tick of `outputs`
    figure.axes[0].set_ylabel("unit, sorted", labelpad=-12)
    figure.axes[0].set_yticks([1, outputs.shape[2]])
    figure.colorbar(image, cax=figure.add_subplot(grid[9]), label="value")


def _heat_map(ax, outputs, length, row):
    steps, units = outputs.shape
    image = ax.imshow(outputs.T, extent=(0.5, steps + 0.5, units + 0.5, 0.5), **STYLE)
    ax.axvline(length + 0.5, color="black", lw=1.5)
    ax.set(xlabel="time step", xticks=[1, 5, 10, 15, 20, 25, steps], yticks=[])
    if length < steps:
        middle = (length + steps + 1) / 2
        ax.text(middle, 0.4 * units, "padding:\nexactly 0", ha="center", va="center")
        ends = dict(xy=(steps + 0.5, 0.75 * units), xytext=(length + 0.5, 0.75 * units))
        ax.annotate("", **ends, arrowprops=dict(arrowstyle="->", lw=1.5))
        last = f"state.h[{row}] =\noutputs[{row}, {length - 1}]"
        ax.text(middle, 0.73 * units, last, ha="center", va="bottom")
    return image


def _draw_curves(figure, curves):
    grid = GridSpec(1, 2, figure, 0.06, 0.07, 0.97, 0.36, 0.17)
    axes = [figure.add_subplot(cell) for cell in grid]
    for color, (model, (losses, accuracy)) in zip(("C0", "C3"), curves.items(), strict=True):
        epochs = np.arange(1, losses.shape[1] + 1)
        every = losses.shape[1] // accuracy.shape[1]
        axes[0].semilogy(epochs, losses.T, color=color, lw=1)
        axes[1].plot(epochs[every - 1 :: every], accuracy.T, ".-", color=color, lw=1)
        axes[0].plot([], [], color=color, label=f"{model}, {len(losses)} seeds")
    axes[0].set(title="Training loss (cross-entropy, with noise and dropout)", xlabel="epoch")
    axes[1].set(title="Accuracy on the 370 test utterances", xlabel="epoch")
    axes[0].legend(frameon=False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
