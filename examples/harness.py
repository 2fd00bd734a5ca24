"""What every example does beside its task: `--smoke`, and a result that is kept."""

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
    """Runs an example: a short run that checks that the loss falls, or one that keeps its result.

    Args:
        name: of the file in `examples/results/`.
        doc: the example's docstring, of which the first line is the command's help.
        main: of whether the run is a short one; returns the losses in order, none where nothing
            is trained, and figures: those of `keep`.
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
        keep(name, figures, time.perf_counter() - start)


def keep(name: str, figures: dict[str, Any], seconds: float, folder: Path = RESULTS) -> None:
    """Writes a result, with the time and the versions.

    Args:
        name: of the example.
        figures: `task`, `measure`, `value` and `reference` (what to reach) for the README's table,
            and more.
        seconds: that it took.
        folder: where to; what is in the table is in `examples/results`.
    """
    versions = {"jax": jax.__version__, "jax_dynrnn": rnn.__version__}
    kept = json.dumps(figures | {"seconds": round(seconds, 1), "versions": versions}, indent=2)
    print(kept)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(kept + "\n")


def shuffled(rows: int, batch: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of the rows in batches of one size, in random order: those left over wait."""
    order = random.permutation(rows)
    for start in range(0, rows - batch + 1, batch):
        yield order[start : start + batch]


def step(loss: Callable, optimizer: optax.GradientTransformation) -> Callable:
    """One update, compiled: `(params, state, *data) -> (params, state, loss)`.

    Args:
        loss: of `(params, *data)`.
        optimizer: what `state` is of.
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
    """Trains on batches of rows, in another order in each epoch.

    Args:
        loss: of `(params, rows of a batch, key)`.
        optimizer: of the number of updates, over which its rate may change.
        params: to begin with.
        rows: a pytree of arrays, whose first axis is that of the rows.
        batch: how many rows there are in one.
        epochs: how often each row is seen; those left over in one may be seen in another.
        seed: of the order, and of the keys.

    Returns:
        The params, and the losses `[epochs, updates in one]`.
    """
    key, random = jax.random.key(seed), np.random.default_rng(seed)
    count = len(jax.tree.leaves(rows)[0])
    updates = epochs * (count // batch)
    chosen = optimizer(updates)
    update, state, losses = step(loss, chosen), chosen.init(params), []
    with tqdm(total=updates, desc="training", unit="update") as bar:
        for _ in range(epochs):
            for places in shuffled(count, batch, random):
                key, now = jax.random.split(key)
                of_batch = jax.tree.map(operator.itemgetter(places), rows)
                params, state, value = update(params, state, of_batch, now)
                losses.append(value)
                bar.update()
    return params, np.reshape(jax.device_get(losses), (epochs, -1))


def draw(name: str, figure: Any) -> None:
    """Writes a picture for the documentation."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=110, bbox_inches="tight")
