"""Weights of other frameworks as params, and back.

>>> import jax, jax_dynrnn as rnn
>>> from jax_dynrnn import interop
>>> cell = rnn.LSTMCell(4)
>>> params = cell.init(jax.random.key(0), (2, 5, 3))
>>> variables = interop.tf1.export_params(cell, params)
>>> sorted(variables)
['rnn/lstm_cell/bias', 'rnn/lstm_cell/kernel']
>>> params = interop.tf1.import_params(cell, variables)
"""

from . import tf1 as tf1
