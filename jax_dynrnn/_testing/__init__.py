"""What `jax_dynrnn.testing` is made of."""
