"""What the engine `pallas` is made of.

* `mosaic`: what is used of Pallas for Mosaic GPU, which moves between versions of JAX;
* `gates`, `units`, `step`: a cell's arithmetic, of some of its units with all their gates;
* `functions`: in the place of primitives;
* `place`: where a warpgroup is, and which steps its rows take;
* `kernels`, `launch`: the forward and the backward one, and what both have;
* `cluster`: how multiprocessors hand each other what they have;
* `passes`: what is done around them for all steps at once.
"""
