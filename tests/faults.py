"""Plants faults in a copy of the package, one at a time: the suite must catch each.

python tests/faults.py            all of them, some minutes
python tests/faults.py mask       those whose name has "mask" in it
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from tqdm import tqdm

ROOT = pathlib.Path(__file__).parent.parent
SUITE = [
    "tests/test_loop.py",
    "tests/test_dropout.py",
    "tests/test_golden.py",
    "tests/test_laws.py",
    "tests/test_transcriptions.py",
    "tests/interop/test_weights_torch.py",
]

# name: (file, what stands there, what is planted)
FAULTS = {
    "mask off by one": (
        "sequence.py",
        "jnp.expand_dims(rows, -1) > jnp",
        "jnp.expand_dims(rows, -1) >= jnp",
    ),
    "reset after instead of before the matmul": (
        "cells/gru.py",
        "recurred = yield reset * h, kernels[1]\n",
        "recurred = yield h, kernels[1]\n        recurred = reset * recurred\n",
    ),
    "recurrent dropout not of what is reset": (
        "cells/gru.py",
        "recurred = yield reset * h, kernels[1]\n",
        "recurred = yield reset * state, kernels[1]\n",
    ),
    "recurrent dropout of the carried state": (
        "cells/gru.py",
        "        h = self.recurrent_input(state)\n",
        "        h = state = self.recurrent_input(state)\n",
    ),
    "forget bias dropped": ("cells/_lstm.py", "sigmoid(f + self.forget_bias)", "sigmoid(f)"),
    "final state from step T": (
        "engines/scan.py",
        "return _select(valid, new, state, ticks), output",
        "return new, output",
    ),
    "padding not masked in the gradient": (
        "engines/scan.py",
        'inputs = _select(valid, x["inputs"], padding)',
        'inputs = x["inputs"]',
    ),
    "two gates swapped": ("cells/_lstm.py", "i, j, f = gates", "i, f, j = gates"),
    "reverse ignoring lengths": (
        "_rnn.py",
        "lengths=None if call.lengths is None else",
        "lengths=None if call.lengths is None or call.reverse else",
    ),
    "key not folded": (
        "engines/call.py",
        "fold_in(self.key, t)",
        "self.key",
    ),
    "clip before the peephole": (
        "cells/_lstm.py",
        "        c = clip(c, self.cell_clip)\n",
        '        o = self.peep(params, "w_o_diag", o, c) - self.peep(params, "w_o_diag", 0, '
        "clip(c, self.cell_clip))\n        c = clip(c, self.cell_clip)\n",
    ),
    "output dropout leaking into the state": (
        "wrappers/dropout.py",
        "        return output, _drop(state, keys.state",
        "        state = state._replace(h=output) if hasattr(state, 'h') else output\n"
        "        return output, _drop(state, keys.state",
    ),
    "blocks in the wrong order": (
        "engines/_blocks.py",
        "if self.call.reverse != backward else",
        "if backward else",
    ),
    "rows put back where they were sorted to": (
        "engines/_tiles.py",
        "buffer.at[self.numbers(tile)].set(",
        "buffer.at[tile * self.rows + jnp.arange(self.rows)].set(",
    ),
    "a reset that lets a gradient through": (
        "engines/_transposed.py",
        "            d_state = select(reset, nothing, d_state)\n",
        "",
    ),
    "gradients that leave out the last block": (
        "engines/_passes.py",
        "lambda d, n: d + n.astype(d.dtype), d_weights, d_new",
        "lambda d, n: d + (i > 0).astype(d.dtype) * n, d_weights, d_new",
    ),
    "the forget bias kept on the way from other frameworks": (
        "interop/_layouts/convert.py",
        "source.forget_bias(layer) - target.forget_bias(layer)",
        "source.forget_bias(layer)",
    ),
    "the gates of PyTorch in TF1's order": ("interop/torch.py", '"lstm": "ifgo"', '"lstm": "igfo"'),
    "outputs not zeroed": (
        "engines/scan.py",
        "output = _select(valid, output, jax.tree.map(jnp.zeros_like, output), ticks)",
        "output = output",
    ),
    "wall on the wrong side in reverse": (
        "engines/call.py",
        "    if call.reverse:  # the wall",
        "    if False:  # the wall",
    ),
    "rank-0 leaves moving to the end": (
        "engines/call.py",
        "        return steps <= ends\n",
        "        return steps >= 0\n",
    ),
    "first valid step taken at t = 0 under a mask": (
        "engines/call.py",
        "if call.mask is None:  # it is at t = 0",
        "if True:",
    ),
    "a memory attended to beyond its length": (
        "attention.py",
        "alignments = jnp.where(valid, alignments, 0)",
        "alignments = jax.nn.softmax(scores, -1)",
    ),
    "a gate normalised with the wrong gain": (
        "cells/_norm.py",
        "normalize(params[name], x)",
        'normalize(params["forget"], x)',
    ),
    "the state zoned out with the wrong probability": (
        "wrappers/zoneout.py",
        "self.state_keep_prob * new + (1 - self.state_keep_prob) * old",
        "self.state_keep_prob * old + (1 - self.state_keep_prob) * new",
    ),
}
NOTHING = ("_rnn.py", "from . import", "from . import")


def plant(file, old, new, root):
    """A copy of the project with one fault in it."""
    for name in ("jax_dynrnn", "tests", "conftest.py", "pyproject.toml", "README.md"):
        source, target = ROOT / name, root / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    path = root / "jax_dynrnn" / file
    text = path.read_text()
    assert text.count(old) == 1, f"{file} must have once: {old}"
    path.write_text(text.replace(old, new))


def caught_by(fault):
    """The test that fails first, or `None`."""
    with tempfile.TemporaryDirectory() as directory:
        plant(*fault, pathlib.Path(directory))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *SUITE]
        run = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": directory},
            capture_output=True,
            text=True,
            check=False,
        )
    failed = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
    if run.returncode == 1 and failed:
        return failed[0].split()[1]
    return None if run.returncode == 0 else sys.exit(run.stdout[-3000:] + run.stderr[-3000:])


def main(pattern=""):
    chosen = {name: fault for name, fault in FAULTS.items() if pattern in name}
    if "nothing" in pattern or not pattern:
        assert caught_by(NOTHING) is None, "the suite must pass where nothing is planted"
    missed = []
    for name, fault in tqdm(chosen.items(), disable=None):
        test = caught_by(fault)
        tqdm.write(f"{name:<46} {test or 'NOT CAUGHT'}")
        missed += [] if test else [name]
    sys.exit(bool(missed))


if __name__ == "__main__":
    main(*sys.argv[1:])
