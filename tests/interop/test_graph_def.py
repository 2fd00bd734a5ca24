"""Constants of frozen graphs are read as TensorFlow evaluates them."""

import numpy as np
import pytest
from bundles import EVERY_DTYPE, assert_same

from jax_dynrnn.interop import checkpoint

SHAPE = (2, 3)
FIELDS = {
    "float32": "float_val", "float64": "double_val", "int32": "int_val", "uint8": "int_val",
    "int16": "int_val", "int8": "int_val", "uint16": "int_val", "object": "string_val",
    "complex64": "scomplex_val", "complex128": "dcomplex_val", "int64": "int64_val",
    "bool": "bool_val", "float16": "half_val", "bfloat16": "half_val", "uint32": "uint32_val",
    "uint64": "uint64_val",
}  # fmt: skip


@pytest.fixture(scope="module")
def v1(load_oracle):
    return load_oracle("tensorflow").compat.v1


def numbers(name, count):
    """Example values of a dtype, extremes included, in the form of its protocol buffer field."""
    if name == "object":
        return [b"a", b"", b"\xff" * 200, b"b", b"c", b"d"][:count]
    if name in ("float16", "bfloat16"):
        return [0x3C00, 0x7E01, 0x8000, 0, 1, 0xFFFF][:count]  # bit patterns, including NaN
    if name.startswith("complex"):
        return [0.5, -1.0, 3e38, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0][: 2 * count]
    if name.startswith("float"):
        return [0.5, -3e38, 1e-30, 7.0, 8.0, 9.0][:count]
    if name == "bool":
        return [True, False, True, True, False, True][:count]
    info = np.iinfo(name)
    return [1, info.min, info.max, 2, 3, 4][:count]


def constant(v1, node, dtype):
    node.op = "Const"
    node.attr["dtype"].type = dtype
    tensor = node.attr["value"].tensor
    tensor.dtype = dtype
    return tensor


def as_run(v1, graph):
    """The values of all nodes, evaluated by TensorFlow."""
    with v1.Graph().as_default(), v1.Session() as session:
        v1.import_graph_def(graph, name="")
        run = session.run({node.name: node.name + ":0" for node in graph.node})
    return {
        name: np.asarray(array, object if isinstance(array, bytes) else None)
        for name, array in run.items()
    }


def written(graph, tmp_path):
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    return path


def test_repeated_values(v1, tmp_path):
    """Missing values: no values mean zeros, and the last of too few values is repeated."""
    graph = v1.GraphDef()
    for name, field in FIELDS.items():
        for count in (0, 1, 2, 5, 6):
            dtype = "string" if name == "object" else name
            node = graph.node.add(name=f"{name}_{count}")
            tensor = constant(v1, node, v1.as_dtype(dtype).as_datatype_enum)
            for size in SHAPE:
                tensor.tensor_shape.dim.add(size=size)
            getattr(tensor, field).extend(numbers(name, count))
    found = checkpoint.read_graph_def(written(graph, tmp_path))
    assert_same(found, as_run(v1, graph))
    assert list(found) == [node.name for node in graph.node]


def test_float8_values(v1, tmp_path):
    """Constants of the float8 dtypes are read, with the last value repeated."""
    graph = v1.GraphDef()
    for name in ("float8_e5m2", "float8_e4m3fn"):
        tensor = constant(v1, graph.node.add(name=name), v1.as_dtype(name).as_datatype_enum)
        tensor.tensor_shape.dim.add(size=4)
        tensor.float8_val = b"\x01\x7e"
    expected = {n.name: np.frombuffer(b"\x01\x7e\x7e\x7e", n.name) for n in graph.node}
    assert_same(checkpoint.read_graph_def(written(graph, tmp_path)), expected)


