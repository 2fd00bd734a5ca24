"""Checkpoints: files by TensorFlow are read bit by bit, and TensorFlow reads ours."""

import functools
import io
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from bundles import EVERY_DTYPE, SHAPES, assert_same, load, random_array, save

from jax_dynrnn.interop import checkpoint
from jax_dynrnn.interop._formats.index import read_index
from jax_dynrnn.interop._formats.slices import slice_key

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def tf(load_oracle):
    return load_oracle("tensorflow")


@pytest.fixture(scope="module")
def v1(tf):
    return tf.compat.v1


def saved_session(v1, build, prefix, **saver):
    """Builds variables in a graph, and saves them as TF1 programs do."""
    with v1.Graph().as_default():
        build()
        config = v1.ConfigProto(device_count={"CPU": 2})
        with v1.Session(config=config) as session:
            session.run(v1.global_variables_initializer())
            return v1.train.Saver(**saver).save(session, str(prefix))


def test_reads_every_dtype_and_shape(tf, tmp_path):
    """A file by TensorFlow with every dtype is read bit by bit, into writeable arrays."""
    prefix = save(tf, tmp_path / "model", {**EVERY_DTYPE, **SHAPES})
    found = checkpoint.read_checkpoint(prefix)
    assert_same(dict(found), load(tf, prefix))
    assert list(found) == sorted(found, key=str.encode) and len(found) == len(dict(found))
    assert all(array.flags.writeable for array in found.values())


def test_tensorflow_reads_what_is_written(tf, tmp_path):
    """Every dtype and shape; an existing file is replaced; a file may have no variables."""
    arrays = {**EVERY_DTYPE, **SHAPES}
    checkpoint.write_checkpoint(tmp_path / "model", arrays)
    assert_same(load(tf, tmp_path / "model"), arrays)
    assert_same(dict(checkpoint.read_checkpoint(tmp_path / "model")), arrays)
    checkpoint.write_checkpoint(tmp_path / "model.index", {"only": np.ones(2)})  # replaces it
    assert_same(load(tf, tmp_path / "model"), {"only": np.ones(2)})
    checkpoint.write_checkpoint(tmp_path / "none", {})
    assert load(tf, tmp_path / "none") == dict(checkpoint.read_checkpoint(tmp_path / "none")) == {}


def test_writes_arrays_of_other_layouts(tf, tmp_path):
    """Transposed, strided, big-endian and JAX arrays are written correctly."""
    kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
    given = {"transposed": kernel.T, "big endian": kernel.astype(">f4"), "strided": kernel[:, ::2]}
    checkpoint.write_checkpoint(tmp_path / "model", {**given, "jax": jnp.ones(3, jnp.bfloat16)})
    expected = {name: np.ascontiguousarray(array, "<f4") for name, array in given.items()}
    expected["jax"] = np.ones(3, "bfloat16")
    assert_same(load(tf, tmp_path / "model"), expected)


def test_a_tf1_saver_restores_what_is_written(v1, tmp_path):
    """TF1's `Saver.restore` reads a checkpoint that we wrote."""
    kernel = random_array("float32", (3, 4))
    checkpoint.write_checkpoint(tmp_path / "model", {"rnn/kernel": kernel, "other": np.ones(2)})
    with v1.Graph().as_default(), v1.Session() as session:
        variable = v1.get_variable("rnn/kernel", kernel.shape)
        v1.train.Saver().restore(session, str(tmp_path / "model"))
        assert session.run(variable).tobytes() == kernel.tobytes()


def test_an_index_of_many_blocks(tf, tmp_path):
    """An index of several blocks (of 256 KiB each), with 6,000 names."""
    arrays = {f"tower_{i % 7}/layer_{i}/" + "scope/" * 20 + "w": np.int32(i) for i in range(6000)}
    prefix = save(tf, tmp_path / "model", arrays)
    assert os.path.getsize(prefix + ".index") > 1 << 18
    assert_same(dict(checkpoint.read_checkpoint(prefix)), arrays)
    checkpoint.write_checkpoint(tmp_path / "ours", arrays)
    assert_same(load(tf, tmp_path / "ours"), arrays)


def partitioned(v1):
    def build():
        for axis, shape in enumerate([(70000, 2), (3, 70000)]):
            for dtype in (v1.float32, v1.int64):
                v1.get_variable(
                    f"{dtype.name}_{axis}", shape, dtype, use_resource=False,
                    initializer=v1.random_uniform_initializer(0, 1 << 40, dtype=dtype),
                    partitioner=v1.fixed_size_partitioner(3, axis=axis),
                )  # fmt: skip
        v1.get_variable("whole", (2, 2))

    return build


