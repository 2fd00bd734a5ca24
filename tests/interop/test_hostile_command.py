"""The command with hostile files: it prints safe text and code, or fails with one line."""

import ast
import collections
import os

import numpy as np
import pytest
from caps import MEBIBYTE, capped
from tf1_params import variables_of

import jax_dynrnn as rnn
from jax_dynrnn.interop import __main__ as command
from jax_dynrnn.interop import checkpoint, tf1
from jax_dynrnn.interop._escape import closest, escaped, quoted
from jax_dynrnn.interop._formats import bundle
from jax_dynrnn.interop._tf1 import table as table_module
from jax_dynrnn.interop._tf1.recognise import recognised
from jax_dynrnn.interop._tf1.table import CanonicalWeights

WORDS = rnn.GRUCell(2)
HOSTILE = (
    "a\nimport os", "b\r\x1b[2Jc", "d'''\"\"\"\\", "e\u202egnp", "f\u2028import sys", "g\x00h",
    "i\x85import re", "j\ud800k", "größe",
)  # fmt: skip


def in_scopes(variables):
    return {f"{scope}/{name}": x for scope in HOSTILE for name, x in variables.items()}


def stored(tmp_path, form, variables):
    """Writes a file; returns its path, and the variables whose names the format allows."""
    path = tmp_path / f"model{form}"
    variables = {n: x for n, x in variables.items() if form == ".npz" or "\ud800" not in n}
    if form == ".npz":
        variables = {n: x for n, x in variables.items() if not set("\x00\ud800") & set(n)}
        np.savez(path, **variables)
    elif form == ".pb":
        from test_hostile_files import FLOAT, constant, field, shape_field

        path.write_bytes(b"".join(
            constant(n.encode(), FLOAT + shape_field(*x.shape) + field(4, x.tobytes()))
            for n, x in variables.items()
        ))  # fmt: skip
    else:
        checkpoint.write_checkpoint(path, variables)
    return path, variables


def printed(capsys, *arguments, limits=None):
    command.main([str(argument) for argument in arguments], limits)
    return capsys.readouterr().out


def assert_printable(text):
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("form", ["", ".npz", ".pb"])
def test_names_cannot_inject_code(tmp_path, capsys, form):
    """Names with newlines add no lines to the printed program, for cells recognised or not."""
    given = {f"{n}/ExponentialMovingAverage": x for n, x in variables_of(WORDS, scope="w").items()}
    given |= in_scopes(variables_of(WORDS, scope="fits"))
    given |= in_scopes({"part/gru_cell/gates/bias": np.ones(4, np.float32)})
    given |= in_scopes({"attention_cell_wrapper/kernel": np.ones((2, 2), np.float32)})
    path, variables = stored(tmp_path, form, given)
    output = printed(capsys, path)
    assert_printable(output)
    listed, program = output.split("\nimport jax\n", 1)
    assert len(listed.splitlines()) == len(variables)
    imported = [
        name.name
        for node in ast.walk(ast.parse("import jax\n" + program))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    ]
    assert imported == ["jax", "jax.numpy", "numpy", "jax_dynrnn", "checkpoint", "tf1"]
    found = {}
    exec("import jax\n" + program, found)
    assert set(found["cells"]) == {
        f"{scope}/fits" for scope in HOSTILE if any(n.startswith(scope) for n in variables)
    }
    assert set(found["params"]) == set(found["cells"])


def test_names_in_errors_are_escaped(tmp_path, capsys):
    """Errors of the command and of the reader of checkpoints are printable."""
    path, variables = stored(tmp_path, "", in_scopes(variables_of(WORDS, scope="fits")))
    for arguments in ([path, "--scope", "x\n"], [f"{path}\n\x1b"], [tmp_path / "a\n.npz"]):
        with pytest.raises(SystemExit) as error:
            command.main([str(argument) for argument in arguments])
        assert_printable(str(error.value))
        assert capsys.readouterr().out == ""
    data = tmp_path / "model.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[::-1])
    assert_printable(printed(capsys, path))
    found = checkpoint.read_checkpoint(path)
    for name in found:
        with pytest.raises(checkpoint.CheckpointError) as error:
            found[name]
        assert_printable(str(error.value))


