"""Recurrent networks over padded batches of sequences, after `tf.nn.dynamic_rnn`.

A cell is a pure function; `dynamic_rnn` runs it over sequences of different lengths and
returns two results: `outputs`, at every step, and `state`, after each row's last valid step.

>>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
>>> inputs = jax.random.normal(jax.random.key(1), (2, 5, 3))        # [batch, time, 3]
>>> cell = rnn.LSTMCell(4)
>>> params = cell.init(jax.random.key(0), inputs.shape)
>>> outputs, state = rnn.dynamic_rnn(cell, params, inputs, sequence_length=[5, 3])
>>> outputs.shape                                  # zeros past each length
(2, 5, 4)
>>> state.h.shape                                  # after each row's last valid step
(2, 4)

`jax_dynrnn.linen` and `jax_dynrnn.nnx` provide the same as Flax modules.
"""

from types import ModuleType as _ModuleType

from ._bidirectional import bidirectional_dynamic_rnn as bidirectional_dynamic_rnn
from ._bidirectional import concatenate as concatenate
from ._bidirectional import init_bidirectional as init_bidirectional
from ._cell import Cell as Cell
from ._cell import LSTMStateTuple as LSTMStateTuple
from ._cell import MatmulCell as MatmulCell
from ._cell import StagedCell as StagedCell
from ._composition import Around as Around
from ._composition import Stacked as Stacked
from ._raw import raw_rnn as raw_rnn
from ._rnn import dynamic_rnn as dynamic_rnn
from ._rnn import explain as explain
from ._stack_bidirectional import init_stack_bidirectional as init_stack_bidirectional
from ._stack_bidirectional import stack_bidirectional_dynamic_rnn as stack_bidirectional_dynamic_rnn
from ._static import stack_bidirectional_rnn as stack_bidirectional_rnn
from ._static import static_bidirectional_rnn as static_bidirectional_rnn
from ._static import static_rnn as static_rnn
from ._static import static_state_saving_rnn as static_state_saving_rnn
from .attention import BahdanauAttention as BahdanauAttention
from .attention import BahdanauMonotonicAttention as BahdanauMonotonicAttention
from .attention import LuongAttention as LuongAttention
from .attention import LuongMonotonicAttention as LuongMonotonicAttention
from .cells import BasicLSTMCell as BasicLSTMCell
from .cells import BasicRNNCell as BasicRNNCell
from .cells import BidirectionalGridLSTMCell as BidirectionalGridLSTMCell
from .cells import CFNCell as CFNCell
from .cells import Conv1DLSTMCell as Conv1DLSTMCell
from .cells import Conv2DLSTMCell as Conv2DLSTMCell
from .cells import Conv3DLSTMCell as Conv3DLSTMCell
from .cells import ConvLSTMCell as ConvLSTMCell
from .cells import CoupledInputForgetGateLSTMCell as CoupledInputForgetGateLSTMCell
from .cells import CudnnCompatibleGRUCell as CudnnCompatibleGRUCell
from .cells import GLSTMCell as GLSTMCell
from .cells import GridLSTMCell as GridLSTMCell
from .cells import GRUBlockCell as GRUBlockCell
from .cells import GRUBlockCellV2 as GRUBlockCellV2
from .cells import GRUCell as GRUCell
from .cells import IndRNNCell as IndRNNCell
from .cells import IndyGRUCell as IndyGRUCell
from .cells import IndyLSTMCell as IndyLSTMCell
from .cells import IntersectionRNNCell as IntersectionRNNCell
from .cells import LayerNormBasicLSTMCell as LayerNormBasicLSTMCell
from .cells import LayerNormLSTMCell as LayerNormLSTMCell
from .cells import LSTMBlockCell as LSTMBlockCell
from .cells import LSTMCell as LSTMCell
from .cells import MinimalRNNCell as MinimalRNNCell
from .cells import NASCell as NASCell
from .cells import NTMCell as NTMCell
from .cells import NTMControllerState as NTMControllerState
from .cells import PhasedLSTMCell as PhasedLSTMCell
from .cells import SRUCell as SRUCell
from .cells import TimeFreqLSTMCell as TimeFreqLSTMCell
from .cells import UGRNNCell as UGRNNCell
from .cells import WeightNormLSTMCell as WeightNormLSTMCell
from .decode import beam_search as beam_search
from .decode import decode_alignments as decode_alignments
from .decode import greedy_decode as greedy_decode
from .decode import sample_decode as sample_decode
from .decode import tile_batch as tile_batch
from .packing import pad_sequences as pad_sequences
from .packing import pending_resets as pending_resets
from .packing import resets_from_done as resets_from_done
from .packing import segment_starts as segment_starts
from .pooling import last_output as last_output
from .pooling import max_pool as max_pool
from .pooling import mean_pool as mean_pool
from .sequence import reverse_sequence as reverse_sequence
from .sequence import sequence_mask as sequence_mask
from .sequence import transpose_batch_time as transpose_batch_time
from .wrappers import AttentionCellWrapper as AttentionCellWrapper
from .wrappers import AttentionWrapper as AttentionWrapper
from .wrappers import AttentionWrapperState as AttentionWrapperState
from .wrappers import DropoutWrapper as DropoutWrapper
from .wrappers import EmbeddingWrapper as EmbeddingWrapper
from .wrappers import EmitState as EmitState
from .wrappers import HighwayWrapper as HighwayWrapper
from .wrappers import InputProjectionWrapper as InputProjectionWrapper
from .wrappers import LearnedInitialState as LearnedInitialState
from .wrappers import MultiRNNCell as MultiRNNCell
from .wrappers import OutputProjectionWrapper as OutputProjectionWrapper
from .wrappers import ResidualWrapper as ResidualWrapper
from .wrappers import ZoneoutWrapper as ZoneoutWrapper

__version__ = "0.1.0"

# All names imported above. The filter drops the submodules, which importing them also binds here.
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    name
    for name, value in globals().items()
    if not name.startswith("_") and not isinstance(value, _ModuleType)
]
