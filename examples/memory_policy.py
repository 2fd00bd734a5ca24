"""A policy with memory: reinforcement learning in which the first observation decides at the end.

A corridor begins with a sign, left or right, and ends in a turn. There the policy has to turn as
the sign said, which is no longer visible. Episodes follow one another in each row. `resets` at
their first steps reset the state, both when acting and when learning from the recorded steps. The
policy without memory is the same cell, reset at every step. Five seeds run as one program under
`vmap`. Pure functions, optax.

    python examples/memory_policy.py            # learns, with memory and without
    python examples/memory_policy.py --smoke    # a short run: does it learn?
"""

import functools
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from tqdm import tqdm

import jax_dynrnn as rnn

LENGTH, LIMIT = 12, 32  # steps to the turn, and the most in an episode
ROWS, STEPS, CHUNKS, CHUNK, SEEDS, RATE = 64, 32, 16, 25, 5, 5e-3
DISCOUNT, SMOOTHING, ENTROPY = 0.97, 0.95, 0.02
FEATURES, ACTIONS = 4, 3  # straight on, left, right
CELL, OPTIMIZER = rnn.GRUCell(32), optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE))


class World(NamedTuple):
    """The state of the environment in each row; leaves are `[rows]`."""

    sign: Any  # 0 left, 1 right
    place: Any
    age: Any
    first: Any  # whether this is the first step of an episode


def begin(key):
    zeros = jnp.zeros(ROWS, jnp.int32)
    return World(jax.random.randint(key, (ROWS,), 0, 2), zeros, zeros, zeros == 0)


def observed(world):
    """Observations `[rows, FEATURES]`: the sign at the start, whether this is the turn, and 1."""
    at_start, at_turn = world.place == 0, world.place == LENGTH
    sign = [at_start & (world.sign == side) for side in (0, 1)]
    return jnp.stack([*sign, at_turn, jnp.ones(ROWS, bool)], -1).astype(jnp.float32)


def moved(world, actions, key):
    """The world after a step, and the rewards: 1 for the correct turn, else 0."""
    turned = (world.place == LENGTH) & (actions > 0)
    rewards = (turned & (actions - 1 == world.sign)).astype(jnp.float32)
    over = turned | (world.age + 1 == LIMIT)
    place = jnp.minimum(world.place + (actions == 0), LENGTH)
    on = World(world.sign, place, world.age + 1, over)

    def select(new, old):
        return jnp.where(over, new, old)

    # Rows whose episode is over begin a new one in the same step, so that no step is idle.
    return jax.tree.map(select, begin(key), on)._replace(first=over), rewards


def init(key):
    keys = jax.random.split(key)
    heads = jax.random.normal(keys[1], (CELL.num_units, ACTIONS + 1)) * 0.1
    return {"rnn": CELL.init(keys[0], (1, 1, FEATURES)), "heads": heads}


def policy(params, observations, first, state, memory):
    """Logits `[rows, T, ACTIONS]` and values `[rows, T]` of the steps, and the state after them."""
    resets = first if memory else jnp.ones_like(first)
    outputs, state = rnn.dynamic_rnn(
        CELL, params["rnn"], observations, initial_state=state, resets=resets
    )
    heads = outputs @ params["heads"]
    return heads[..., :ACTIONS], heads[..., ACTIONS], state


class Steps(NamedTuple):
    """Recorded steps; leaves are `[rows, STEPS, ...]`."""

    observations: Any
    first: Any
    actions: Any
    rewards: Any
    over: Any


def acted(params, world, state, key, memory):
    """Acts for STEPS steps in every row, and records them."""

    def step(carry, key):
        world, state = carry
        observation, (key_act, key_world) = observed(world), jax.random.split(key)
        logits, _, state = policy(params, observation[:, None], world.first[:, None], state, memory)
        actions = jax.random.categorical(key_act, logits[:, 0])
        new, rewards = moved(world, actions, key_world)
        return (new, state), Steps(observation, world.first, actions, rewards, new.first)

    carry, steps = jax.lax.scan(step, (world, state), jax.random.split(key, STEPS))
    return *carry, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps)


