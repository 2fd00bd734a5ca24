"""Carbon dioxide over Mauna Loa: forecasts one year from two, with missing weeks, by a mask.

`mask` marks the weeks that were measured. In the other weeks the state does not change, whatever
the array holds there. `state` is the state after the last measured week, and a dense layer on it
computes the forecast. In training, further weeks are hidden at random, so that the model learns to
handle gaps. Linen layers, optax.

    python examples/carbon_dioxide.py            # trains on years before 1985, tests on later ones
    python examples/carbon_dioxide.py --smoke    # a short run: does the loss fall?
"""

import operator
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from data import carbon_dioxide
from flax import linen

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl

UNITS, PAST, AHEAD, YEAR, SCALE = 32, 104, 52, 52, 5.0  # weeks; ppm
BATCH, EPOCHS, RATE, FROM = 64, 40, 5e-3, np.datetime64("1985-01-01")


class Windows(NamedTuple):
    """Two years of inputs, and the third year to forecast."""

    values: np.ndarray  # [rows, PAST], ppm; NaN in weeks that were not measured
    season: np.ndarray  # [rows, PAST, 2]
    mask: np.ndarray  # bool [rows, PAST]
    future: np.ndarray  # [rows, AHEAD], ppm; NaN in weeks that were not measured


class Forecaster(linen.Module):
    @linen.compact
    def __call__(self, windows):
        values, mask = windows.values[..., None], windows.mask
        last = rnn.last_output(values, mask=mask)
        inputs = jnp.concatenate([(values - last[:, None]) / SCALE, windows.season], -1)
        _, state = rnnl.RNN(rnn.GRUCell(UNITS))(inputs, mask=mask)
        return last + SCALE * linen.Dense(AHEAD)(state)


def cut(dates, values, starts):
    """The windows that start at the given weeks of the record."""
    angle = 2 * np.pi * (dates - dates.astype("datetime64[Y]")).astype(int) / 365.25
    season = np.stack([np.sin(angle), np.cos(angle)], -1).astype(np.float32)
    past = starts[:, None] + np.arange(PAST)
    future = values[starts[:, None] + PAST + np.arange(AHEAD)]
    return Windows(values[past], season[past], ~np.isnan(values[past]), future)


def loss(params, windows, key):
    """The mean squared error over the measured weeks, in units of `SCALE`."""
    key_share, key_hidden = jax.random.split(key)
    share = jax.random.uniform(key_share, (len(windows.mask), 1), maxval=0.5)
    visible = jax.random.uniform(key_hidden, windows.mask.shape) >= share
    forecast = Forecaster().apply(params, windows._replace(mask=windows.mask & visible))
    measured = ~jnp.isnan(windows.future)
    # `where` in the mean alone would let NaN into the gradient.
    difference = jnp.where(measured, forecast - windows.future, 0.0) / SCALE
    return jnp.square(difference).mean(where=measured)


def optimizer(updates):
    return optax.adamw(optax.cosine_decay_schedule(RATE, updates))


def error(forecast, windows):
    """The root mean square error of a forecast, ppm."""
    return round(float(np.sqrt(np.nanmean(np.square(forecast - windows.future)))), 4)


def as_last_year(values, starts, before):
    """A baseline: the value a year ago plus the mean yearly growth in `values[:before]`."""
    measured = ~np.isnan(values)
    filled = np.interp(np.arange(len(values)), np.flatnonzero(measured), values[measured])
    growth = np.mean(filled[YEAR:before] - filled[: before - YEAR])
    return filled[starts[:, None] + PAST - YEAR + np.arange(AHEAD)] + growth


def main(smoke):
    dates, values = carbon_dioxide()
    before = int(np.searchsorted(dates, FROM))
    train = cut(dates, values, np.arange(before - PAST - AHEAD + 1))
    params = Forecaster().init(jax.random.key(0), jax.tree.map(lambda x: x[:1], train))
    epochs = 2 if smoke else EPOCHS
    params, losses = harness.fit(loss, optimizer, params, train, BATCH, epochs)
    losses = losses.mean(1).tolist()
    if smoke:
        return losses, {}
    starts = np.arange(before - PAST, len(values) - PAST - AHEAD + 1)
    test, forecast = cut(dates, values, starts), jax.jit(Forecaster().apply)
    hidden = np.random.default_rng(0).random(test.mask.shape) < 1 / 3
    gaps = test._replace(mask=test.mask & ~hidden)
    draw(jax.tree.map(operator.itemgetter(400), gaps), forecast(params, gaps)[400])
    naive = error(as_last_year(values, starts, before), test)
    return losses, {
        "task": "carbon dioxide, with weeks missing: the next year from two",
        "measure": "error of the forecasts from 1985 on, ppm (root mean square)",
        "value": error(forecast(params, test), test),
        "a third of the weeks hidden": error(forecast(params, gaps), gaps),
        "reference": f"{naive}, the year before and a year's growth",
    }


def draw(window, forecast):
    """Draws one forecast from a past with gaps."""
    figure, ax = plt.subplots(figsize=(8, 3))
    past, ahead = np.arange(-PAST, 0), np.arange(AHEAD)
    ax.plot(past, np.where(window.mask, window.values, np.nan), ".", color="C0", label="seen")
    hidden = np.where(window.mask, np.nan, window.values)
    ax.plot(past, hidden, "x", color="0.7", ms=4, label="hidden by the mask")
    ax.plot(ahead, window.future, ".", color="C2", label="what came")
    ax.plot(ahead, forecast, color="C3", label="forecast from the state")
    ax.set(xlabel="week", ylabel="CO2, ppm")
    ax.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    harness.draw("carbon_dioxide", figure)


if __name__ == "__main__":
    harness.run("carbon_dioxide", __doc__, main)
