"""Runs the notebooks from top to bottom, in their own folders.

python examples/notebooks.py            # tests that each runs
python examples/notebooks.py --write    # saves their output
"""

import sys

import nbformat
from nbclient import NotebookClient
from packages import REPOSITORY
from tqdm import tqdm

NOTEBOOKS = sorted(REPOSITORY.glob("*/*.ipynb"))


def run(path):
    """Runs a notebook and returns it with its new output; raises the error of a failing cell."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": path.parent}}, record_timing=False
    ).execute()
    return notebook


if __name__ == "__main__":
    for path in tqdm(NOTEBOOKS, "notebooks"):
        notebook = run(path)
        if "--write" in sys.argv:
            nbformat.write(notebook, path)
