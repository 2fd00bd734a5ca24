"""Weights of other frameworks as params, and back.

>>> import tempfile, jax, jax_dynrnn as rnn
>>> from jax_dynrnn import interop
>>> cell = rnn.LSTMCell(4)
>>> params = cell.init(jax.random.key(0), (2, 5, 3))
>>> with tempfile.TemporaryDirectory() as folder:               # TensorFlow 1
...     variables = interop.tf1.export_params(cell, params)
...     interop.checkpoint.write_checkpoint(f"{folder}/model.ckpt", variables)
...     variables = interop.checkpoint.read_checkpoint(f"{folder}/model.ckpt")
...     list(variables), interop.tf1.import_params(cell, variables)["kernel"].shape
(['rnn/lstm_cell/bias', 'rnn/lstm_cell/kernel'], (7, 16))

`python -m jax_dynrnn.interop model.ckpt` says what is in a checkpoint, and which cells it fits.
"""

from . import checkpoint as checkpoint
from . import tf1 as tf1
