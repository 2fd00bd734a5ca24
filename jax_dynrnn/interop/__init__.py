"""Weights of other frameworks as params, and back; their cells in a run.

TensorFlow 1, without TensorFlow:

>>> import tempfile, jax, jax.numpy as jnp, jax_dynrnn as rnn
>>> from jax_dynrnn import interop
>>> cell, inputs = rnn.LSTMCell(4), jnp.ones((2, 5, 3))
>>> params = cell.init(jax.random.key(0), inputs.shape)
>>> with tempfile.TemporaryDirectory() as folder:
...     variables = interop.tf1.export_params(cell, params)
...     interop.checkpoint.write_checkpoint(f"{folder}/model.ckpt", variables)
...     variables = interop.checkpoint.read_checkpoint(f"{folder}/model.ckpt")
...     list(variables), interop.tf1.import_params(cell, variables)["kernel"].shape
(['rnn/lstm_cell/bias', 'rnn/lstm_cell/kernel'], (7, 16))

`python -m jax_dynrnn.interop model.ckpt` says what is in a checkpoint, and which cells it fits.

A cell of Flax's:

>>> from flax import linen as nn
>>> cell = interop.foreign.LinenCell(nn.GRUCell(4))
>>> params = cell.init(jax.random.key(0), inputs.shape)
>>> outputs, state = rnn.dynamic_rnn(cell, params, inputs, sequence_length=[5, 3])
"""

from . import checkpoint as checkpoint
from . import foreign as foreign
from . import tf1 as tf1
