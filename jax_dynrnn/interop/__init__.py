"""Converts weights of other frameworks to params and back, and runs their cells.

Variables of TensorFlow 1, without TensorFlow:

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

`python -m jax_dynrnn.interop model.ckpt` lists a checkpoint's variables, and the cells they fit.

`torch`, `keras`, `flax`, `haiku`, `equinox` and `cudnn` have the same two functions. They work
without the framework itself:

>>> weights = interop.torch.export_params(cell, params)          # for load_state_dict
>>> params = interop.torch.import_params(cell, weights)

A Flax cell, adapted to this package:

>>> from flax import linen as nn
>>> cell = interop.foreign.LinenCell(nn.GRUCell(4))
>>> params = cell.init(jax.random.key(0), inputs.shape)
>>> outputs, state = rnn.dynamic_rnn(cell, params, inputs, sequence_length=[5, 3])
"""

from . import checkpoint as checkpoint
from . import cudnn as cudnn
from . import equinox as equinox
from . import flax as flax
from . import foreign as foreign
from . import haiku as haiku
from . import keras as keras
from . import tf1 as tf1
from . import torch as torch

__all__ = ["checkpoint", "cudnn", "equinox", "flax", "foreign", "haiku", "keras", "tf1", "torch"]
