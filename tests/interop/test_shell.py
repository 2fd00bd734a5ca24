"""The command and its programs as users type them, one for each format."""

import shlex
import subprocess
import sys

import numpy as np
import pytest
from tf1_params import drawn

import jax_dynrnn as rnn
from jax_dynrnn import interop
from jax_dynrnn.interop import checkpoint, tf1

CELL = rnn.LSTMCell(4, forget_bias=0.0)
PARAMS = drawn(CELL.init)
VARIABLES = tf1.export_params(CELL, PARAMS)


def write_safetensors(path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    from safetensors.numpy import save_file

    save_file(interop.torch.export_params(CELL, PARAMS), path)


def write_keras(path):
    pytest.importorskip("h5py", reason="h5py is not installed")
    interop.keras.write_weights(path, {"lstm": interop.keras.export_params(CELL, PARAMS)})


FORMATS = {
    "model.npz": lambda path: np.savez(path, **VARIABLES),
    "model.ckpt": lambda path: checkpoint.write_checkpoint(path, VARIABLES),
    "model.safetensors": write_safetensors,
    "model.h5": write_keras,
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_program_as_typed(name, tmp_path):
    """`python -m jax_dynrnn.interop FILE > port.py`, and `python port.py`, in a shell."""
    FORMATS[name](tmp_path / name)
    python = shlex.quote(sys.executable)
    typed = f"{python} -m jax_dynrnn.interop {name} > port.py && {python} port.py"
    done = subprocess.run(typed, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    program = (tmp_path / "port.py").read_text()
    assert "rnn.LSTMCell(4" in program and "dynamic_rnn(" in program
