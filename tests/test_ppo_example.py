"""The PPO of examples/ppo_memory.py, with each published error planted in it."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_dynrnn as rnn
from jax_dynrnn.testing import check_replay

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


pytestmark = pytest.mark.usefixtures("jax_defaults")


@pytest.fixture
def ppo(monkeypatch):
    """The example's module, with few rows and steps."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "ppo_memory", raising=False)
    import ppo_memory

    for name, value in {"ROWS": 16, "STEPS": 16, "SEEDS": 2}.items():
        monkeypatch.setattr(ppo_memory, name, value)
    return ppo_memory


@pytest.fixture
def second(ppo):
    """The second chunk of the first seed with a done flag right before it:
    `(params, agent before it, steps)`."""
    act = jax.jit(ppo.acted)
    for seed in range(100):
        learner, *_ = act(ppo.init(seed))
        _, first, steps = act(learner)
        if first.done.any() and not steps.done[-1].any():
            break
    first_ends = np.asarray(steps.done).argmax(0)
    assert first.done.any() and steps.done[:-1].any() and len({*first_ends}) > 1
    return learner.params, first, steps


def check(ppo, second, resets, first=None):
    params, own_first, steps = second

    def replay(resets):
        logits, _ = ppo.replayed(params, first or own_first, steps, resets)
        return ppo.log_prob_of(logits, steps.action)

    check_replay(jax.jit(replay), resets, steps.log_prob)


def test_the_ratio_is_1_before_the_first_update(ppo, monkeypatch):
    """For all seeds in one `vmap`, with resets in chunks and stored states."""
    monkeypatch.setattr(ppo, "ROWS", 64)
    assert ppo.checked(jax.vmap(ppo.init)(jnp.arange(2))) <= 1e-5


PLANTED = {
    "the done of a step is its reset": (
        lambda first, steps: steps.done,
        "one step later, and before step 0 in row .*last done of the chunk before is missing",
    ),
    "done is shifted late": (
        lambda first, steps: rnn.resets_from_done(
            rnn.resets_from_done(steps.done, previous=first.done, time_major=True),
            time_major=True,
        ),
        "equal if resets come one step earlier",
    ),
    "the last done of the chunk before is dropped": (
        lambda first, steps: rnn.resets_from_done(steps.done, time_major=True),
        "the last done of the chunk before is missing",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_resets(ppo, second, name):
    """Each published off-by-one is named."""
    make, message = PLANTED[name]
    _, first, steps = second
    with pytest.raises(AssertionError, match=message):
        check(ppo, second, make(first, steps))


def test_planted_states(ppo, second):
    """The state after the first step, stored in place of the one before it."""
    params, first, steps = second
    resets = ppo.resets_of(first, steps)
    check(ppo, second, resets)
    carry, *_ = ppo.MODEL.apply(params, first.carry, (steps.observation[:1], resets[:1]))
    with pytest.raises(AssertionError, match="at step [01].*\n.*the one before step 0"):
        check(ppo, second, resets, first._replace(carry=carry))


def test_a_state_that_is_multiplied_by_the_flag():
    """`carry * (1 - reset)` loses a learned initial state: named as no shift of resets."""
    cell = rnn.LearnedInitialState(rnn.GRUCell(4))
    inputs = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float32)
    params = jax.tree.map(lambda x: x + 0.3, params)
    resets = np.zeros((6, 2), bool)
    resets[2, 0] = resets[4, 1] = True
    start = cell.start(params, (2,), jnp.float32)

    def act(multiplies):
        state, outputs = start, []
        for t in range(6):
            flag = resets[t][:, None]
            state = state * (1 - flag) if multiplies else jnp.where(flag, start, state)
            output, state = cell(params, inputs[t], state)
            outputs.append(output)
        return np.stack(outputs)

    replay = functools.partial(
        lambda resets: rnn.dynamic_rnn(cell, params, inputs, resets=resets, time_major=True)[0]
    )
    check_replay(replay, resets, act(False))
    with pytest.raises(AssertionError, match="at step 2, row 0.*\n.*not multiplied by 0"):
        check_replay(replay, resets, act(True))
