"""`kat backup` and `kat keys` as typed: an install, its backup, and the same install on a machine that has nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import backupkit

from kattegat import settings
from kattegat.store import migrate
from kattegat.store import server as embedded
from kattegat.store.database import Database


class Machine:
    """A data directory, and `kat` on it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
        self.environment = {**clean, "KAT_DATA_DIR": str(data), "COLUMNS": "140"}

    def run(self, *arguments: str, code: int = 0, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "kattegat", *arguments],
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        """The document of a command."""
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture
def machines(run_dir: Path) -> Iterator[tuple[Machine, Machine]]:
    """One with an install in use, and one with nothing."""
    made = (Machine(run_dir / f"old-{os.getpid()}"), Machine(run_dir / f"new-{os.getpid()}"))
    running = embedded.ensure(made[0].data, durable=False)
    database = Database.embedded(running)
    migrate.prepare(database)
    backupkit.fill(database, settings.load({"KAT_DATA_DIR": str(made[0].data)}), organisations=1)
    database.close()
    yield made
    for machine in made:
        embedded.stop(machine.data, "immediate")
        shutil.rmtree(machine.data, ignore_errors=True)


def test_an_install_comes_back_on_a_machine_that_has_nothing(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    old, new = machines
    assert "yet: `kat backup create` makes one" in old.run("backup", "verify", code=2).stderr
    assert "kat keys recovery set" in old.run("keys", "recovery", "check", code=3).stderr
    shown = old.run("keys", "recovery", "set").stdout
    passphrase = re.search(r"(?:[0-9A-Z]{5}-){4}[0-9A-Z]{5}", shown)
    assert passphrase is not None
    assert "--replace" in old.run("keys", "recovery", "set", code=2).stderr
    (tmp_path / "passphrase").write_text(passphrase[0] + "\n")
    given = ("--passphrase-file", str(tmp_path / "passphrase"))
    assert "right" in old.run("keys", "recovery", "check", "--passphrase-file", "-", typed=passphrase[0]).stdout
    made = old.json("backup", "create", "--to", str(tmp_path / "backups"), "--label", "before the move")
    where = made["path"]
    proof = old.json("backup", "verify", where, "--all-evidence", *given)
    assert (proof["keys"], proof["records"]) == ("recovery", 12)
    listed = old.json("backup", "list", "--in", str(tmp_path / "backups"))
    assert [(found["label"], found["proof"]["records"]) for found in listed["backups"]] == [("before the move", 12)]
    assert passphrase[0] not in "".join(
        path.read_text(errors="replace") for path in (tmp_path / "backups").rglob("*.json")
    )
    # Nothing is made on the new machine for a restore that can't be done.
    assert "--passphrase-file" in new.run("backup", "restore", where, code=3).stderr
    assert not new.data.exists()
    done = new.json("backup", "restore", where, *given)
    assert (done["keys"], done["kept_database"]) == ("recovery", None)
    assert set(done["files"]) >= {"secrets/install.key", "anchors"}
    assert "The evidence is whole." in new.run("evidence", "verify", "--organisation", "org0").stdout
    assert new.run("evidence", "show", "3", "--organisation", "org0").stdout == old.run(
        "evidence", "show", "3", "--organisation", "org0"
    ).stdout  # fmt: skip
    # And once more, now that it is in use.
    assert "--yes" in new.run("backup", "restore", where, *given, code=3).stderr
    kept = new.json("backup", "restore", where, "--yes")["kept_as"]
    assert "The evidence is whole." in new.run("evidence", "verify", "--organisation", "org0").stdout
    assert kept in new.run("backup", "discard", "nothing", code=2).stderr
    new.run("backup", "discard", kept)
    assert not list(new.data.rglob(f"*{kept}*"))
