"""The kernels for TPUs.

* `platform`: what they can run;
* `chips`: the memory of TPUs, and how a kernel is compiled for them;
* `projection`: input projections that a kernel computes itself;
* `sizes`: what a kernel is compiled for, and how a batch is cut so that it fits;
* `arrays`: the arrays that the kernels read and write, and the place of each in a block;
* `launch`: how a kernel is launched, and the steps of a block;
* `forward`, `backward`: the kernels;
* `passes`: what XLA computes before and after the kernels.
"""

from .platform import Tpu as Tpu
