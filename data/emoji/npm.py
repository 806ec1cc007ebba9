"""Fetches art packages with the npm client, from the registry that it is configured for.

No code in a package is run, and nothing is unpacked into a folder. The hash is checked, then files are read one by one.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from data.emoji.styles import Package
from training.errors import BadInput

_LARGEST_FILE, _LARGEST = 2**28, 2**30
"""Most bytes of a file and of a package that are unpacked."""
_TIMEOUT = 600
"""Seconds to wait for npm."""


def members(package: Package) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields the files of a package, as (path in the package, content). Raises `BadInput` if it cannot be fetched."""
    with TemporaryDirectory() as folder, tarfile.open(_fetched(package, Path(folder))) as tar:
        left = _LARGEST
        for member in tar:
            left -= member.size
            if member.size > _LARGEST_FILE or left < 0:
                raise BadInput(f"npm package {package.name}: {member.name} is too large to unpack")
            if (file := tar.extractfile(member)) is not None:
                yield PurePosixPath(*PurePosixPath(member.name).parts[1:]), file.read()


def _fetched(package: Package, folder: Path) -> Path:
    wanted = f"{package.name}@{package.version}"
    if (npm := shutil.which("npm")) is None:
        raise BadInput("npm is not installed; it comes with Node.js (https://nodejs.org)")
    words = [npm, "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", str(folder), wanted]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise BadInput(f"npm did not fetch {wanted} within {_TIMEOUT} seconds") from None
    files = list(folder.glob("*.tgz"))
    if done.returncode or not files:
        raise BadInput(f"npm could not fetch {wanted}: {done.stderr}")
    with files[0].open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if f"sha512-{found}" != package.integrity:
        raise BadInput(f"npm package {wanted}: its SHA-512 is {found}, not the expected one; it is not used")
    return files[0]