@pytest.mark.parametrize("missing", [0, 1])
def test_names_in_errors_of_import_params_are_escaped(missing):
    """Errors about hostile names, shapes and missing variables are printable."""
    variables = in_scopes(variables_of(WORDS, scope="fits"))
    name = f"{HOSTILE[0]}/fits/gru_cell/gates/bias"
    variables[name] = np.ones(3, np.float32)
    if missing:
        del variables[name]
    for cells in (WORDS, rnn.GRUCell(3), rnn.LSTMCell(2)):
        for scope in HOSTILE[:2]:
            try:
                tf1.import_params(cells, variables, f"{scope}/fits")
            except (KeyError, ValueError) as error:
                assert_printable(error.args[0])


def test_folder_names_with_newlines_are_escaped(tmp_path):
    """Errors about hostile folder and file names are printable."""
    folder = tmp_path / "a\nb\x1b"
    folder.mkdir()
    for name in ("c\nd", "other"):  # one alone would be read
        checkpoint.write_checkpoint(folder / name, {"w": np.ones(2)})
    for path in (folder, folder / "e\nf"):
        with pytest.raises(FileNotFoundError) as error:
            checkpoint.read_checkpoint(path)
        assert_printable(str(error.value))
    (folder / "checkpoint").write_text('model_checkpoint_path: "g\\012h"')
    (folder / "g\nh").write_bytes(b"no checkpoint")
    with pytest.raises(checkpoint.CheckpointError, match="got another file") as error:
        checkpoint.read_checkpoint(folder)
    assert_printable(str(error.value))


def test_escaping():
    """`escaped` is idempotent and printable; `quoted` is a literal of the name."""
    for name in HOSTILE:
        assert escaped(name).isprintable() and escaped(escaped(name)) == escaped(name)
        assert ast.literal_eval(quoted(name)) == name
    assert quoted(b"a\n") == "b'a\\n'"


def test_the_closest_of_many_names():
    """Only some names are compared, those with a common ending first."""
    names = [f"a/{i}" for i in range(3000)] + ["b/kernel"]
    assert closest("a/kernel", names) == ["b/kernel"]


def fails(capsys, *arguments):
    """Asserts that the command exits with one printable line, and returns that."""
    with capped(0, seconds=10), pytest.raises(SystemExit) as error:
        command.main([str(argument) for argument in arguments])
    message = error.value.code
    assert isinstance(message, str) and message and message.isprintable()
    return message


def test_the_command_with_unreadable_files(tmp_path, capsys):
    """Damaged files, empty files, pipes and folders give an error of one line."""
    np.savez(tmp_path / "cut.npz", kernel=np.ones((4, 4)))
    content = (tmp_path / "cut.npz").read_bytes()
    for name, damaged in {
        "cut.npz": content[:-30],
        "name.npz": content.replace(b"kernel.npy", b"kern\xffl.npy", 1),
        "header.npz": content.replace(b"'descr'", b"'d\n\x1bscr"),
        "empty.npz": b"",
        "empty.pb": b"",
        "empty": b"",
        "empty.index": b"",
    }.items():
        (tmp_path / name).write_bytes(damaged)
        assert str(tmp_path / name) in fails(capsys, tmp_path / name)
    for name in ("pipe", "pipe.pb", "pipe.npz", "other.index"):
        os.mkfifo(tmp_path / name)
        assert "got a pipe" in fails(capsys, tmp_path / name)
    for name in ("folder", "folder.pb", "folder.npz"):
        (tmp_path / name).mkdir()
        assert fails(capsys, tmp_path / name)
    assert "no such file" in fails(capsys, tmp_path / "folder")


