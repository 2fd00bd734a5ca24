"""Weights of other frameworks as params, and back.

>>> import jax, jax_dynrnn as rnn
>>> from jax_dynrnn import interop
>>> cell = rnn.LSTMCell(4)
>>> params = cell.init(jax.random.key(0), (2, 5, 3))
>>> weights = interop.torch.export_params(cell, params)          # for load_state_dict
>>> params = interop.torch.import_params(cell, weights)

`torch`, `keras`, `flax`, `haiku`, `equinox` and `cudnn` each have these two functions. None of the
frameworks is needed to use them.
"""

from . import cudnn as cudnn
from . import equinox as equinox
from . import flax as flax
from . import haiku as haiku
from . import keras as keras
from . import torch as torch
