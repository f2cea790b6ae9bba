"""Makes a folder that Kattegat can be installed from without internet. Standard library and pip only."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALLER = Path(__file__).resolve().parent / "offline_install.py"


def stop(sentence: str) -> None:
    """Ends with one sentence for a person."""
    print(sentence, file=sys.stderr)
    raise SystemExit(3)


def pip(*arguments: str) -> None:
    """Runs pip; ends with a sentence when it fails."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        stop("pip did not finish; the lines above say why. Mend that, and type the same command again.")


def digest(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make(folder: Path, python: str, platforms: list[str]) -> None:
    """Fills `folder`, which must not be there yet."""
    if folder.exists():
        stop(f"{folder} is there already: name a folder that is not, or remove it.")
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    print("Building the wheel of Kattegat ...", flush=True)
    pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    [wheel] = wheels.glob("kattegat-*.whl")
    print("Fetching what it stands on ...", flush=True)
    # Wheels only: nothing is to be compiled on the machine that gets them.
    chosen = ["--only-binary=:all:", "--dest", str(wheels), "--constraint", "constraints.txt"]
    if python:
        chosen += ["--python-version", python]
    for platform in platforms:
        chosen += ["--platform", platform]
    pip("download", *chosen, str(wheel))
    # A Python without ensurepip (Debian keeps it apart) makes its environment with this one.
    pip("download", "--only-binary=:all:", "--no-deps", "--dest", str(wheels), "pip")
    shutil.copy(INSTALLER, folder / "install.py")
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    size = sum(path.stat().st_size for path in files)
    print(f"{folder}: {len(files)} files, {size / 1024**2:.0f} MiB; there, type python3 install.py TARGET.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="", help="the version of Python there, such as 3.12 (default: this one)")
    parser.add_argument("--platform", action="append", default=[], help="of wheels, such as manylinux2014_aarch64")
    given = parser.parse_args()
    make(given.folder.absolute(), given.python, given.platform)