GRU = variables_of(WORDS, scope="gru")
DEEP = {
    "a scope": "a/" * 20_000,
    "a cell": "gru_cell/" * 5000,
    "a stack": "multi_rnn_cell/cell_0/" * 5000,
    "a stack of a billion layers": "multi_rnn_cell/cell_" + "9" * 5000 + "/",
    "averages": "a/" * 20_000 + "b/ExponentialMovingAverage/",
}


@pytest.mark.parametrize("name", DEEP)
def test_a_very_deep_scope(tmp_path, capsys, name):
    """A variable in a very deep scope is listed, and other cells are recognised."""
    deep = DEEP[name].rstrip("/")
    variables = GRU | {deep: np.ones(2, np.float32), f"{deep}/kernel": np.ones((2, 2), np.float32)}
    checkpoint.write_checkpoint(tmp_path / "model", variables)
    with capped(os.path.getsize(tmp_path / "model.index")):
        output = printed(capsys, tmp_path / "model")
    assert "'gru': rnn.GRUCell(2)" in output
    assert len(output) < 10 * (len(deep) + 1000)
    averages = checkpoint.moving_averages(checkpoint.read_checkpoint(tmp_path / "model"))
    assert len(averages) == (name == "averages")


@pytest.mark.parametrize("name", [
    "rnn/multi_rnn_cell", "rnn/fw", "multi_rnn_cell/fw", "rnn/multi_rnn_cell/cell_0", "gru_cell",
    "stack/cell_0", "stack/cell_0/bidirectional_rnn", "rnn/attention_wrapper",
    "memory_layer/kernel", "rnn/embedding_wrapper/embedding", "rnn/lstm_cell_1",
    "lstm_cell/kernel/part_" + "9" * 5000,
    "a\nb/memory_layer/kernel", "rnn/glstm_cell/bias_i", "/", "//", "", "rnn/", "/part_0",
])  # fmt: skip
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (3, 8), (1, 2, 3)])
def test_a_variable_where_a_scope_is_expected(name, shape):
    """A variable with the name of a scope neither hides the other cell nor raises an error."""
    variables = GRU | {name: np.ones(shape, np.float32)}
    inner = {f"{name}/gru_cell/gates/bias": np.ones(4, np.float32)}
    for given in (variables, variables | inner):
        assert ("gru", WORDS) in recognised(CanonicalWeights(given))
        tf1.import_params(WORDS, given, "gru")


def calls(monkeypatch, name):
    """Records the first arguments of calls of a function of the module `table`."""
    given, original = [], getattr(table_module, name)
    monkeypatch.setattr(table_module, name, lambda x: (given.append(x), original(x))[1])
    return given


def test_many_incomplete_cells(tmp_path, capsys, monkeypatch):
    """Each cell is compared with the variables of its own scope only: the cost is linear."""
    names = calls(monkeypatch, "canonical")
    variables = {f"scope_{i}/gru_cell/gates/bias": np.ones(4, np.float32) for i in range(20)}
    checkpoint.write_checkpoint(tmp_path / "model", variables)
    output = printed(capsys, tmp_path / "model")
    assert output.count("does not fit") == 20
    assert sorted(names) == sorted(variables)


def test_many_memory_layers_beside_many_cells(tmp_path, capsys, monkeypatch):
    """The nearest memory layers of a cell are found by its scope, not by a search of all."""
    numbered = calls(monkeypatch, "_memory_number")
    cell = "decoder/attention_wrapper"
    variables = {f"m_{i}/memory_layer/kernel": np.ones((2, 4), np.float32) for i in range(500)}
    for i in range(20):
        variables[f"run_{i}/{cell}/gru_cell/gates/kernel"] = np.ones((10, 8), np.float32)
        variables[f"run_{i}/{cell}/gru_cell/gates/bias"] = np.ones(8, np.float32)
        variables[f"run_{i}/{cell}/gru_cell/candidate/kernel"] = np.ones((10, 4), np.float32)
        variables[f"run_{i}/{cell}/gru_cell/candidate/bias"] = np.ones(4, np.float32)
    checkpoint.write_checkpoint(tmp_path / "model", variables)
    assert "run_19/decoder" in printed(capsys, tmp_path / "model")
    assert 0 < len(numbered) <= 3 * 20 * table_module.MAX_MEMORIES


