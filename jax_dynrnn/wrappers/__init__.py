"""Cells made of cells."""

from .dropout import DropoutWrapper as DropoutWrapper
from .emit import EmitState as EmitState
from .learned import LearnedInitialState as LearnedInitialState
from .multi import MultiRNNCell as MultiRNNCell
from .residual import ResidualWrapper as ResidualWrapper
