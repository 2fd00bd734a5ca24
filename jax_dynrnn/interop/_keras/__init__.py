"""Keras's files: what is stored in them, the cells of a configuration, and programs with these.

`stored` reads arrays and the configuration, `layers` finds the arrays of each layer, `cells` makes
cells of a configuration, `program` prints code. Nothing here imports Keras.
"""
