"""The formats of TensorFlow's files, byte by byte; nothing here knows what a variable is for.

`wire` is protocol buffers, `table` LevelDB's sorted table (with `snappy` and `crc32c`), `tensors`
how both kinds of files write a tensor, `slices` the keys of the slices of a partitioned one.
`npz` is NumPy's archive, of which only the shapes are read. Files may come from anyone: `budget`
bounds what each reader allocates.
"""
