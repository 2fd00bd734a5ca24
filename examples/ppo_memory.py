"""PPO with memory, all seeds in one program: the replay equals the rollout before it learns.

A corridor begins with a sign, left or right, and ends in a turn after a number of steps that
differs from episode to episode. At the turn the agent has to turn as the sign said. Rows end their
episodes at different steps, inside of a chunk, and a chunk begins with the state in which the one
before ended. `ScannedRNN` runs single steps when acting, and whole chunks when learning.

Before the first update the ratio of every step has to be 1: `check_replay` says so, or which step
is wrong, and whether resets are one step early or late. Flax Linen, optax.

    python examples/ppo_memory.py            # checks, and learns
    python examples/ppo_memory.py --smoke    # a short run: does it learn?
"""

import functools
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from tqdm import tqdm

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn.testing import check_replay

ROWS, STEPS, SEEDS, UPDATES, EPOCHS, PARTS = 64, 32, 4, 150, 4, 4
SHORTEST, LONGEST, LIMIT = 4, 12, 24  # steps to the turn, and the most in an episode
DISCOUNT, SMOOTHING, CLIP, ENTROPY, RATE = 0.97, 0.95, 0.2, 0.01, 2e-3
FEATURES, ACTIONS = 4, 3  # straight on, left, right
CELL = rnn.GRUCell(32)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(RATE, eps=1e-5))


class World(NamedTuple):
    """The state of the environment in each row; leaves are `[rows]`."""

    sign: Any  # 0 left, 1 right
    length: Any
    place: Any
    age: Any


def begin(key):
    key_sign, key_length = jax.random.split(key)
    zeros = jnp.zeros(ROWS, jnp.int32)
    length = jax.random.randint(key_length, (ROWS,), SHORTEST, LONGEST + 1)
    return World(jax.random.randint(key_sign, (ROWS,), 0, 2), length, zeros, zeros)


def observed(world):
    """Observations `[rows, FEATURES]`: the sign at the start, whether this is the turn, and 1."""
    signs = [(world.age == 0) & (world.sign == side) for side in (0, 1)]
    features = [*signs, world.place == world.length, jnp.ones(ROWS, bool)]
    return jnp.stack(features, -1).astype(jnp.float32)


def moved(world, actions, key):
    """`(world, rewards, done)` after a step; rows that are done have begun a new episode."""
    turned = (world.place == world.length) & (actions > 0)
    rewards = (turned & (actions - 1 == world.sign)).astype(jnp.float32)
    done = turned | (world.age + 1 == LIMIT)
    place = jnp.minimum(world.place + (actions == 0), world.length)
    on = world._replace(place=place, age=world.age + 1)
    return jax.tree.map(lambda new, old: jnp.where(done, new, old), begin(key), on), rewards, done


class ActorCritic(nn.Module):
    """`(carry, (observations [T, B, F], resets [T, B])) -> (carry, logits, values)`."""

    @nn.compact
    def __call__(self, carry, steps):
        observations, resets = steps
        features = nn.relu(nn.Dense(32)(observations))
        carry, outputs = rnnl.ScannedRNN(CELL)(carry, (features, resets))
        return carry, nn.Dense(ACTIONS)(outputs), nn.Dense(1)(outputs)[..., 0]


MODEL = ActorCritic()


class Agent(NamedTuple):
    """What acts: the worlds, the memory, and the done flags of the last step, in each row."""

    world: World
    carry: Any
    done: Any


class Steps(NamedTuple):
    """Recorded steps; leaves are `[STEPS, rows, ...]`."""

    observation: Any
    action: Any
    log_prob: Any
    value: Any
    reward: Any
    done: Any  # whether the episode ended *with* this step


def log_prob_of(logits, actions):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), actions[..., None], -1)[..., 0]


def rollout(params, agent, key):
    """Acts for STEPS steps -> `(agent, steps)`."""

    def step(agent, key):
        key_act, key_world = jax.random.split(key)
        observation = observed(agent.world)
        # A state is reset before a step if the step before it ended an episode.
        one_step = observation[None], agent.done[None]
        carry, logits, value = MODEL.apply(params, agent.carry, one_step)
        action = jax.random.categorical(key_act, logits[0])
        world, reward, done = moved(agent.world, action, key_world)
        log_prob = log_prob_of(logits[0], action)
        return Agent(world, carry, done), Steps(
            observation, action, log_prob, value[0], reward, done
        )

    return jax.lax.scan(step, agent, jax.random.split(key, STEPS))


def replayed(params, first, steps, resets):
    """The logits and values of recorded steps, from the memory that the agent began them with."""
    _, logits, values = MODEL.apply(params, first.carry, (steps.observation, resets))
    return logits, values


def resets_of(first, steps):
    return rnn.resets_from_done(steps.done, previous=first.done, time_major=True)


def advantages(steps, last_value):
    """Generalised advantage estimates, arXiv:1506.02438, computed backwards in time."""

    def back(carry, step):
        advantage, ahead = carry
        going_on = 1.0 - step.done  # nothing flows back across the end of an episode
        error = step.reward + DISCOUNT * going_on * ahead - step.value
        advantage = error + DISCOUNT * SMOOTHING * going_on * advantage
        return (advantage, step.value), advantage

    return jax.lax.scan(back, (0 * last_value, last_value), steps, reverse=True)[1]


