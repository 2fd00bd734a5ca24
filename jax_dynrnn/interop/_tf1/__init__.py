"""The names of TensorFlow 1 variables: which cell they are of, and where its params go."""
