"""TensorFlow's file formats, byte by byte; nothing here knows what a variable is for.

`wire` reads protocol buffers, `table` LevelDB's sorted table (with `snappy` and `crc32c`);
`tensors` is how both kinds of files encode a tensor, `slices` the keys of the slices of a
partitioned one. `npz` reads the shapes in NumPy's archives. Files may be hostile: `budget` bounds
what each reader allocates.
"""
