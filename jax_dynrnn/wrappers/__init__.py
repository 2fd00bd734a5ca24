"""Wrappers, which are cells made of other cells, one file each."""

from .attention import AttentionWrapper as AttentionWrapper
from .attention import AttentionWrapperState as AttentionWrapperState
from .attention_cell import AttentionCellWrapper as AttentionCellWrapper
from .dropout import DropoutWrapper as DropoutWrapper
from .emit import EmitState as EmitState
from .highway import HighwayWrapper as HighwayWrapper
from .learned import LearnedInitialState as LearnedInitialState
from .multi import MultiRNNCell as MultiRNNCell
from .projection import EmbeddingWrapper as EmbeddingWrapper
from .projection import InputProjectionWrapper as InputProjectionWrapper
from .projection import OutputProjectionWrapper as OutputProjectionWrapper
from .residual import ResidualWrapper as ResidualWrapper
from .zoneout import ZoneoutWrapper as ZoneoutWrapper
