"""JAX's reads and writes at computed places, which are never negative in the engines.

JAX's own ask at each one whether it is, and count from the end if so: operations in a loop whose
steps are short, and in which XLA loses sight of the arithmetic.
"""

import functools

import jax

_never_negative = functools.partial(functools.partial, allow_negative_indices=False)
index_in_dim = _never_negative(jax.lax.dynamic_index_in_dim)
slice = _never_negative(jax.lax.dynamic_slice)
slice_in_dim = _never_negative(jax.lax.dynamic_slice_in_dim)
update_index_in_dim = _never_negative(jax.lax.dynamic_update_index_in_dim)
update_slice = _never_negative(jax.lax.dynamic_update_slice)
update_slice_in_dim = _never_negative(jax.lax.dynamic_update_slice_in_dim)