def advantages(values, last, steps):
    """Generalised advantage estimates, arXiv:1506.02438, computed backwards in time."""
    going_on = 1.0 - steps.over  # 0 at the end of an episode: nothing flows back across it
    ahead = jnp.concatenate([values[:, 1:], last[:, None]], 1)
    errors = steps.rewards + DISCOUNT * going_on * ahead - values

    def back(advantage, x):
        error, going_on = x
        advantage = error + DISCOUNT * SMOOTHING * going_on * advantage
        return advantage, advantage

    return jax.lax.scan(back, 0 * last, (errors.T, going_on.T), reverse=True)[1].T


def loss(params, steps, start, last, memory):
    """Actor, critic and entropy loss, from a run over the recorded steps and their start state."""
    logits, values, _ = policy(params, steps.observations, steps.first, start, memory)
    gained = advantages(jax.lax.stop_gradient(values), last, steps)
    errors = values - jax.lax.stop_gradient(values + gained)
    log = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log, steps.actions[..., None], -1)[..., 0]
    entropy = -(jnp.exp(log) * log).sum(-1)
    return (-chosen * gained + 0.5 * errors**2 - ENTROPY * entropy).mean()


@functools.partial(jax.jit, static_argnames="memory")
@functools.partial(jax.vmap, in_axes=(0, None))
def learned(carry, memory):
    """CHUNK updates of every seed, and the share of successful episodes in each."""

    def update(carry, _):
        params, momenta, world, start, key = carry
        key, key_act = jax.random.split(key)
        world, state, steps = acted(params, world, start, key_act, memory)
        # The value of the state after the last step stands for the steps to come.
        now = observed(world)[:, None], world.first[:, None]
        _, last, _ = policy(params, *now, state, memory)
        gradients = jax.grad(loss)(params, steps, start, last[:, 0], memory)
        changes, momenta = OPTIMIZER.update(gradients, momenta, params)
        well = (steps.rewards > 0).sum() / jnp.maximum(steps.over.sum(), 1)
        return (optax.apply_updates(params, changes), momenta, world, state, key), well

    return jax.lax.scan(update, carry, length=CHUNK)


def curve(memory, chunks):
    """The share of successful episodes, `[SEEDS, updates]`."""
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 3))(jnp.arange(SEEDS))
    params = jax.vmap(init)(keys[:, 0])
    state = CELL.zero_state((SEEDS, ROWS), jnp.float32)
    world = jax.vmap(begin)(keys[:, 1])
    carry, found = (params, jax.vmap(OPTIMIZER.init)(params), world, state, keys[:, 2]), []
    for _ in tqdm(range(chunks), "with memory" if memory else "without", unit="chunk"):
        carry, well = learned(carry, memory)
        found.append(np.asarray(well))
    return np.concatenate(found, 1)


def main(smoke):
    if smoke:
        return (1 - curve(memory=True, chunks=2).mean(0)).tolist(), {}
    curves = {memory: curve(memory, CHUNKS) for memory in (True, False)}
    figure, ax = plt.subplots(figsize=(6, 3))
    for memory, found in curves.items():
        color, name = ("C0", "GRU") if memory else ("C3", "reset at every step")
        ax.plot(found.T, color=color, lw=0.5, alpha=0.5)
        ax.plot(found.mean(0), color=color, label=f"{name}, {SEEDS} seeds and their mean")
    ax.set(xlabel="update", ylabel="episodes that end well", ylim=(0, 1.02))
    ax.legend(frameon=False)
    harness.draw("memory_policy", figure)
    with_memory, without = (float(curves[m][:, -CHUNK:].mean()) for m in (True, False))
    return (1 - curves[True].mean(0)).tolist(), {
        "task": "reinforcement learning that needs memory",
        "measure": f"episodes that end well, mean of {SEEDS} seeds",
        "value": round(with_memory, 4),
        "reference": f"{without:.3f}, the same without memory",
    }


if __name__ == "__main__":
    harness.run("memory_policy", __doc__, main)
