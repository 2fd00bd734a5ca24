"""Maps the names of TensorFlow 1 variables to cells and the paths of their params."""
