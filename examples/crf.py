"""A conditional random field over the tags of each row, as in `tf.contrib.crf`.

`unary` are the scores of each tag at each step, `[B, T, N]`, and `pairs` `[N, N]` those of each tag
after each other one. docs/decoding.md explains these functions, and compares them with a search
through all sequences.
"""

import jax
import jax.numpy as jnp

import jax_dynrnn as rnn


def sequence_score(unary, pairs, tags, lengths):
    valid = rnn.sequence_mask(lengths, tags.shape[1])
    single = jnp.take_along_axis(unary, tags[..., None], -1)[..., 0]
    both = pairs[tags[:, :-1], tags[:, 1:]]
    return (single * valid).sum(1) + (both * valid[:, 1:]).sum(1)


def over_steps(combine, unary, pairs, lengths):
    """The scores of the last valid tag, and what `combine` keeps of every step."""

    def step(total, x):
        scores, t = x
        best, kept = combine(total[:, :, None] + pairs + scores[:, None])
        return jnp.where((t < lengths)[:, None], best, total), kept

    rest = unary[:, 1:].swapaxes(0, 1), jnp.arange(1, unary.shape[1])
    return jax.lax.scan(step, unary[:, 0], rest)


def log_norm(unary, pairs, lengths):
    total, _ = over_steps(lambda x: (jax.nn.logsumexp(x, 1), None), unary, pairs, lengths)
    return jnp.where(lengths > 0, jax.nn.logsumexp(total, -1), 0)


def log_likelihood(unary, pairs, tags, lengths):
    return sequence_score(unary, pairs, tags, lengths) - log_norm(unary, pairs, lengths)


def viterbi(unary, pairs, lengths):
    """The best tags `[batch, time]`, and their score."""
    total, parents = over_steps(lambda x: (x.max(1), x.argmax(1)), unary, pairs, lengths)
    last = total.argmax(-1)

    def back(tag, x):
        parent, t = x
        before = jnp.take_along_axis(parent, tag[:, None], 1)[:, 0]
        return jnp.where(t < lengths, before, tag), tag

    steps = jnp.arange(1, unary.shape[1])
    first, tags = jax.lax.scan(back, last, (parents, steps), reverse=True)
    return jnp.concatenate([first[None], tags]).T, total.max(-1)