def test_partitioned_variables_are_joined(tf, v1, tmp_path):
    """Variables that TensorFlow stored in slices are read as whole arrays."""
    prefix = saved_session(v1, partitioned(v1), tmp_path / "model")
    found = checkpoint.read_checkpoint(prefix)
    assert_same(dict(found), load(tf, prefix))
    assert len(read_index(io.BytesIO((tmp_path / "model.index").read_bytes())).slices) == 12


def test_a_slice_of_whole_dimensions(tf, tmp_path):
    """A slice spec of `-` means a whole dimension; TensorFlow encodes it differently from `0,5`."""
    whole = random_array("float32", (4, 5))
    first = save(tf, tmp_path / "a", {"w": ("4 5 0,2:-", whole[:2])})
    second = save(tf, tmp_path / "b", {"w": ("4 5 2,2:0,5", whole[2:])})
    merged = str(tmp_path / "model")
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[first, second], destination_prefix=merged)
    assert_same(dict(checkpoint.read_checkpoint(merged)), {"w": whole})


def test_keys_of_slices_agree_with_tensorflow(tf, tmp_path):
    """Encoded integers are tested on both sides of every size."""
    starts = [bound + step for bits in range(6, 55) for step in (-1, 0) for bound in [1 << bits]]
    specs = {f"größe{i}": (f"{1 << 55} {start},1", np.ones(1)) for i, start in enumerate(starts)}
    prefix = save(tf, tmp_path / "model", specs)
    expected = {slice_key(f"größe{i}", [(start, 1)]) for i, start in enumerate(starts)}
    assert read_index(io.BytesIO(Path(prefix + ".index").read_bytes())).slices.keys() == expected


def test_missing_slices_are_an_error(tf, tmp_path):
    """A variable without all of its slices is an error; others can be read."""
    part = np.ones((2, 5), np.float32)
    prefix = save(tf, tmp_path / "model", {"w": ("4 5 0,2:-", part), "a": np.ones(2)})
    found = checkpoint.read_checkpoint(prefix)
    assert found["a"].tolist() == [1, 1]
    with pytest.raises(checkpoint.CheckpointError, match=r"'w': its 1 slices do not fill \[4, 5\]"):
        found["w"]


def test_several_data_files(tf, v1, tmp_path):
    """A checkpoint with several data files is read; a missing one is an error."""

    def build():
        for device in (0, 1):
            with v1.device(f"/cpu:{device}"):
                v1.get_variable(f"kernel_{device}", (3, 4), use_resource=False)
        partitioned(v1)()

    prefix = saved_session(v1, build, tmp_path / "model", sharded=True)
    assert len(list(tmp_path.glob("*.data-0000?-of-00003"))) == 3  # cpu:0, cpu:1, anywhere
    assert_same(dict(checkpoint.read_checkpoint(prefix)), load(tf, prefix))
    (tmp_path / "model.data-00001-of-00003").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="1 of them are missing.*00001-of-00003"):
        checkpoint.read_checkpoint(prefix)


@pytest.mark.parametrize(
    "given", ["", "model-20", "model-20.index", "model-20.data-00000-of-00001"]
)
def test_a_path_is_a_folder_a_prefix_or_a_file(v1, tmp_path, given):
    """A checkpoint may be given by folder, prefix or file, also after the folder was moved."""

    build = functools.partial(v1.get_variable, "w", initializer=np.float32(7))
    for step in ("model-10", "model-20"):
        saved_session(v1, build, tmp_path / "größe" / step)
    assert checkpoint.read_checkpoint(tmp_path / "größe" / given)["w"] == 7
    state = tmp_path / "größe" / "checkpoint"
    state.write_text(state.read_text().replace('path: "', 'path: "/gone/'))
    (tmp_path / "größe" / "model-10.index").unlink()
    assert checkpoint.read_checkpoint((tmp_path / "größe").rename(tmp_path / "ö") / given)["w"] == 7


def test_the_folder_of_a_saved_model(tmp_path):
    """The folder of a SavedModel is a path to its variables/variables."""
    (tmp_path / "variables").mkdir()
    checkpoint.write_checkpoint(tmp_path / "variables/variables", {"w": np.ones(2)})
    assert checkpoint.read_checkpoint(tmp_path)["w"].tolist() == [1, 1]


def test_a_state_file_of_an_older_tensorflow(tmp_path):
    """Older versions wrote non-ASCII bytes of paths as octal escapes."""
    checkpoint.write_checkpoint(tmp_path / 'ö"1', {"w": np.ones(2)})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "\\303\\266\\"1"\n')
    assert list(checkpoint.read_checkpoint(tmp_path)) == ["w"]


