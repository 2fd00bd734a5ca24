"""Sunspots, a year ahead: ten seeds of a small network, compared with a linear model.

The training data is one series of 221 years, so it is multiplied by a random factor in every
update. The settings chosen are those with the least error in the years 1881 to 1920 after a fit to
the earlier years. Then ten networks are fitted to all years until 1920. Ten seeds are one run, by
`vmap` over a pure function, and the settings are traced, so the run is compiled only once for each
length of the series.

    python examples/sunspots.py            # chooses settings, fits, tests on 1921 to 1979
    python examples/sunspots.py --smoke    # a short run: does the loss fall?
"""

import functools
import itertools
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from data import sunspots
from tqdm import tqdm

import jax_dynrnn as rnn

UNITS, LAGS, UPDATES = 8, 12, 600
SEEDS = jnp.arange(10)
VARIANCE = 1535.0  # of 1700 to 1979: errors on this series are reported relative to it
SPANS = {"1921-55": (1921, 1955), "1956-79": (1956, 1979)}
CELL = rnn.GRUCell(UNITS)


class Settings(NamedTuple):
    noise: float  # standard deviation of the noise added to the inputs
    strength: float  # standard deviation of the logarithm of the random factor
    decay: float  # weight decay of AdamW


GRID = [Settings(*each) for each in itertools.product((0.02, 0.05), (0.0, 0.2, 0.4), (0.1, 0.5))]


def init(key):
    key_rnn, key_dense = jax.random.split(key)
    kernel = jax.random.normal(key_dense, (UNITS,)) * UNITS**-0.5
    return {"rnn": CELL.init(key_rnn, (1, 1, 1)), "kernel": kernel, "bias": jnp.zeros(())}


def forecast(params, numbers, noise=0.0):
    """Forecasts the number of the following year, for each year, `[years]`."""
    # The variance of the square root hardly depends on how high the number is.
    roots = jnp.sqrt(numbers / 100)
    outputs, _ = rnn.dynamic_rnn(CELL, params["rnn"], (roots - 0.6 + noise)[None, :, None])
    return 100 * jnp.square(roots + outputs[0] @ params["kernel"] + params["bias"])


def errors(params, numbers, noise=0.0):
    """The squared errors of each year but the first, relative to `VARIANCE`."""
    return jnp.square(forecast(params, numbers[:-1], noise) - numbers[1:]) / VARIANCE


@functools.partial(jax.jit, static_argnames="updates")
@functools.partial(jax.vmap, in_axes=(None, 0, None, None))
def fit(settings, seed, numbers, updates):
    """The params, and the loss of every update."""
    key_init, key = jax.random.split(jax.random.key(seed))
    schedule = optax.cosine_decay_schedule(1e-2, updates)
    optimizer = optax.adamw(schedule, weight_decay=settings.decay)

    def loss(params, key):
        key_noise, key_factor = jax.random.split(key)
        noise = settings.noise * jax.random.normal(key_noise, numbers[1:].shape)
        factor = jnp.exp(settings.strength * jax.random.normal(key_factor))
        return errors(params, factor * numbers, noise)[LAGS - 1 :].mean()

    def update(carry, key):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params, key)
        changes, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, changes), state), value

    params = init(key_init)
    carry = params, optimizer.init(params)
    (params, _), losses = jax.lax.scan(update, carry, jax.random.split(key, updates))
    return params, losses


def linear(numbers, fitted):
    """The errors of a linear model of the last 12 years, by least squares on the first years."""
    past = np.lib.stride_tricks.sliding_window_view(numbers[:-1], LAGS)
    inputs = np.concatenate([past, np.ones((len(past), 1))], 1)
    weights = np.linalg.lstsq(inputs[: fitted - LAGS], numbers[LAGS:fitted], rcond=None)[0]
    return np.concatenate([np.zeros(LAGS - 1), (inputs @ weights - numbers[LAGS:]) ** 2 / VARIANCE])


def mean(values, years, first, last):
    """The mean error over a span of years, and over the seeds if there are several."""
    return float(np.mean(np.asarray(values)[..., (years[1:] >= first) & (years[1:] <= last)]))


def main(smoke):
    years, numbers = sunspots()

    def until(year):
        """The number of years up to and including `year`."""
        return int(np.searchsorted(years, year, "right"))

    if smoke:
        return fit(GRID[-1], SEEDS[:1], numbers[: until(1920)], 60)[1][0].tolist(), {}
    judged, chosen = jax.jit(jax.vmap(errors, (0, None))), []
    for settings in tqdm(GRID, "settings", unit="setting"):
        params, _ = fit(settings, SEEDS, numbers[: until(1880)], UPDATES)
        chosen.append((mean(judged(params, numbers), years, 1881, 1920), settings))
    params, losses = fit(min(chosen)[1], SEEDS, numbers[: until(1920)], UPDATES)
    ours, linears = judged(params, numbers), linear(numbers, until(1920))
    values, references = (
        {name: round(mean(each, years, *span), 3) for name, span in SPANS.items()}
        for each in (ours, linears)
    )
    draw(years, numbers, jax.vmap(forecast, (0, None))(params, numbers))
    return np.mean(losses, 0).tolist(), {
        "task": "sunspots: the next year",
        "measure": "squared error over the variance, 1921-55 and 1956-79, mean of 10 seeds",
        "value": " and ".join(map(str, values.values())),
        "reference": f"{' and '.join(map(str, references.values()))}, AR(12)",
        "settings": min(chosen)[1]._asdict(),
        "deviation over seeds": {
            name: round(float(np.std([mean(e, years, *span) for e in ours])), 3)
            for name, span in SPANS.items()
        },
    }


def draw(years, numbers, forecasts):
    figure, ax = plt.subplots(figsize=(8, 3))
    ax.plot(years[1:], np.transpose(forecasts)[:-1], color="C3", lw=0.5, alpha=0.5)
    ax.plot([], [], color="C3", label="a year before, ten networks")
    ax.plot(years, numbers, ".", color="C0", ms=4, label="sunspots")
    ax.axvline(1920.5, color="black", lw=1)
    ax.text(1921, 210, " not seen in training", va="top")
    ax.set(xlim=(1860, 2009), ylim=(0, 215), xlabel="year", ylabel="sunspot number")
    ax.legend(frameon=False, loc="upper left")
    harness.draw("sunspots", figure)


if __name__ == "__main__":
    harness.run("sunspots", __doc__, main)
