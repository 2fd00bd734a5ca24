"""The recurrent cells, one file per family."""

from .basic import BasicRNNCell as BasicRNNCell
from .coupled import CoupledInputForgetGateLSTMCell as CoupledInputForgetGateLSTMCell
from .grouped import GLSTMCell as GLSTMCell
from .gru import CudnnCompatibleGRUCell as CudnnCompatibleGRUCell
from .gru import GRUBlockCell as GRUBlockCell
from .gru import GRUBlockCellV2 as GRUBlockCellV2
from .gru import GRUCell as GRUCell
from .layer_norm import LayerNormBasicLSTMCell as LayerNormBasicLSTMCell
from .layer_norm import LayerNormLSTMCell as LayerNormLSTMCell
from .lstm import BasicLSTMCell as BasicLSTMCell
from .lstm import LSTMBlockCell as LSTMBlockCell
from .lstm import LSTMCell as LSTMCell
from .weight_norm import WeightNormLSTMCell as WeightNormLSTMCell
