"""The engine `pallas`: one GPU kernel for all steps, generated from the arithmetic of the cell.

* `engine`: what it can run, and when it is the fastest;
* `mosaic`: what is used of Pallas for Mosaic GPU, which changes between versions of JAX;
* `gatewise`, `step`: a cell's arithmetic, of some of its units with all their gates;
* `primitives`: replacements for primitives that Mosaic cannot lower, or lowers slowly;
* `indexing`: which rows and units a warpgroup computes, and which steps its rows take;
* `kernels`, `launch`: the forward and the backward kernel, and what both have in common;
* `cluster`: how SMs exchange arrays;
* `passes`: what XLA computes around the kernels, for all steps at once.
"""

from .engine import Pallas as Pallas
