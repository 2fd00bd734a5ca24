"""The kernels for NVIDIA GPUs.

* `platform`: what they can run, and when they are the fastest;
* `mosaic`: what is used of Pallas for Mosaic GPU, which changes between versions of JAX;
* `indexing`: which rows and units a warpgroup computes, and which steps its rows take;
* `kernels`, `launch`: the forward and the backward kernel, and what both have in common;
* `cluster`: how SMs exchange arrays;
* `passes`: what XLA computes before and after the kernels, one operation for all steps.
"""

from .platform import Gpu as Gpu
