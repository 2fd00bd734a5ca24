"""Random bytes and mutated files of every format raise `CheckpointError` only, within the caps.

`pytest --hypothesis-profile=long tests/interop/test_fuzzed_files.py` tries many more.
"""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from bundles import EVERY_DTYPE
from caps import capped
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from test_damaged_checkpoint import EXTENTS, shape_field, slice_field
from test_formats import compress
from test_hostile_files import constant, table

import jax_dynrnn as rnn
from jax_dynrnn.interop import __main__ as command
from jax_dynrnn.interop import checkpoint, keras
from jax_dynrnn.interop._formats.budget import Budget
from jax_dynrnn.interop._formats.graph_nodes import read_nodes
from jax_dynrnn.interop._formats.npz import read_npz_specs
from jax_dynrnn.interop._formats.slices import slice_key
from jax_dynrnn.interop._formats.snappy import decompress
from jax_dynrnn.interop._formats.table import SNAPPY, block, read_table, sealed, write_table
from jax_dynrnn.interop._formats.tensors import NUMBERS, read_strings
from jax_dynrnn.interop._formats.wire import field
from jax_dynrnn.interop._tf1.graph_cells import OPS, GraphCells

SLICED = "rnn/bfloat16"
ARRAYS = {name: EVERY_DTYPE[name] for name in ("rnn/object", "rnn/bool", "rnn/int4", SLICED)}
ARRAYS |= {"rnn/gru_cell/gates/bias": np.arange(4, dtype=np.float32)}
INDEX, DATA = "model.index", "model.data-00000-of-00001"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Valid content of each format; one variable of the checkpoint is stored in slices."""
    files = tmp_path_factory.mktemp("valid")
    parts = {"part_0": ARRAYS[SLICED][:2], "part_1": ARRAYS[SLICED][2:]}
    checkpoint.write_checkpoint(files / "model", {**ARRAYS, **parts})
    entries = dict(read_table(io.BytesIO((files / INDEX).read_bytes())))
    for i, extents in enumerate(EXTENTS):
        entries[slice_key(SLICED, extents)] = entries.pop(f"part_{i}".encode())
        entries[SLICED.encode()] += slice_field(extents)
    numbers = {name: x for name, x in ARRAYS.items() if not x.dtype.hasobject}
    plain = {name: x for name, x in numbers.items() if x.dtype.isbuiltin == 1}
    np.savez(files / "stored.npz", **plain)
    np.savez_compressed(files / "deflated.npz", **plain)
    nodes = [
        constant(name.encode(), field(1, NUMBERS[x.dtype.name]) + shape_field(*x.shape) + values)
        for name, x in ARRAYS.items()
        for values in (
            field(8, b"abc") if x.dtype.hasobject else field(4, x.tobytes()),
            field(7, 1),
        )
    ]
    layer = {"class_name": "LSTM", "config": {"name": "lstm", "units": 2, "activation": "tanh"}}
    layers = [layer, {"class_name": "Bidirectional", "config": {"name": "both", "layer": layer}}]
    config = json.dumps({"class_name": "Sequential", "config": {"layers": layers}}).encode()
    hdf5 = io.BytesIO()
    with h5py.File(hdf5, "w") as file:
        file["layers/lstm/cell/vars/0"] = np.ones((2, 8), np.float32)
    members = io.BytesIO()
    with zipfile.ZipFile(members, "w") as archive:
        archive.writestr("metadata.json", b'{"keras_version": "3.0"}')
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", hdf5.getvalue())
    return {
        "config": config,
        "keras": members.getvalue(),
        "safetensors": save(plain),
        "entries": entries,
        "index": write_table(entries),
        "block": block(sorted(entries.items())),
        "data": (files / DATA).read_bytes(),
        "graph": b"".join(nodes),
        "stored": (files / "stored.npz").read_bytes(),
        "deflated": (files / "deflated.npz").read_bytes(),
    }


@st.composite
def mutated(draw, content):
    """The content with a few bytes replaced, removed or inserted at one to three positions."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        removed = draw(st.integers(0, 8))
        content = content[:at] + draw(st.binary(max_size=8)) + content[at + removed :]
    return content


def read_bundle(folder, index, data):
    (folder / INDEX).write_bytes(index)
    (folder / DATA).write_bytes(data)
    return dict(checkpoint.read_checkpoint(folder / "model"))


def read_graph(folder, content):
    (folder / "model.pb").write_bytes(content)
    return checkpoint.read_graph_def(folder / "model.pb")


