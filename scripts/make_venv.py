"""Makes the virtual environment with Kattegat and the tools of its tests inside. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def stop(sentence: str) -> None:
    """Ends with one sentence for a person."""
    print(sentence, file=sys.stderr)
    raise SystemExit(3)


def main(folder: Path) -> None:
    """Installs the checkout, with the versions that were tested, into a virtual environment at `folder`."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the one place that an older Python reaches
        stop(f"Kattegat needs Python 3.11 or newer, and this is {sys.version.split()[0]}: say make PYTHON=python3.11.")
    python = folder / "bin" / "python"
    if (
        not python.exists()
        or subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode
    ):
        print("Making the virtual environment ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        made = subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, text=True, check=False)
        if made.returncode:
            make_without_ensurepip(folder, made.stdout + made.stderr)
    print("Installing Kattegat and what it stands on (the first time takes a minute) ...", flush=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    if subprocess.run([*command, "-e", ".[dev]"], cwd=ROOT, check=False).returncode:
        stop("The installation did not finish; the lines above say why. Mend that and say make setup again.")


def make_without_ensurepip(folder: Path, said: str) -> None:
    """Debian keeps ensurepip in a package of its own: it is installed if we may, else pip may bring virtualenv."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing Debian's python3-venv ...", flush=True)
        quiet = {"capture_output": True, "check": False, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-q"], **quiet)
        subprocess.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "python3-venv"], **quiet)
        if subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, check=False).returncode == 0:
            return
        shutil.rmtree(folder, ignore_errors=True)
    tools = ROOT / ".cache" / "virtualenv"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tools, "virtualenv"]
    if subprocess.run(pip, capture_output=True, check=False).returncode == 0:
        environment = {**os.environ, "PYTHONPATH": str(tools)}
        made = subprocess.run([sys.executable, "-m", "virtualenv", "-q", folder], check=False, env=environment)
        if made.returncode == 0:
            return
    last = said.strip().splitlines()[-1] if said.strip() else "no reason given"
    stop(f"No virtual environment could be made ({last}): install python3-venv and say make setup again.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
