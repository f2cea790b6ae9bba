"""The systemd units: as systemd itself reads them, how much they leave open, and what they start."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from stack import ROOT

from kattegat.cli.main import app
from kattegat.runner.main import arguments

UNITS = ROOT / "deploy" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
# Of 10, by `systemd-analyze security`: what systemd calls OK is below 4.
EXPOSURE = 2.0


@pytest.fixture
def analyze() -> str:
    """The program; skips where it is missing, and fails there with CI=true."""
    found = shutil.which("systemd-analyze")
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("systemd is not installed")
    return found


def keys(name: str) -> list[tuple[str, str]]:
    """Every `Key=value` of a unit."""
    return re.findall(r"^(\w+)=(.*)$", (UNITS / name).read_text(), re.MULTILINE)


def test_systemd_finds_nothing_wrong(analyze: str, tmp_path: Path) -> None:
    for path in UNITS.iterdir():
        # The program need not be installed where the tests run.
        text = path.read_text().replace("/opt/kattegat/current/bin/kat", "/bin/true")
        (tmp_path / path.name).write_text(text)
    units = [str(tmp_path / name) for name in (*SERVICES, "kattegat.target")]
    done = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "kattegat" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_leaves_little_open(analyze: str, name: str) -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={round(EXPOSURE * 10)}", "--no-pager", UNITS / name],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_starts_is_a_command_with_these_options(name: str) -> None:
    [command] = [value for key, value in keys(name) if key == "ExecStart"]
    program, *words = command.split()
    assert program == "/opt/kattegat/current/bin/kat"
    if words[:2] == ["process", "runner"]:
        given = arguments().parse_args(words[2:])
        assert given.door == "unix:/run/kattegat/door.sock"
    else:
        app.parse_args(words, exit_on_error=False, print_error=False)


def test_the_target_wants_every_process() -> None:
    wanted = {unit for key, value in keys("kattegat.target") if key == "Wants" for unit in value.split()}
    assert wanted | {"kattegat-prepare.service", "kattegat.service"} == set(SERVICES)
    for name in wanted:
        assert ("PartOf", "kattegat.target") in keys(name)
        assert ("Requires", "kattegat-prepare.service") in keys(name)


def test_the_runner_sees_neither_evidence_nor_the_database_s_password() -> None:
    found = keys("kattegat-runner.service")
    assert ("User", "kattegat-runner") in found
    assert ("InaccessiblePaths", "/etc/kattegat /var/lib/kattegat") in found
    assert ("EnvironmentFile", "/etc/kattegat/environment") not in found
    web = dict(keys("kattegat-web.service"))
    # Its group may pass to the socket.
    assert ("SupplementaryGroups", web["Group"]) in found
    assert web["RuntimeDirectoryMode"] == "0750"
    assert web["ExecStart"].endswith("--group")


@pytest.mark.parametrize(("name", "program"), [("sysusers", "systemd-sysusers"), ("tmpfiles", "systemd-tmpfiles")])
def test_users_and_folders_are_made(name: str, program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{program} is not installed")
    (tmp_path / "etc").mkdir()
    for each in ("sysusers", "tmpfiles"):
        options = ["--create"] if each == "tmpfiles" else []
        command = [f"systemd-{each}", f"--root={tmp_path}", *options, str(UNITS / f"kattegat.{each}.conf")]
        if each == "tmpfiles" and os.geteuid() != 0:
            continue
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if each == name:
            break
    users = (tmp_path / "etc" / "passwd").read_text()
    assert "kattegat:x:" in users
    assert "kattegat-runner:x:" in users
    if name == "tmpfiles" and os.geteuid() == 0:
        folder = tmp_path / "var" / "lib" / "kattegat"
        assert folder.stat().st_mode & 0o777 == 0o700


def test_every_unit_is_a_unit() -> None:
    for path in UNITS.iterdir():
        if path.suffix in (".service", ".target"):
            parser = configparser.RawConfigParser(strict=False)
            parser.read(path)
            assert "Unit" in parser
