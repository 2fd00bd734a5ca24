"""The wheel and the sdist: their contents and metadata, and the wheel in a bare environment."""

import email
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import jax_dynrnn as rnn
from jax_dynrnn import interop

pytestmark = pytest.mark.xdist_group("build")  # one worker builds, and runs all tests of it

ROOT = pathlib.Path(__file__).parents[1]
TOOLS = ("build", "hatchling", "twine")


def run(*command, **options):
    """Runs a command, and fails with its output if the command fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def is_installed(name):
    """Whether a distribution is installed; a folder `build` in the repository is none."""
    return any(importlib.metadata.distributions(name=name))


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with an sdist, and with the wheel that is built from that sdist."""
    missing = [name for name in TOOLS if not is_installed(name)]
    if missing:
        required = os.environ.get("JAX_DYNRNN_REQUIRE_ORACLES")
        (pytest.fail if required else pytest.skip)(f"not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(dist):
    return next(dist.glob("*.tar.gz"))


def test_twine_accepts_both(wheel, sdist):
    """`twine check --strict`: an index can render the README."""
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)


def test_wheel_holds_the_package_alone(wheel):
    """Every file of the package, its licence and its metadata, and nothing else."""
    names = {*zipfile.ZipFile(wheel).namelist()}
    info = f"jax_dynrnn-{rnn.__version__}.dist-info"
    package = {name for name in names if not name.startswith(info)}
    assert names - package == {
        f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")
    }
    files = {*(ROOT / "jax_dynrnn").rglob("*.py"), ROOT / "jax_dynrnn/py.typed"}
    assert package == {path.relative_to(ROOT).as_posix() for path in files}


def test_sdist_has_tests_and_docs_but_no_caches(sdist):
    """The tests can be run from the sdist, and nothing is in it that a tool made."""
    names = [name.partition("/")[2] for name in tarfile.open(sdist).getnames()]
    expected = "tests/conftest.py docs/quickstart.md mkdocs.yml CHANGELOG.md LICENSE Makefile"
    assert {*expected.split(), "tests/golden", "examples", "benchmarks"} <= {
        *names, *(name.rpartition("/")[0] for name in names)
    }  # fmt: skip
    made = re.compile(r"(^|/)(\.[^/]*|__pycache__|[^/]*\.egg-info|build|dist)(/|$)")
    assert [name for name in names if made.search(name)] == [".gitignore"]  # always added


def test_metadata(wheel):
    """The URLs, the type marker and the licence that an index shows."""
    name = f"jax_dynrnn-{rnn.__version__}.dist-info/METADATA"
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    labels = {url.partition(",")[0] for url in metadata.get_all("Project-URL")}
    assert labels == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Author"]
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_version_has_a_dated_entry_in_the_changelog():
    """The changelog has an entry for the version, below Unreleased; CITATION.cff agrees."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    unreleased, latest = re.findall(r"^## (.*)$", changelog, re.MULTILINE)[:2]
    version, date = re.fullmatch(r"(\S+) - (\d{4}-\d\d-\d\d)", latest).groups()
    assert (unreleased, version) == ("Unreleased", rnn.__version__)
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\ndate-released: {date}\n" in citation


def requirements(name, extras=("",), found=None):
    """The distributions that a package needs at run time, and those that they need."""
    found = {} if found is None else found
    distribution = importlib.metadata.distribution(name)
    for line in distribution.requires or ():
        need = Requirement(line)
        wanted = not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras)
        key = canonicalize_name(need.name), *sorted(need.extras)
        if wanted and key not in found:
            found[key] = importlib.metadata.distribution(need.name)
            requirements(need.name, ("", *need.extras), found)
    return found


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """An interpreter with the wheel and its requirements alone, which are linked: it needs no
    network."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    packages = next(folder.glob("lib*/python*/site-packages"))
    for distribution in requirements("jax_dynrnn").values():
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            link = packages / name
            if not link.exists():
                link.symlink_to(distribution.locate_file(name))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index",
        "--disable-pip-version-check", wheel)  # fmt: skip
    return python


PUBLIC = ["jax_dynrnn", *(f"jax_dynrnn.{name}" for name in ("linen", "nnx", "testing", "interop"))]
PUBLIC += [f"jax_dynrnn.interop.{name}" for name in interop.__all__]

PROGRAM = """
import importlib, importlib.metadata, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
import jax, jax.numpy as jnp, jax_dynrnn as rnn
assert rnn.__version__ == importlib.metadata.version("jax_dynrnn")
assert rnn.__file__.startswith(sys.prefix), rnn.__file__
cell, inputs = rnn.BasicRNNCell(2), jnp.ones((2, 3, 1))
params = cell.init(jax.random.key(0), inputs.shape)
outputs, state = rnn.dynamic_rnn(cell, params, inputs, [3, 1])
assert outputs.shape == (2, 3, 2) and (outputs[1, 1:] == 0).all() and state.shape == (2, 2)
"""


def test_wheel_runs_in_a_bare_environment(bare, tmp_path):
    """Every public module is imported without a warning, and `dynamic_rnn` runs."""
    run(bare, "-I", "-W", "error", "-c", PROGRAM, *PUBLIC, cwd=tmp_path)


def test_requirements_are_complete(bare):
    """The bare environment has all that the metadata requires, and no oracle."""
    run(sys.executable, "-m", "pip", "--python", bare, "check", "--disable-pip-version-check")
    program = "import sys, importlib.util as u; sys.exit(any(map(u.find_spec, sys.argv[1:])))"
    run(bare, "-I", "-c", program, "tensorflow", "torch", "keras", "haiku", "pytest")
