"""The recurrent cells, one file per family."""

from .basic import BasicRNNCell as BasicRNNCell
from .gru import CudnnCompatibleGRUCell as CudnnCompatibleGRUCell
from .gru import GRUCell as GRUCell
from .lstm import BasicLSTMCell as BasicLSTMCell
from .lstm import LSTMCell as LSTMCell
