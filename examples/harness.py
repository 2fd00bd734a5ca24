"""Code that the examples share: the option `--smoke`, training loops, and saving of results."""

from __future__ import annotations

import argparse
import json
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from packages import REPOSITORY
from table import RESULTS
from tqdm import tqdm

import jax_dynrnn as rnn

PICTURES = REPOSITORY / "docs" / "pictures"


def run(name: str, doc: str, main: Callable[[bool], tuple[Sequence[float], dict[str, Any]]]):
    """Runs an example: a full run saves its result, a short run checks that the loss falls.

    Args:
        name: the name of the file in `examples/results/`.
        doc: the example's docstring, whose first line is the command's help.
        main: a function of whether the run is short. It returns the losses in order (an empty list
            if nothing is trained), and the figures for `save_result`.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a short run: does the loss fall?")
    smoke, start = parser.parse_args().smoke, time.perf_counter()
    losses, figures = main(smoke)
    if losses:
        print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")
        if not losses[-1] < losses[0]:
            raise SystemExit("the loss did not fall")
    if not smoke:
        save_result(name, figures, time.perf_counter() - start)


def save_result(name: str, figures: dict[str, Any], seconds: float, folder: Path = RESULTS) -> None:
    """Saves a result, with the time and the versions.

    Args:
        name: the name of the example.
        figures: `task`, `measure`, `value` and `reference` (a baseline) for the README's
            table, and any others.
        seconds: the duration of the run.
        folder: the folder to write to; the README's table is made from `examples/results`.
    """
    versions = {"jax": jax.__version__, "jax_dynrnn": rnn.__version__}
    result = json.dumps(figures | {"seconds": round(seconds, 1), "versions": versions}, indent=2)
    print(result)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(result + "\n")


def shuffled(rows: int, batch: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields indices of rows in batches of equal size, in random order.

    Left-over rows are dropped: a batch of another size would be compiled separately.
    """
    order = random.permutation(rows)
    for start in range(0, rows - batch + 1, batch):
        yield order[start : start + batch]


def step(loss: Callable, optimizer: optax.GradientTransformation) -> Callable:
    """A compiled update: `(params, state, *data) -> (params, state, loss)`.

    Args:
        loss: a function of `(params, *data)`.
        optimizer: the optimizer, whose state is `state`.
    """

    @jax.jit
    def update(params, state, *data):
        value, gradients = jax.value_and_grad(loss)(params, *data)
        changes, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, changes), state, value

    return update


def fit(
    loss: Callable,
    optimizer: Callable,
    params: Any,
    rows: Any,
    batch: int,
    epochs: int,
    seed: int = 0,
) -> tuple[Any, np.ndarray]:
    """Trains on batches of rows, in a new random order in each epoch.

    Args:
        loss: a function of `(params, rows of a batch, key)`.
        optimizer: a function from the number of updates to an optimizer, so that the learning rate
            can follow a schedule.
        params: the initial params.
        rows: a pytree of arrays with the rows as first axis.
        batch: the number of rows in a batch.
        epochs: the number of passes over the rows; each drops different left-over rows.
        seed: the seed of the order and of the keys.

    Returns:
        The params, and the losses `[epochs, updates per epoch]`.
    """
    key, random = jax.random.key(seed), np.random.default_rng(seed)
    count = len(jax.tree.leaves(rows)[0])
    updates = epochs * (count // batch)
    chosen = optimizer(updates)
    update, state, losses = step(loss, chosen), chosen.init(params), []
    with tqdm(total=updates, desc="training", unit="update") as bar:
        for _ in range(epochs):
            for indices in shuffled(count, batch, random):
                key, key_update = jax.random.split(key)
                of_batch = jax.tree.map(operator.itemgetter(indices), rows)
                params, state, value = update(params, state, of_batch, key_update)
                losses.append(value)  # not yet on the host: that would wait for each update
                bar.update()
    return params, np.reshape(jax.device_get(losses), (epochs, -1))


def draw(name: str, figure: Any) -> None:
    """Saves a picture for the documentation."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=110, bbox_inches="tight")