def read_safetensors(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    return checkpoint.read_safetensors(folder / "model.safetensors")


def read_operations(folder, content, form="meta"):
    """What a graph shows of a cell in it, if it has one."""
    (folder / "model.meta").write_bytes(content)
    found = GraphCells(read_nodes(folder / "model.meta", OPS, form=form))
    names = {"kernel": ["kernel"], "transform/beta": ["beta"]}
    for cell in (rnn.LSTMCell(2), rnn.GRUCell(2), rnn.LayerNormBasicLSTMCell(2)):
        found.completed(cell, names)
        found.learned_state(cell, names, lambda name, size: True)
        found.with_residual(cell, names)
    return found.time_major([["kernel"]]), found.epsilon(["kernel"])


def operation(name, op, *inputs, attributes=b""):
    """The bytes of an operation, without the field that it is in."""
    given = b"".join(field(3, x) for x in inputs)
    return field(1, name) + field(2, op) + given + attributes


def loop():
    """A graph with an LSTM in the body of a loop."""
    body = field(5, field(1, b"body") + field(2, field(10, field(1, b"body_1"))))
    nodes = [
        operation(b"x", b"TensorListFromTensor", b"inputs"),
        operation(b"kernel/Read", b"ReadVariableOp", b"kernel"),
        operation(b"loop", b"While", b"kernel/Read", b"x", b"first", attributes=body),
    ]
    arguments = b"".join(field(2, field(1, x)) for x in (b"w", b"steps", b"h"))
    inside = [
        operation(b"read", b"TensorListGetItem", b"steps"),
        operation(b"concat", b"ConcatV2", b"read:item:0", b"h", b"axis"),
        operation(b"product", b"MatMul", b"concat:output:0", b"w"),
        operation(b"split", b"Split", b"axis", b"product:product:0"),
        operation(b"tanh", b"Tanh", b"split:output:1"),
        operation(b"sigmoid", b"Sigmoid", b"split:output:2"),
        operation(b"mul", b"Mul", b"sigmoid:y:0", b"c"),
        operation(b"add", b"AddV2", b"mul:z:0", b"read:item:0"),
    ]
    function = field(1, field(1, b"body_1") + arguments) + b"".join(field(3, x) for x in inside)
    return b"".join(field(1, x) for x in nodes) + field(2, field(1, function))


def read_config(folder, content):
    """The layers of a configuration, for a file of Keras without arrays."""
    (folder / "model.json").write_bytes(content)
    with h5py.File(folder / "model.h5", "w") as file:
        file.attrs["layer_names"] = np.zeros(0)
    return keras.read(folder / "model.h5", folder / "model.json")


def read_keras(folder, content):
    (folder / "model.keras").write_bytes(content)
    try:
        return keras.read(folder / "model.keras")
    except FileNotFoundError as error:  # it has no format that is known
        assert str(error).isprintable()


def read_archive(folder, content):
    (folder / "model.npz").write_bytes(content)
    return read_npz_specs(str(folder / "model.npz"))


def safely(size, read, *arguments):
    """What is read, or `None` if it is refused; asserts that the caps are kept."""
    with capped(size, sum(x.nbytes for x in ARRAYS.values()), seconds=5):
        try:
            return read(*arguments)
        except checkpoint.CheckpointError as error:
            assert str(error).isprintable()
            return None


RANDOM = {
    "index": lambda folder, content: read_bundle(folder, content, b""),
    "blocks": lambda folder, content: read_bundle(folder, table(sealed(content)), b""),
    "snappy": lambda folder, content: read_bundle(folder, table(sealed(content, SNAPPY)), b""),
    "snappy alone": lambda folder, content: decompress(content, Budget(len(content))),
    "strings": lambda folder, content: read_strings(content, 3),
    "graph": read_graph,
    "constant": lambda folder, content: read_graph(folder, constant(b"w", content)),
    "archive": read_archive,
    "safetensors": read_safetensors,
    "header": lambda folder, content: read_safetensors(
        folder, len(content).to_bytes(8, "little") + content
    ),
    "operations": read_operations,
    "configuration": read_config,
    "state file": lambda folder, content: read_state(folder / "state", content),
}


def read_state(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint").write_bytes(b'model_checkpoint_path: "' + content)
    try:
        return checkpoint.read_checkpoint(folder)
    except FileNotFoundError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("reader", RANDOM)
@given(content=st.binary(max_size=120))
def test_random_bytes(folder, reader, content):
    """Each reader refuses or reads random bytes, within the caps."""
    safely(len(content), RANDOM[reader], folder, content)


@given(data=st.data())
def test_mutated_bundles(folder, valid, data):
    """Mutated files, and, with valid checksums, mutated entries, keys and (compressed) blocks."""
    index, content = valid["index"], valid["data"]
    kind = data.draw(st.sampled_from(["index", "data", "entry", "key", "block", "snappy"]))
    if kind == "index":
        index = data.draw(mutated(index))
    elif kind == "data":
        content = data.draw(mutated(content))
    elif kind in ("entry", "key"):
        entries = dict(valid["entries"])
        key = data.draw(st.sampled_from(sorted(entries)))
        value = entries.pop(key)
        new = (
            (data.draw(mutated(key)), value) if kind == "key" else (key, data.draw(mutated(value)))
        )
        index = write_table(entries | dict([new]))
    elif kind == "block":
        index = table(sealed(data.draw(mutated(valid["block"]))))
    else:
        index = table(sealed(data.draw(mutated(compress(valid["block"]))), SNAPPY))
    found = safely(len(index) + len(content), read_bundle, folder, index, content)
    if found is not None and kind in ("index", "data"):
        for name, array in found.items():
            assert array.tobytes() == ARRAYS[name].tobytes() or array.dtype == object
            assert array.tolist() == ARRAYS[name].tolist()


@given(data=st.data())
def test_mutated_graphs(folder, valid, data):
    """A mutated graph is read or refused, within the caps."""
    content = data.draw(mutated(valid["graph"]))
    safely(len(content), read_graph, folder, content)


@given(data=st.data())
def test_mutated_loops(folder, data):
    """What a mutated graph with a loop shows of its cells is found or refused, within the caps."""
    content = data.draw(mutated(loop()))
    safely(len(content), read_operations, folder, content, "graph")


@given(data=st.data())
def test_mutated_safetensors(folder, valid, data):
    """A mutated safetensors file is read or refused, within the caps."""
    content = data.draw(mutated(valid["safetensors"]))
    safely(len(content), read_safetensors, folder, content)


@given(data=st.data())
def test_mutated_configurations(folder, valid, data):
    """A mutated configuration of a model gives layers or is refused."""
    content = data.draw(mutated(valid["config"]))
    safely(len(content), read_config, folder, content)


@given(data=st.data())
def test_mutated_files_of_keras(folder, valid, data):
    """A mutated zip of a configuration and HDF5 is read or refused."""
    content = data.draw(mutated(valid["keras"]))
    safely(len(content), read_keras, folder, content)


@pytest.mark.parametrize("compression", ["stored", "deflated"])
@given(data=st.data())
def test_mutated_archives(folder, valid, compression, data):
    """A mutated .npz file is read or refused, within the caps."""
    content = data.draw(mutated(valid[compression]))
    safely(len(content), read_archive, folder, content)


NAMES = st.lists(
    st.sampled_from([
        "rnn", "multi_rnn_cell", "cell_0", "cell_1", "cell_" + "9" * 5000, "fw", "bw", "gru_cell",
        "gru_cell_1", "lstm_cell", "bidirectional_rnn", "attention_wrapper", "memory_layer",
        "embedding_wrapper", "embedding", "gates", "candidate", "kernel", "bias", "part_0",
        "part_1", "carry_w", "initial_state", "Adam", "ExponentialMovingAverage", "", "a\nb",
        "glstm_cell", "wn_lstm_cell", "time_freq_lstm_cell", "W_0", ":0", "memory_layer_1",
    ]) | st.text(max_size=3),
    min_size=1, max_size=5,
).map("/".join)  # fmt: skip
SHAPES = st.sampled_from(
    [(), (0,), (4,), (8,), (2, 0), (3, 8), (1, 2, 3), (1 << 29,), (1, 1 << 28)]
)


@given(variables=st.dictionaries(NAMES, SHAPES, min_size=1, max_size=6))
def test_the_command_with_any_names_and_shapes(folder, variables):
    """The command prints one line per variable, and a printable Python program."""
    content = b"".join(
        constant(name.encode(errors="replace"), field(1, 1) + shape_field(*shape))
        for name, shape in variables.items()
    )
    (folder / "model.pb").write_bytes(content)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, capped(len(content)):
        patch.setattr("sys.stdout", printed)
        command.main([str(folder / "model.pb")])
    listed, program = printed.getvalue().split("\nimport jax\n", 1)
    assert len(listed.splitlines()) == len({n.encode(errors="replace") for n in variables})
    compile("import jax\n" + program, "printed", "exec")
    assert all(line.isprintable() for line in program.split("\n"))