def test_constants_as_tensorflow_writes_them(v1, tmp_path):
    """Constants of every dtype are read bit by bit, and other nodes are left out."""
    arrays = {**EVERY_DTYPE, "scalar": np.float32(2), "empty": np.zeros((0, 2)), "ones": np.ones(9)}
    with v1.Graph().as_default() as graph:
        for name, array in arrays.items():
            v1.constant(array, v1.string if np.asarray(array).dtype == object else None, name=name)
        v1.identity(v1.constant(1.0, name="other"), name="no_constant")
    found = checkpoint.read_graph_def(written(graph.as_graph_def(), tmp_path))
    assert found.pop("other") == 1 and found["rnn/float32"].flags.writeable
    assert_same(found, arrays)


def test_the_weights_of_a_frozen_model(v1, load_oracle, tmp_path):
    """The weights of a model frozen by TensorFlow are among the constants."""
    load_oracle("tensorflow")
    from tensorflow.python.ops import rnn_cell_impl

    with v1.Graph().as_default() as graph, v1.Session() as session:
        x = v1.placeholder(v1.float32, (2, 5, 3))
        outputs, _ = v1.nn.dynamic_rnn(rnn_cell_impl.GRUCell(4), x, [5, 3], dtype=v1.float32)
        v1.identity(outputs, name="outputs")
        session.run(v1.global_variables_initializer())
        expected = {v.op.name: session.run(v) for v in v1.global_variables()}
        frozen = v1.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), ["outputs"]
        )
    found = checkpoint.read_graph_def(written(frozen, tmp_path))
    assert len(expected) == 4 and len(found) > 4
    assert_same({name: found[name] for name in expected}, expected)


def test_files_that_are_not_frozen_graphs(tmp_path):
    """Empty files, SavedModels and other formats are refused with advice."""
    path = tmp_path / "graph.pb"
    for content, text in [
        (b"", "with constants, got none: is it frozen"),
        (b"\x08\x01\x12\x00", "weights of a SavedModel are in the files variables/variables"),
        (b"\x89HDF\r\n\x1a\n", "expected a GraphDef"),
        (b"\x0a\x0a\x12\x05Const\x0a\x01w", "constant 'w': expected a value, got attributes"),
    ]:
        path.write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match=text):
            checkpoint.read_graph_def(path)


def test_invalid_constants(v1, tmp_path):
    """Constants whose values do not fit their shape or dtype are refused."""
    graph, tensor = v1.GraphDef(), type(v1.make_tensor_proto(0.0))
    node = graph.node.add(name="w", op="Const")
    three, many = ({"dim": [{"size": size}]} for size in (3, 1 << 40))
    for fields, text in [
        ({"tensor_shape": three, "tensor_content": bytes(11)},
         r"'w': expected float32 \[3\], got 11 bytes and 0 values"),
        ({"tensor_shape": three, "float_val": [1.0] * 4}, "got 0 bytes and 4 values"),
        ({"tensor_shape": many, "float_val": [1.0, 2.0]}, "got 0 bytes and 2 values"),
        ({"dtype": v1.qint8.as_datatype_enum}, "TensorFlow's qint8"),
    ]:  # fmt: skip
        fields = {"dtype": v1.float32.as_datatype_enum, **fields}
        node.attr["value"].tensor.CopyFrom(tensor(**fields))
        with pytest.raises(checkpoint.CheckpointError, match=text):
            checkpoint.read_graph_def(written(graph, tmp_path))


def test_damage_raises_no_other_error(v1, tmp_path):
    """Graphs have no checksums: damage may change values, or raise `CheckpointError`."""
    with v1.Graph().as_default() as graph:
        for name, array in EVERY_DTYPE.items():
            v1.constant(array, v1.string if array.dtype == object else None, name=name)
    path = written(graph.as_graph_def(), tmp_path)
    content, random, errors = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        at = int(random.integers(len(content)))
        rest = random.bytes(1) + content[at + 1 :] if random.integers(2) else b""
        path.write_bytes(content[:at] + rest)
        try:
            checkpoint.read_graph_def(path)
        except checkpoint.CheckpointError as error:
            assert str(error).startswith(f"{path}: ")
            errors += 1
    assert 50 < errors < 200
