"""The engine `pallas`: one kernel for all steps, generated from the arithmetic of the cell.

* `engine`: what it can run;
* `gatewise`, `step`: a cell's arithmetic, of some of its units with all their gates;
* `layout`: what the kernels of all platforms receive alike;
* `primitives`: replacements for primitives that Mosaic cannot lower, or lowers slowly;
* `platform`: what the kernels of a platform are asked;
* `gpu`, `tpu`: the kernels of NVIDIA GPUs, and of TPUs.
"""

from .engine import Pallas as Pallas
