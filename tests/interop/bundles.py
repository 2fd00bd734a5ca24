"""Checkpoints written and read by TensorFlow (`tf`), the oracle of our reader and writer."""

import numpy as np

from jax_dynrnn.interop._formats import tensors


def random_array(name, shape=(3, 5), seed=0):
    """An array of random bits of the named dtype, with NaN, or of strings of 0 to 300 bytes."""
    rng = np.random.default_rng(seed)
    if name == "object":
        strings = [rng.bytes(n) for n in rng.integers(0, 300, np.prod(shape, dtype=int))]
        return tensors.object_array(strings).reshape(shape)
    dtype = np.dtype(name)
    if name == "bool" or "int2" in name or "int4" in name:
        small = {"bool": (0, 2), "int2": (-2, 2), "uint2": (0, 4), "int4": (-8, 8)}
        return rng.integers(*small.get(name, (0, 16)), shape).astype(dtype)
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    return np.frombuffer(rng.bytes(count), dtype).reshape(shape)


EVERY_DTYPE = {f"rnn/{name}": random_array(name) for name in tensors.READABLE.values()}
SHAPES = {
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), np.float32),
    "empty_string": np.zeros((0,), object),
    "a/very/long/name/of/a/variable" * 9: np.arange(7, dtype=np.int64),
    "größe": np.ones((1, 2, 1, 3), np.float64),
    "wide": random_array("float32", (300, 257)),
}


def save(tf, prefix, arrays):
    """Saves `{name: array}`, or `{name: (spec of a slice, its array)}`, with TensorFlow."""
    given = [value if isinstance(value, tuple) else ("", value) for value in arrays.values()]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[spec for spec, _ in given],
        tensors=[
            tf.constant(array, tf.string if np.asarray(array).dtype == object else None)
            for _, array in given
        ],
    )
    return str(prefix)


def load(tf, prefix):
    """Loads all arrays of a checkpoint with TensorFlow."""
    reader = tf.train.load_checkpoint(str(prefix))
    arrays = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return {
        name: np.asarray(array, object if isinstance(array, bytes) else None)
        for name, array in arrays.items()
    }


def assert_same(actual, expected):
    """Asserts equal names, dtypes, shapes and bits."""
    assert sorted(actual) == sorted(expected)
    for name, array in actual.items():
        other = np.asarray(expected[name])
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
        same = array.tolist() == other.tolist() if array.dtype == object else (
            array.tobytes() == other.tobytes()
        )  # fmt: skip
        assert same, name
