"""Keras's files: what is stored in them, the cells of a configuration, and programs with these.

`stored` reads arrays and the configuration, `layers` finds those of each layer, `connections` what
it receives. `cells` makes cells of a configuration, `configured` checks cells against one, `arrays`
gives arrays names, `program` prints code. Nothing here imports Keras.
"""