def loss(params, first, steps, gained):
    """PPO's clipped loss, arXiv:1707.06347, over some rows with all of their steps."""
    logits, values = replayed(params, first, steps, resets_of(first, steps))
    ratio = jnp.exp(log_prob_of(logits, steps.action) - steps.log_prob)
    scaled = (gained - gained.mean()) / (gained.std() + 1e-8)
    clipped = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
    actor = -jnp.minimum(ratio * scaled, clipped * scaled).mean()
    critic = 0.5 * ((values - steps.value - gained) ** 2).mean()
    entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1).mean()
    return actor + 0.5 * critic - ENTROPY * entropy


def learned(params, momenta, first, steps, gained, key):
    """EPOCHS passes over the rows, in PARTS minibatches each."""

    def minibatch(carry, rows):
        params, momenta = carry
        some_first = jax.tree.map(lambda x: x[rows], first)
        some_steps, some_gained = jax.tree.map(lambda x: x[:, rows], (steps, gained))
        gradients = jax.grad(loss)(params, some_first, some_steps, some_gained)
        changes, momenta = OPTIMIZER.update(gradients, momenta, params)
        return (optax.apply_updates(params, changes), momenta), None

    def order(key):
        return jax.random.permutation(key, ROWS).reshape(PARTS, -1)

    rows = jax.vmap(order)(jax.random.split(key, EPOCHS)).reshape(EPOCHS * PARTS, -1)
    return jax.lax.scan(minibatch, (params, momenta), rows)[0]


class Learner(NamedTuple):
    params: Any
    momenta: Any
    agent: Agent
    key: Any


def init(seed):
    key, key_params, key_world = jax.random.split(jax.random.key(seed), 3)
    world, done = begin(key_world), jnp.zeros(ROWS, bool)
    carry = CELL.zero_state(ROWS, jnp.float32)
    params = MODEL.init(key_params, carry, (observed(world)[None], done[None]))
    return Learner(params, OPTIMIZER.init(params), Agent(world, carry, done), key)


def acted(learner):
    """One chunk -> `(learner, first, steps)`: `first` is the agent before its first step."""
    key, key_act = jax.random.split(learner.key)
    agent, steps = rollout(learner.params, learner.agent, key_act)
    return learner._replace(agent=agent, key=key), learner.agent, steps


def update(learner):
    """One chunk, and what is learned from it -> `(learner, the share of rewarded episodes)`."""
    learner, first, steps = acted(learner)
    now = observed(learner.agent.world)[None], learner.agent.done[None]
    _, _, last_value = MODEL.apply(learner.params, learner.agent.carry, now)
    gained = advantages(steps, last_value[0])
    key, key_order = jax.random.split(learner.key)
    params, momenta = learned(learner.params, learner.momenta, first, steps, gained, key_order)
    well = steps.reward.sum() / jnp.maximum(steps.done.sum(), 1)
    return Learner(params, momenta, learner.agent, key), well


def checked(learners):
    """Checks every seed before its first update, on chunks that begin in the middle of episodes."""
    learners, *_ = jax.jit(jax.vmap(acted))(learners)
    _, first, steps = jax.jit(jax.vmap(acted))(learners)

    @jax.jit
    def log_probs(params, first, steps, resets):
        logits, _ = replayed(params, first, steps, resets)
        return log_prob_of(logits, steps.action)

    largest = 0.0
    assert first.done.any() and first.carry.any()
    for seed in range(SEEDS):
        params, one, of_one = jax.tree.map(lambda x: x[seed], (learners.params, first, steps))  # noqa: B023
        resets = resets_of(one, of_one)
        assert resets[1:].any()
        replay = functools.partial(log_probs, params, one, of_one)
        check_replay(replay, resets, of_one.log_prob)
        largest = max(largest, float(jnp.abs(jnp.exp(replay(resets) - of_one.log_prob) - 1).max()))
    return largest


def main(smoke):
    learners = jax.vmap(init)(jnp.arange(SEEDS))
    largest = checked(learners)
    print(f"before the first update every ratio is 1 within {largest:.1e}")
    step, shares = jax.jit(jax.vmap(update)), []
    for _ in tqdm(range(30 if smoke else UPDATES), "learning", unit="update"):
        learners, well = step(learners)
        shares.append(np.asarray(well))
    shares = np.array(shares)
    wrong = (1 - shares.mean(1)).tolist()
    if smoke:
        return [np.mean(wrong[:5]), np.mean(wrong[-5:])], {}
    figure, ax = plt.subplots(figsize=(6, 3))
    ax.plot(shares, color="C0", lw=0.6, alpha=0.6)
    ax.plot(shares.mean(1), color="C0", label=f"{SEEDS} seeds and their mean")
    ax.axhline(0.5, color="C3", lw=1, label="without memory at most")
    ax.set(xlabel="update", ylabel="episodes that end well", ylim=(0, 1.02))
    ax.legend(frameon=False)
    harness.draw("ppo_memory", figure)
    return wrong, {
        "task": "PPO with memory, in corridors of different lengths",
        "measure": f"episodes that end well, mean of {SEEDS} seeds",
        "value": round(float(shares[-10:].mean()), 4),
        "reference": "0.5, the most without memory",
        "ratio": largest,
    }


if __name__ == "__main__":
    harness.run("ppo_memory", __doc__, main)
