"""The ported g2p model, served without JAX and by `jax.export`, finds the same ids."""

import sys
from pathlib import Path

import pytest
from exporters import REASON

pytest.importorskip("jax2onnx", reason=REASON)
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_ids_of_200_words(monkeypatch, capsys):
    """All ids of all words are those of the model in JAX."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    import serve_g2p

    try:
        serve_g2p.g2p.dictionary()
    except RuntimeError as error:
        pytest.skip(str(error))
    assert serve_g2p.main() == {"onnxruntime": 200, "jax.export": 200}
    assert "200 of 200 words equal" in capsys.readouterr().out
