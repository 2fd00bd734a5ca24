"""Cells of other frameworks run here.

>>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
>>> from flax import linen as nn
>>> from jax_dynrnn.interop import foreign
>>> cell, inputs = foreign.LinenCell(nn.GRUCell(4)), jnp.ones((2, 5, 3))
>>> params = cell.init(jax.random.key(0), inputs.shape)
>>> outputs, state = rnn.dynamic_rnn(cell, params, inputs, sequence_length=[5, 3])
>>> outputs.shape, state.shape
((2, 5, 4), (2, 4))
"""

from . import foreign as foreign
