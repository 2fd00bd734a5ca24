"""Makes the golden files with TensorFlow 2.21: `python tests/golden/make_golden.py`.

Each `NAME.npz` holds, for one cell of `tensorflow_oracle.CONFIGS`, a run of `dynamic_rnn` from a
given state and one of `bidirectional_dynamic_rnn` from zeros (both from the start state, if that
is learned). It has, in float64, weights, inputs, lengths (full, partial, one, zero) and states,
and TensorFlow's outputs, final state and all gradients. Dropout uses the mask
`tensorflow_oracle.dropout_mask`.
"""

import pathlib
import sys

import jax
import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
jax.config.update("jax_enable_x64", True)

LENGTHS = np.array([5, 3, 1, 0], np.int32)
RUNS = ("dynamic", "bidirectional")


def problem(config, run):
    """The problem of one run of a golden file."""
    import tensorflow_oracle as oracle

    return oracle.problem(
        config,
        bidirectional=run == "bidirectional",
        given_state=run == "dynamic" and not oracle.learns(config),
        batch=4,
        time=5,
        seed=RUNS.index(run),
        lengths=LENGTHS,
    )


def expected(stored, run):
    """TensorFlow's results of one run, from a golden file."""
    begin = f"{run}:expected:"
    return {key.removeprefix(begin): x for key, x in stored.items() if key.startswith(begin)}


def main():
    import tensorflow_oracle
    import tensorflow_run
    from tqdm import tqdm

    for name, config in tqdm(tensorflow_oracle.CONFIGS.items()):
        arrays = {}
        for run in RUNS:
            given = problem(config, run)
            theirs = tensorflow_run.run(config, given)
            for part, tree in (("problem", given), ("expected", theirs)):
                flat = tensorflow_oracle.flat(tree)
                arrays |= {f"{run}:{part}:{path}": x for path, x in flat.items()}
        np.savez_compressed(HERE / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
