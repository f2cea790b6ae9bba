"""Installs Kattegat from the folder that this file is in, without internet: `python3 install.py TARGET`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def stop(sentence: str) -> None:
    """Ends with one sentence for a person."""
    print(sentence, file=sys.stderr)
    raise SystemExit(3)


def check() -> None:
    """Ends with a sentence unless every file is as it was made."""
    try:
        lines = (HERE / "SHA256SUMS").read_text().splitlines()
    except OSError:
        stop(f"There is no SHA256SUMS in {HERE}: copy the whole folder.")
    listed = set()
    for line in lines:
        expected, _, name = line.partition("  ")
        listed.add(name)
        try:
            found = hashlib.sha256((HERE / name).read_bytes()).hexdigest()
        except OSError:
            stop(f"{name} is missing: copy the whole folder again.")
        if found != expected:
            stop(f"{name} is not as it was made: copy the whole folder again.")
    for path in (HERE / "wheels").iterdir():
        if f"wheels/{path.name}" not in listed:
            stop(f"wheels/{path.name} is no part of this folder: remove it, or copy the whole folder again.")


def install(target: Path) -> None:
    """Makes a virtual environment at `target`, which must not be there yet, with Kattegat inside."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python gets this far
        stop(f"Kattegat needs Python 3.11 or newer, and this is {sys.version.split()[0]}.")
    if target.exists():
        stop(f"{target} is there already: each release gets a folder of its own.")
    check()
    wheels = HERE / "wheels"
    [pip] = wheels.glob("pip-*.whl")
    print("Making the virtual environment ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", target], check=True)
    print("Installing ...", flush=True)
    # pip runs from its wheel: it is of no use in the finished environment.
    command = [target / "bin" / "python", "-I", pip / "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--isolated", "--no-index", "--no-cache-dir", "--only-binary=:all:", "--find-links", wheels, "kattegat"]
    if subprocess.run(command, check=False).returncode:
        shutil.rmtree(target, ignore_errors=True)
        stop("pip did not finish; the lines above say why (wheels for another Python or processor?).")
    subprocess.run([target / "bin" / "kat", "--version"], check=True)
    print(f"Installed: {target}/bin/kat up starts everything.")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        stop("Name the folder to install into: python3 install.py /opt/kattegat/0.1.0")
    install(Path(sys.argv[1]).absolute())
