"""The recurrent cells, one file per family."""

from .basic import BasicRNNCell as BasicRNNCell
from .conv import Conv1DLSTMCell as Conv1DLSTMCell
from .conv import Conv2DLSTMCell as Conv2DLSTMCell
from .conv import Conv3DLSTMCell as Conv3DLSTMCell
from .conv import ConvLSTMCell as ConvLSTMCell
from .coupled import CoupledInputForgetGateLSTMCell as CoupledInputForgetGateLSTMCell
from .grouped import GLSTMCell as GLSTMCell
from .gru import CudnnCompatibleGRUCell as CudnnCompatibleGRUCell
from .gru import GRUBlockCell as GRUBlockCell
from .gru import GRUBlockCellV2 as GRUBlockCellV2
from .gru import GRUCell as GRUCell
from .independent import IndRNNCell as IndRNNCell
from .independent import IndyGRUCell as IndyGRUCell
from .independent import IndyLSTMCell as IndyLSTMCell
from .layer_norm import LayerNormBasicLSTMCell as LayerNormBasicLSTMCell
from .layer_norm import LayerNormLSTMCell as LayerNormLSTMCell
from .lstm import BasicLSTMCell as BasicLSTMCell
from .lstm import LSTMBlockCell as LSTMBlockCell
from .lstm import LSTMCell as LSTMCell
from .minimal import CFNCell as CFNCell
from .minimal import MinimalRNNCell as MinimalRNNCell
from .nas import NASCell as NASCell
from .sru import SRUCell as SRUCell
from .ugrnn import IntersectionRNNCell as IntersectionRNNCell
from .ugrnn import UGRNNCell as UGRNNCell
from .weight_norm import WeightNormLSTMCell as WeightNormLSTMCell
