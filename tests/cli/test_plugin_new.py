"""`kat plugin new`: what it writes passes its own test, is found by its entry point, and can be read by the linters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kattegat.cli.main import main


def python(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds modules and distributions in `path` too."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KAT_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def install(root: Path) -> None:
    """What an installer leaves of the plugin's pyproject.toml: a distribution with its entry points."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    info = root / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {module}" for name, module in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    assert main(["plugin", "new", "robots-file", "--folder", str(tmp_path)]) == 0
    return tmp_path / "robots-file"


def test_the_new_plugin_passes_its_own_test(made: Path) -> None:
    done = python("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(made), path=made, cwd=made)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_new_plugin_is_tidy(made: Path) -> None:
    for command in (
        ["ruff", "check", "--isolated", "--no-cache"],
        ["ruff", "format", "--isolated", "--no-cache", "--check"],
    ):
        done = python("-m", *command, "--line-length", "120", str(made), path=made, cwd=made)
        assert done.returncode == 0, done.stdout + done.stderr


def test_an_installed_plugin_is_found_by_its_entry_point(made: Path) -> None:
    install(made)
    done = python("-m", "kattegat", "plugins", "list", "--json", path=made, cwd=made)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    scanner = next(entry for entry in document["scanners"] if entry["name"] == "robots-file")
    assert scanner["plugin"] == "robots-file"
    assert scanner["about"] == "Website"
    assert scanner["yields"] == ["RobotsFile"]
    checks = [entry["name"] for entry in document["checks"] if entry["plugin"] == "robots-file"]
    assert checks == ["robots-file-empty", "robots-file-missing"]
    shown = python("-m", "kattegat", "plugins", "show", "robots-file", "--json", path=made, cwd=made)
    assert json.loads(shown.stdout)["entries"][0]["name"] == "robots-file"


def test_a_plugin_that_can_not_be_loaded_is_named(made: Path) -> None:
    install(made)
    (made / "robots_file.py").write_text("raise RuntimeError('broken on purpose')\n")
    done = python("-m", "kattegat", "plugins", "list", "--json", path=made, cwd=made)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("kat: Plugin 'robots-file' (robots_file) can't be loaded: RuntimeError(")


BAD_NAMES = {
    "": "is no name for a plugin",
    "Robots": "is no name for a plugin",
    "robots_txt": "is no name for a plugin",
    "robots--txt": "is no name for a plugin",
    "robots-": "is no name for a plugin",
    "1st": "is no name for a plugin",
    "../up": "is no name for a plugin",
    "röbots": "is no name for a plugin",
    "dns": "There is a plugin 'dns' already",
    "security-txt": "There is a scanner or check called after 'security-txt' already",
    "http-headers": "would have the fact 'HttpHeaders', which is taken",
    "website": "would have the fact 'Website', which is taken",
    "class": "Python has something called 'class' already",
    "json": "Python has something called 'json' already",
    "httpx": "Python has something called 'httpx' already",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "plugins"
    assert main(["plugin", "new", name, "--folder", str(folder)]) == 2
    assert BAD_NAMES[name] in capsys.readouterr().err
    assert not folder.exists()


def test_nothing_is_overwritten(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (made / "robots_file.py").read_text()
    assert main(["plugin", "new", "robots-file", "--folder", str(made.parent)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (made / "robots_file.py").read_text() == before


def test_a_folder_that_can_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["plugin", "new", "robots-file", "--folder", str(tmp_path / "file")]) == 3
    assert "can't be written" in capsys.readouterr().err
