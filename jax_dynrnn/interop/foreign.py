"""Adapters: cells of Flax, Haiku and Equinox as cells of this package.

Each adapter takes a cell as its own framework makes it. The state has the structure and the order
of that framework; the batch is the first axis of each of its leaves. `B` is the batch size, `D` the
size of the inputs, `H` the number of units.
"""

from ._cells.equinox import EquinoxCell as EquinoxCell
from ._cells.flax import LinenCell as LinenCell
from ._cells.flax import NNXCell as NNXCell
from ._cells.haiku import HaikuCell as HaikuCell

__all__ = ["EquinoxCell", "HaikuCell", "LinenCell", "NNXCell"]
