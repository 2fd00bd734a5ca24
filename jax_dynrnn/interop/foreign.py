"""Cells of Flax, Haiku and Equinox as cells of this package.

Each adapter takes a cell as its own framework makes it. The state keeps the structure and
the order of that framework; the batch is the first axis of every part of it. `B` is the
batch size, `D` the size of the inputs, `H` the units.
"""

from ._equinox_cell import EquinoxCell as EquinoxCell
from ._flax_cell import LinenCell as LinenCell
from ._flax_cell import NNXCell as NNXCell
from ._haiku_cell import HaikuCell as HaikuCell