def test_long_names_do_not_pad_other_rows(tmp_path, capsys):
    """One name of 1 MiB does not make the rows of all other variables as long."""
    variables = {"a" * MEBIBYTE: np.ones(2)} | {f"b{i}": np.ones(2) for i in range(100)}
    checkpoint.write_checkpoint(tmp_path / "model", variables)
    assert len(printed(capsys, tmp_path / "model")) < 2 * MEBIBYTE


# How often tensors are read


@pytest.fixture
def reads(monkeypatch):
    """Counts how often each tensor is read, by the computations of its checksum."""
    counted = collections.Counter()

    def crc32c(data, original=bundle.crc32c):
        counted[np.asarray(data).tobytes()] += 1
        return original(data)

    monkeypatch.setattr(bundle, "crc32c", crc32c)
    return counted


@pytest.fixture(params=[False, True], ids=["whole", "in_shards"])
def stored_lstm(request, tmp_path):
    """A checkpoint of an LSTM, with optimizer slots of the shapes of its variables."""
    random = np.random.default_rng(0)
    cell = rnn.LSTMCell(3, use_peepholes=True, num_proj=2)
    variables = {n: random.normal(size=x.shape).astype(np.float32)
                 for n, x in variables_of(cell).items()}  # fmt: skip
    slots = {f"{n}/mine": random.normal(size=x.shape).astype(np.float32)
             for n, x in variables.items()}  # fmt: skip
    if request.param:
        kernel = variables.pop("rnn/lstm_cell/kernel")
        del slots["rnn/lstm_cell/kernel/mine"]
        variables |= {"rnn/lstm_cell/kernel/part_0": kernel[:2]}
        variables |= {"rnn/lstm_cell/kernel/part_1": kernel[2:]}
    checkpoint.write_checkpoint(tmp_path / "model", variables | slots)
    return cell, tmp_path / "model", variables, variables | slots


def test_cells_are_recognised_without_reading(stored_lstm, reads):
    """Cells are recognised by names and shapes alone: no tensor is read."""
    cell, path, _, _ = stored_lstm
    assert recognised(CanonicalWeights(checkpoint.read_checkpoint(path))) == [("rnn", cell)]
    assert not reads


def test_params_are_read_once(stored_lstm, reads):
    """`import_params` reads each variable of the cell once, and no other one."""
    cell, path, variables, _ = stored_lstm
    tf1.import_params(cell, checkpoint.read_checkpoint(path))
    assert reads == {x.tobytes(): 1 for x in variables.values()}
    with pytest.raises(ValueError, match="check the sizes of the cells"):
        tf1.import_params(rnn.LSTMCell(4, use_peepholes=True, num_proj=2),
                          checkpoint.read_checkpoint(path))  # fmt: skip
    assert reads == {x.tobytes(): 1 for x in variables.values()}


def test_the_command_reads_each_variable_once(stored_lstm, reads, capsys):
    """Each variable is read once, and with `--scope` only those of the scope."""
    _, path, _, stored = stored_lstm
    output = printed(capsys, path)
    assert "'rnn': rnn.LSTMCell(3, use_peepholes=True, num_proj=2)" in output
    assert reads == {x.tobytes(): 1 for x in stored.values()}
    reads.clear()
    printed(capsys, path, "--scope", "rnn/lstm_cell/projection")
    assert sum(reads.values()) == 2  # the kernel and its slot
