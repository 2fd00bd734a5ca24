"""Runs the notebooks from top to bottom, in their own folders.

python examples/notebooks.py            # does each still run?
python examples/notebooks.py --write    # keeps what they print and draw
"""

import sys

import nbformat
from nbclient import NotebookClient
from packages import REPOSITORY
from tqdm import tqdm

NOTEBOOKS = sorted(REPOSITORY.glob("*/*.ipynb"))


def run(path):
    """The notebook with what its cells print and draw now; raises the error of a cell."""
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
