"""What the fast engines share: a staged cell split into matmuls and arithmetic, and how two passes
over it are differentiated, mapped and partitioned."""
