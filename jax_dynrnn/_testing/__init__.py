"""The implementation of `jax_dynrnn.testing`."""
