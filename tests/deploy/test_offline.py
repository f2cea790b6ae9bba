"""An install without internet: the folder is made, and installed from with the network cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stack import ROOT

INSTALL = ROOT / "scripts" / "offline_install.py"


def sealed(folder: Path) -> Path:
    """A small folder with checksums, as `make_offline.py` leaves one."""
    (folder / "wheels").mkdir(parents=True)
    (folder / "wheels" / "kattegat-1-py3-none-any.whl").write_bytes(b"first")
    (folder / "wheels" / "pip-1-py3-none-any.whl").write_bytes(b"second")
    shutil.copy(INSTALL, folder / "install.py")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    sums = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, text=True, check=True).stdout
    (folder / "SHA256SUMS").write_text(sums)
    return folder


@pytest.mark.parametrize("what", ["changed", "missing", "added", "unlisted"])
def test_a_folder_that_is_not_as_it_was_made_is_refused(tmp_path: Path, what: str) -> None:
    folder = sealed(tmp_path / "folder")
    wheel = folder / "wheels" / "kattegat-1-py3-none-any.whl"
    if what == "changed":
        wheel.write_bytes(b"other")
    elif what == "missing":
        wheel.unlink()
    elif what == "added":
        (folder / "wheels" / "alembic-99-py3-none-any.whl").touch()
    else:
        (folder / "SHA256SUMS").unlink()
    command = [sys.executable, str(folder / "install.py"), str(tmp_path / "target")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "copy the whole folder" in done.stderr
    assert not (tmp_path / "target").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "folder")
    (tmp_path / "target").mkdir()
    for command in ([folder / "install.py", tmp_path / "target"], [ROOT / "scripts" / "make_offline.py", folder]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert done.returncode == 3
        assert "is there already" in done.stderr


@pytest.mark.nightly
def test_it_installs_and_starts_with_the_network_cut(tmp_path: Path, run_dir: Path) -> None:
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("cutting the network needs root")
    folder, target, data = tmp_path / "offline", run_dir / "offline-kattegat", run_dir / "offline-data"
    subprocess.run([sys.executable, ROOT / "scripts" / "make_offline.py", folder], check=True)
    cut = ["unshare", "--net"]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    subprocess.run([*cut, sys.executable, folder / "install.py", target], check=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KAT_", "PIP_"))}
    environment = {**clean, "KAT_DATA_DIR": str(data)}
    token = ["--token-file", str(run_dir / "offline-token")]
    subprocess.run([*cut, target / "bin" / "kat", "process", "prepare", *token], env=environment, check=True)
    said = subprocess.run(
        [*cut, target / "bin" / "kat", "status"], env=environment, check=True, capture_output=True, text=True
    )
    assert "schema revision" in said.stdout
    shutil.rmtree(target)
