"""Many, long and strange names: their cost is limited, and the command says what it skips."""

import os
from typing import Any

import numpy as np
import pytest
from caps import MEBIBYTE, capped
from test_hostile_command import fails, printed
from test_hostile_files import (
    BUNDLE_HEADER,
    FIRST,
    FLOAT,
    archive,
    bundle,
    constant,
    entry,
    extents_field,
    npy,
    one_restart,
    refused,
    sealed,
    shape_field,
    table,
    tensor,
)

from jax_dynrnn.interop import __main__ as command
from jax_dynrnn.interop import checkpoint
from jax_dynrnn.interop._escape import escaped
from jax_dynrnn.interop._formats.crc32c import crc32c, masked
from jax_dynrnn.interop._formats.npz import read_npz_specs
from jax_dynrnn.interop._formats.slices import slice_key
from jax_dynrnn.interop._formats.table import write_table
from jax_dynrnn.interop._formats.wire import field
from jax_dynrnn.interop._tf1 import recognise

RARE = "\U0001f600"  # makes every character of a Python string take 4 bytes


def grus(count):
    """Variables of GRUs, each of which is incomplete."""
    return {f"scope_{i}/gru_cell/gates/bias": np.ones(4, np.float32) for i in range(count)}


def test_many_variables_are_listed_in_little_memory(tmp_path):
    """Rows are printed one at a time, and cells are not searched among too many variables."""
    count = 5000
    empty = FLOAT + shape_field(0)
    header = field(1, 1) + field(3, field(1, 1))
    names = [b"%06d/w" % i for i in range(count)]
    index = write_table({b"": header} | dict.fromkeys(names, empty))
    (tmp_path / "model.index").write_bytes(index)
    (tmp_path / "model.data-00000-of-00001").write_bytes(b"")
    written = []

    class Discarded:
        def write(self, text):
            written.append(text.count("\n"))

        def flush(self):
            pass

    with pytest.MonkeyPatch.context() as patch, capped(len(index), fixed_bytes=3 * MEBIBYTE):
        patch.setattr("sys.stdout", Discarded())
        command.main([str(tmp_path / "model")], command.Limits(weights_bytes=MEBIBYTE))
    assert sum(written) > count


def test_too_many_variables_to_recognise(tmp_path, capsys):
    """The command says that there are too many variables, and works within a scope."""
    limits = command.Limits(weights_bytes=1 << 14)
    checkpoint.write_checkpoint(tmp_path / "model", grus(30))
    assert "# 30 variables are too many to find cells among; use --scope" in printed(
        capsys, tmp_path / "model", limits=limits
    )
    output = printed(capsys, tmp_path / "model", "--scope", "scope_7", limits=limits)
    assert "# scope_7: rnn.GRUCell(2) does not fit" in output and "too many" not in output


def test_the_command_says_that_there_are_more_cells(tmp_path, capsys):
    """Only some cells are printed; the command says so, and finds others by `--scope`."""
    limits = command.Limits(found=3)
    for count in (3, 4):
        checkpoint.write_checkpoint(tmp_path / "model", grus(count))
        output = printed(capsys, tmp_path / "model", limits=limits)
        assert ("# there are more cells than these 3; use --scope" in output) == (count > 3)
        assert output.count("does not fit") == 3
    output = printed(capsys, tmp_path / "model", "--scope", "scope_3", limits=limits)
    assert "# scope_3: " in output


@pytest.mark.parametrize("scope", ["a/" * 64, "a" * 1000 + "/"], ids=["deep", "long"])
def test_the_command_says_which_names_it_skips(tmp_path, capsys, scope):
    """Very long or deep names are skipped, with a note."""
    checkpoint.write_checkpoint(tmp_path / "model", grus(1) | {f"{scope}w": np.ones(2)})
    assert "# names above 1000 characters or 64 scopes" in printed(capsys, tmp_path / "model")


def test_an_error_lists_only_some_scopes(tmp_path, capsys):
    """An error about a missing scope lists few of many long scopes."""
    variables = {f"{'x' * 2000}{i}": np.ones(1) for i in range(500)}
    checkpoint.write_checkpoint(tmp_path / "model", variables)
    message = fails(capsys, tmp_path / "model", "--scope", "y")
    assert "and 492 more" in message and len(message) < 10_000


@pytest.mark.parametrize("name", ["\0" * (4 * MEBIBYTE), "a" * (4 * MEBIBYTE)], ids=["nul", "a"])
def test_a_very_long_name(tmp_path, capsys, name):
    """A name of 4 MiB is printed in short, in little memory."""
    (tmp_path / "model.pb").write_bytes(constant(name.encode(), FLOAT))
    size = os.path.getsize(tmp_path / "model.pb")
    with capped(size, fixed_bytes=4 * MEBIBYTE):
        assert len(printed(capsys, tmp_path / "model.pb")) < 10_000


