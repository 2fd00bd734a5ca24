"""Reads files from packages on PyPI, without installing or importing the packages.

Nothing is downloaded twice: files are cached in `.cache/` of the repository, or in the folder that
`$JAX_DYNRNN_CACHE` names.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
INDEX = "https://pypi.org/simple"


def package_file(requirement: str, member: str, *, source: bool = False) -> Path:
    """The path of a file from a package; the first call downloads the package.

    Args:
        requirement: the package and its version, `"aeon==1.6.0"`.
        member: the file's path inside the wheel, or inside the folder of a source distribution.
        source: whether the file is in the source distribution.

    Raises:
        RuntimeError: the package cannot be downloaded; the message says why.
        FileNotFoundError: the package has no such file.
    """
    path = _folder(requirement) / member
    if not path.exists():
        found = package_files(requirement, member, source=source)
        if path not in found:
            raise FileNotFoundError(f"{member} is not in {requirement}")
    return path


def package_files(requirement: str, pattern: str, *, source: bool = False) -> list[Path]:
    """The paths of all files of a package that match a pattern, `"plays/*/*.md"`, sorted."""
    folder = _folder(requirement)
    download, kind = (_download_source, "*.tar.gz") if source else (_download_wheel, "*.whl")
    archive = next(folder.glob(kind), None) or download(requirement, folder)
    found = []
    for name, content in _contents(archive):
        if fnmatch.fnmatch(name, pattern):
            found.append(folder / name)
            if not found[-1].exists():
                _write(found[-1], content())
    return sorted(found)


def _folder(requirement: str) -> Path:
    cache = Path(os.environ.get("JAX_DYNRNN_CACHE") or REPOSITORY / ".cache")
    return cache / requirement.replace("==", "-")


def _contents(archive: Path):
    """The name of each file of a wheel or a source distribution, and a function that reads it."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                yield name, lambda name=name: wheel.read(name)
    else:
        with tarfile.open(archive) as sources:
            for member in sources:
                if member.isfile():  # the first folder of its name is that of the package
                    content = sources.extractfile(member)
                    yield member.name.partition("/")[2], content.read


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when it is complete, so that no other process reads half a file.
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Downloads the wheel into the folder, without its dependencies."""
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


def _download_source(requirement: str, folder: Path) -> Path:
    """Downloads the source distribution, without pip, which would build it for its metadata."""
    name, version = requirement.split("==")
    page = f"{os.environ.get('PIP_INDEX_URL', INDEX).rstrip('/')}/{name}/"
    link = rf'href="([^"#]*{re.escape(f"{name}-{version}.tar.gz")})#sha256=(\w+)"'
    try:
        found = re.search(link, _fetched(page).decode())
        content = _fetched(urllib.parse.urljoin(page, found[1])) if found else b""
    except OSError as error:
        raise RuntimeError(f"could not download {requirement} from {page}: {error}") from error
    if not found or hashlib.sha256(content).hexdigest() != found[2]:
        raise RuntimeError(f"could not download {requirement}: {page} has no such file")
    archive = folder / f"{name}-{version}.tar.gz"
    _write(archive, content)
    return archive


def _fetched(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read()