def test_format_v1_is_refused_with_advice(v1, tmp_path):
    """Checkpoints of the older format V1 are refused, and the error says how to read them."""
    build = functools.partial(v1.get_variable, "w", (2,), use_resource=False)
    for name, sharded in (("one", False), ("sharded", True)):
        version = v1.train.SaverDef.V1
        saved_session(v1, build, tmp_path / name, write_version=version, sharded=sharded)
        for path in (tmp_path / name, tmp_path):  # the folder's state file names the newest
            with pytest.raises(checkpoint.CheckpointError, match="format V1.*load_checkpoint of"):
                checkpoint.read_checkpoint(path)


def test_missing_files_and_variables(tmp_path):
    """Errors name what is missing and what exists; files of other formats are refused."""
    read, error = checkpoint.read_checkpoint, checkpoint.CheckpointError
    checkpoint.write_checkpoint(tmp_path / "model-3", {"rnn/kernel": np.ones(2)})
    with pytest.raises(
        FileNotFoundError, match=r"model-4.index: no such file.*there are .*model-3"
    ):
        read(tmp_path / "model-4")
    assert read(tmp_path)["rnn/kernel"].shape == (2,)  # the only checkpoint of the folder
    checkpoint.write_checkpoint(tmp_path / "model-2", {"rnn/kernel": np.ones(3)})
    with pytest.raises(FileNotFoundError, match=r"checkpoint: no such file; there are .*model-3"):
        read(tmp_path)
    with pytest.raises(KeyError, match=r"no variable 'kernel'; the nearest are \['rnn/kernel'\]"):
        read(tmp_path / "model-3")["kernel"]
    (tmp_path / "checkpoint").write_text("all_model_checkpoint_paths: 'x'\n")
    with pytest.raises(error, match="expected a line model_checkpoint_path"):
        read(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model-9"\n')
    with pytest.raises(FileNotFoundError, match="names 'model-9', but there is no .index; there"):
        read(tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" * 9)
    with pytest.raises(error, match="has an .index beside it, got another file"):
        read(tmp_path / "weights.h5")


@pytest.mark.parametrize(("given", "error", "text"), [
    ({"": np.ones(2)}, ValueError, "a name that a checkpoint can hold, got ''"),
    ({3: np.ones(2)}, TypeError, "strings, got 3"),
    ({"w": np.array(["a"])}, TypeError, "variable 'w': .* got dtype <U1"),
    ({"w": {"kernel": 1}}, TypeError, r"variable 'w': .* got objects, {'kernel': 1} among them"),
])  # fmt: skip
def test_names_and_arrays_that_cannot_be_written(tmp_path, given, error, text):
    """Invalid names and dtypes are refused before any file is written."""
    with pytest.raises(error, match=text):
        checkpoint.write_checkpoint(tmp_path / "model", given)
    assert not list(tmp_path.iterdir())


def test_a_dtype_that_numpy_lacks_is_an_error_of_that_variable(tf, tmp_path):
    """Other variables of the checkpoint can still be read."""
    quantised = tf.quantization.quantize([0.0, 1.0], 0.0, 1.0, tf.qint8).output
    names = {"prefix": str(tmp_path / "model"), "tensor_names": ["a", "q"]}
    tf.raw_ops.SaveV2(**names, shape_and_slices=["", ""], tensors=[tf.zeros(2), quantised])
    found = checkpoint.read_checkpoint(tmp_path / "model")
    assert found["a"].tolist() == [0, 0] and "q" in found
    with pytest.raises(checkpoint.CheckpointError, match="variable 'q': .* got TensorFlow's qint8"):
        found["q"]


def test_tensorflow_is_not_imported():
    """Importing `interop` does not import TensorFlow."""
    program = "import sys, jax_dynrnn.interop; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_real_model(tf, monkeypatch):
    """The checkpoint of g2p-en, trained with TensorFlow 1, is read as TensorFlow reads it."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import packages

    member = "g2p_en/logdir/model_epoch_14_gs_27956."
    try:
        for suffix in ("index", "data-00000-of-00001"):
            path = packages.package_file("g2p-en==1.0.1", member + suffix)
    except RuntimeError as error:
        pytest.skip(f"g2p-en's checkpoint cannot be had: {error}")
    found = checkpoint.read_checkpoint(path)
    assert_same(dict(found), load(tf, path.parent / Path(member).name.rstrip(".")))
    weights = [name for name in found if checkpoint.kind(name) == "weight"]
    assert 0 < len(weights) < len(found)