def test_escaping_a_long_name_needs_little_memory():
    text = "a" * (4 * MEBIBYTE) + "\n"
    with capped(0, fixed_bytes=12 * MEBIBYTE):
        found = escaped(text)
    assert found == text[:-1] + "\\n"


def test_names_with_a_rare_character(tmp_path):
    """The budget counts 4 bytes per character of a name with a non-BMP character."""
    prefix = b"a" * 32_000 + RARE.encode()
    keys = [entry(len(prefix), b"%04d" % i, FLOAT) for i in range(1150)]
    index = table(sealed(one_restart(FIRST, entry(0, prefix, FLOAT), *keys)))
    path = bundle(tmp_path, index)
    with capped(len(index)):
        with pytest.raises(checkpoint.CheckpointError, match="bytes of memory"):
            checkpoint.read_checkpoint(path)
    graph = constant(RARE.encode() + b"a" * (40 * MEBIBYTE), FLOAT + shape_field(2))
    (tmp_path / "graph.pb").write_bytes(graph)
    with capped(len(graph)):
        with pytest.raises(checkpoint.CheckpointError, match="bytes of memory"):
            checkpoint.read_graph_def(tmp_path / "graph.pb")


@pytest.mark.parametrize("named", ["a" * 60_000, "[" * 60_000, "a/" * 30_000, r"a\000/b"])
def test_a_state_file_with_an_invalid_path(tmp_path, named):
    """Long and malformed paths in a state file are refused quickly."""
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\n')
    with capped(0, fixed_bytes=16 * MEBIBYTE, seconds=2):
        with pytest.raises(checkpoint.CheckpointError, match="expected a path, got '"):
            checkpoint.read_checkpoint(tmp_path)


def test_structured_arrays_and_long_headers_are_refused(tmp_path):
    """Parsing such dtypes takes twenty times the memory of their text."""
    fields: Any = [(f"{i}", "<f4") for i in range(3)]
    path = archive(tmp_path / "a.npz", {"a.npy": npy((2,), fields)})
    refused(lambda path: read_npz_specs(str(path)), path, "got a structured one")
    fields = [(f"{i}", "<f4") for i in range(400)]
    path = archive(tmp_path / "a.npz", {"a.npy": npy((2,), fields)})
    refused(lambda path: read_npz_specs(str(path)), path, "damaged one")


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="there is no /proc")
def test_files_of_proc_are_not_read(tmp_path):
    """Their size is 0, and reading beyond that may never end."""
    os.symlink("/proc/self/maps", tmp_path / "model.pb")
    with pytest.raises(checkpoint.CheckpointError, match="got none: is it frozen"):
        checkpoint.read_graph_def(tmp_path / "model.pb")


def test_an_index_with_many_missing_data_files(tmp_path):
    """The error is raised without building all of their names."""
    entries = {b"%05d" % i: FLOAT + field(3, i) for i in range(2000)}
    header = field(1, 2000) + field(3, field(1, 1))
    folder = tmp_path.joinpath(*["d" * 250] * 10)
    folder.mkdir(parents=True)
    (folder / "model.index").write_bytes(write_table({b"": header} | entries))
    with capped(0, fixed_bytes=3 * MEBIBYTE):
        with pytest.raises(checkpoint.CheckpointError, match="2000 of them are missing"):
            checkpoint.read_checkpoint(folder / "model")


def test_many_slices_of_a_long_name(tmp_path):
    """Each key in the index contains the name; joining the slices makes no second copy of them."""
    count, name = 300, "a" * 30_000
    whole = FLOAT + shape_field(count)
    whole += b"".join(extents_field((i, 1)) for i in range(count))
    data = bytes(4 * count)
    slices = {
        slice_key(name, [(i, 1)]): tensor((1,), 4 * i, 4, masked(crc32c(bytes(4))))
        for i in range(count)
    }
    index = write_table({b"": BUNDLE_HEADER, name.encode(): whole} | slices)
    found = checkpoint.read_checkpoint(bundle(tmp_path, index, data))
    with capped(0, fixed_bytes=MEBIBYTE):
        assert found[name].tolist() == [0] * count


def test_a_model_of_usual_size_is_recognised():
    """Thousands of variables with optimizer slots are below the limit of the command."""
    names = sorted(
        f"model/encoder/rnn/multi_rnn_cell/cell_{i}/lstm_cell/{part}{slot}"
        for i in range(1000)
        for part in ("kernel", "bias", "w_f_diag")
        for slot in ("", "/Adam", "/Adam_1")
    )
    assert recognise.needed_bytes(names) < command.Limits().weights_bytes
