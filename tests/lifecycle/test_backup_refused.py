"""What is wrong with a backup is found before anything changes, and said with what to type next."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parent))
import backupkit

from kattegat.lifecycle import backup, keys
from kattegat.lifecycle.backup import manifest, reach
from kattegat.lifecycle.backup.manifest import Backup
from kattegat.schema import scratch
from kattegat.settings import Settings
from kattegat.store import server as embedded
from kattegat.store.database import Database

SECRET = keys.Secret("a long passphrase")


@pytest.fixture
def chosen(tmp_path: Path, server: embedded.Running) -> Settings:
    """An install's settings, with a recovery passphrase."""
    made = backupkit.settings_for(tmp_path / "data", server)
    keys.set_passphrase(made.data_dir, SECRET.passphrase, n=2**10)
    return made


@pytest.fixture
def filled(database: Database, chosen: Settings) -> Database:
    """Its database, with an organisation and evidence."""
    backupkit.fill(database, chosen, organisations=1)
    return database


@pytest.fixture
def made(filled: Database, chosen: Settings) -> Backup:
    """A good backup of it."""
    return backup.create(chosen, filled)


@pytest.fixture
def unchanged(filled: Database, chosen: Settings, server: embedded.Running) -> Iterator[None]:
    """Fails the test when database, databases beside it, or files of the install are others afterwards."""
    before = _state(filled, chosen, server)
    yield
    assert _state(filled, chosen, server) == before


def _state(database: Database, chosen: Settings, server: embedded.Running) -> object:
    database.close()
    with psycopg.connect(server.dsn("kat_admin", reach.of(chosen, database).database)) as connection:
        rows = connection.execute(
            "SELECT (SELECT array_agg(o::text ORDER BY id) FROM organisation o),"
            " (SELECT array_agg(e::text ORDER BY organisation_id, id) FROM evidence e),"
            " (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),"
            " (SELECT array_agg(datname::text ORDER BY datname) FROM pg_database"
            "  WHERE starts_with(datname, current_database()))"
        ).fetchone()
        # Not those that another test of the run has in use at this moment.
        left = scratch.leftovers(connection)
    files = {
        str(path.relative_to(chosen.data_dir)): path.read_bytes()
        for path in sorted(chosen.data_dir.rglob("*"))
        if path.is_file() and "backups" not in path.parts
    }
    return rows, left, files


def forge(found: Backup, **changes: object) -> Backup:
    """Changes the manifest and sets its checksums right, as somebody would who means it."""
    document = json.loads((found.path / "manifest.json").read_bytes()) | changes
    listed = [
        msgspec.structs.replace(
            file, sha256=manifest.digest(found.path / file.path), size=(found.path / file.path).stat().st_size
        )
        for file in manifest.files(found)
        if (found.path / file.path).exists()
    ]
    (found.path / "files.jsonl").write_bytes(b"".join(msgspec.json.encode(file) + b"\n" for file in listed))
    document["files"] = manifest.digest(found.path / "files.jsonl")
    content = json.dumps(document).encode()
    (found.path / "manifest.json").write_bytes(content)
    (found.path / "manifest.sha256").write_text(hashlib.sha256(content).hexdigest() + "  manifest.json\n")
    return backup.get(str(found.path), found.path.parent)


def largest(found: Backup) -> Path:
    """The largest file of the dump's data."""
    return max((found.path / "database").glob("*.dat*"), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def refuse_both(chosen: Settings, filled: Database, found: Backup, problem: type[Exception], match: str) -> None:
    """Neither proven nor restored."""
    with pytest.raises(problem, match=match):
        backup.verify(chosen, filled, found, secret=SECRET)
    with pytest.raises(problem, match=match):
        backup.restore(chosen, found, lambda: filled, secret=SECRET, replace=True)
    assert not (found.path / "proof.json").exists()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("which", ["data", "toc", "pack", "keys", "snapshot"])
def test_a_damaged_file(
    chosen: Settings, filled: Database, made: Backup, damage: Callable[[Path], None], which: str
) -> None:
    path = {
        "data": largest(made),
        "toc": made.path / "database" / "toc.dat",
        "pack": next(made.path.rglob("*.pack")),
        "keys": made.path / "keys.json",
        "snapshot": made.path / "snapshot.json",
    }[which]
    # A pack is a hard link to the one in use, which must stay as it is here.
    copy = path.read_bytes()
    path.unlink()
    path.write_bytes(copy)
    damage(path)
    # A changed key file may already fail to open.
    sentence = "kat backup (list|create)|use another backup"
    refuse_both(chosen, filled, made, Exception, sentence)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "files.jsonl"])
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_a_damaged_description(made: Backup, chosen: Settings, damage: Callable[[Path], None], name: str) -> None:
    damage(made.path / name)
    with pytest.raises(backup.DamagedError, match="`kat backup list` shows the others"):
        manifest.files(backup.get(made.name, made.path.parent))


@pytest.mark.usefixtures("unchanged")
def test_rows_that_are_not_those_that_were_there(chosen: Settings, filled: Database, made: Backup) -> None:
    table = made.manifest.tables["public.organisation"]
    told = msgspec.to_builtins(made.manifest.tables)
    told["public.organisation"] = {"rows": table.rows, "fingerprint": "0" * 32}
    told["public.evidence_key"]["rows"] += 1
    found = forge(made, tables=told)
    with pytest.raises(backup.DifferentError, match="`kat backup create` makes a new one") as caught:
        backup.verify(chosen, filled, found, secret=SECRET)
    assert caught.value.differences == [
        "public.evidence_key has 1 rows in place of 2",
        "public.organisation has other values in its 1 rows",
    ]


@pytest.mark.usefixtures("unchanged")
def test_a_dump_that_lacks_what_its_checksums_do_not_tell(chosen: Settings, filled: Database, made: Backup) -> None:
    largest(made).write_bytes(b"")
    found = forge(made)
    refuse_both(chosen, filled, found, backup.BackupError, "kat backup create|type the same command again")


@pytest.mark.usefixtures("unchanged")
def test_a_pack_missing_from_the_backup_and_its_list(chosen: Settings, filled: Database, made: Backup) -> None:
    next(made.path.rglob("*.pack")).unlink()
    found = forge(made)
    refuse_both(chosen, filled, found, backup.DamagedError, r"\.pack is missing: `kat backup list`")


def test_a_pack_missing_from_the_install(chosen: Settings, filled: Database) -> None:
    gone = next((chosen.data_dir / "evidence").rglob("*.pack"))
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(backup.MissingPackError, match="kat evidence verify") as caught:
        backup.create(chosen, filled)
    assert caught.value.pack == str(gone.relative_to(chosen.data_dir / "evidence"))
    assert list((chosen.data_dir / "backups").iterdir()) == []
    without = backup.create(chosen, filled, with_evidence=False)
    assert backup.verify(chosen, filled, without).notes[-1] == "the evidence was left out of it"
    gone.write_bytes(content)
    assert backup.create(chosen, filled).manifest.evidence.packs == 3


def test_a_lost_key(chosen: Settings, filled: Database, made: Backup) -> None:
    path = chosen.data_dir / "secrets" / "install.key"
    path.rename(path.with_suffix(".away"))
    for call in (
        lambda: backup.verify(chosen, filled, made),
        lambda: backup.restore(chosen, made, lambda: filled, replace=True),
    ):
        with pytest.raises(backup.LostKeyError, match="--passphrase-file FILE"):
            call()
    assert not path.exists()
    # With the passphrase it comes back.
    backup.restore(chosen, made, lambda: filled, secret=SECRET, replace=True)
    assert path.read_bytes() == path.with_suffix(".away").read_bytes()


@pytest.mark.usefixtures("unchanged")
def test_a_lost_key_that_no_backup_carries(chosen: Settings, filled: Database) -> None:
    keys.path(chosen.data_dir).rename(chosen.data_dir / "away")
    bare = backup.create(chosen, filled)
    assert not (bare.path / "keys.json").exists()
    assert "kat keys recovery set" in backup.verify(chosen, filled, bare).notes[0]
    (bare.path / "proof.json").unlink()
    key = chosen.data_dir / "secrets" / "install.key"
    key.rename(chosen.data_dir / "key")
    with pytest.raises(backup.LostKeyError, match="put back that file"):
        backup.restore(chosen, bare, lambda: filled, replace=True)
    with pytest.raises(backup.LostKeyError, match="carries no keys"):
        backup.restore(chosen, bare, lambda: filled, secret=SECRET, replace=True)
    (chosen.data_dir / "key").rename(key)
    (chosen.data_dir / "away").rename(keys.path(chosen.data_dir))


@pytest.mark.usefixtures("unchanged")
def test_a_wrong_passphrase(chosen: Settings, filled: Database, made: Backup) -> None:
    for call in (backup.verify, lambda c, d, b, secret: backup.restore(c, b, lambda: d, secret=secret, replace=True)):
        with pytest.raises(keys.WrongRecoveryError, match="try again with that one"):
            call(chosen, filled, made, secret=keys.Secret("another passphrase"))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("changes", [{"release": "99.1.0"}, {"revision": "9999"}])
def test_a_backup_of_a_newer_release(chosen: Settings, filled: Database, made: Backup, changes: dict[str, str]) -> None:
    found = forge(made, **changes)
    with pytest.raises(backup.NewerError, match=r"install kattegat==.* and type the same command again"):
        backup.restore(chosen, found, lambda: filled, secret=SECRET, replace=True)
    # It is proven all the same: the older release takes a backup before it takes the database back.
    assert backup.verify(chosen, filled, found, secret=SECRET).rows > 0


@pytest.mark.usefixtures("unchanged")
def test_a_format_of_a_later_release(made: Backup) -> None:
    content = json.dumps({"format": 2, "made_by": "7.0.0", "anything": []}).encode()
    (made.path / "manifest.json").write_bytes(content)
    (made.path / "manifest.sha256").write_text(hashlib.sha256(content).hexdigest())
    with pytest.raises(backup.NewerError, match=r"install kattegat==7\.0\.0"):
        backup.get(made.name, made.path.parent)


def test_releases_are_compared_as_numbers() -> None:
    order = ["0.1.0.dev0", "0.1.0", "0.2.0rc1", "0.2.0", "0.10.0", "1.0", "1.0.1"]
    assert sorted(order, key=manifest.number) == order
    assert manifest.number("1.0") == manifest.number("1.0.0")


@pytest.mark.usefixtures("unchanged")
def test_no_pg_dump(chosen: Settings, filled: Database, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bare = msgspec.structs.replace(chosen, pg_bin=tmp_path / "empty")
    with pytest.raises(backup.ToolError, match=r"there is none in KAT_PG_BIN .*: install postgresql-client-"):
        backup.create(bare, filled)
    assert not (chosen.data_dir / "backups").exists()


@pytest.mark.real
@pytest.mark.usefixtures("unchanged")
def test_a_pg_dump_that_is_too_old(chosen: Settings, filled: Database) -> None:
    old = Path("/usr/lib/postgresql/15/bin")
    major = reach.of(chosen, filled).major
    if not (old / "pg_dump").exists() or major <= 15:
        pytest.skip("needs the pg_dump of PostgreSQL 15 beside a newer server")
    with pytest.raises(backup.ToolError, match=f"pg_dump 15.* is too old: install postgresql-client-{major}"):
        backup.create(msgspec.structs.replace(chosen, pg_bin=old), filled)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Call it with mount options for a tmpfs of its own."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        if os.geteuid() != 0:
            pytest.skip("needs root to mount a small disk")
        place = tmp_path / "disk"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"may not mount: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


@pytest.mark.usefixtures("unchanged")
def test_no_room_is_seen_before_anything_is_written(
    chosen: Settings, filled: Database, small_disk: Callable[[str], Path]
) -> None:
    place = small_disk("size=8m")
    with pytest.raises(backup.SpaceError, match=r"free and about .* are needed: make room, or choose") as caught:
        backup.create(chosen, filled, to=place)
    assert caught.value.needed > caught.value.free > 0
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("unchanged")
def test_a_disk_that_fills_up_on_the_way(chosen: Settings, filled: Database, small_disk: Callable[[str], Path]) -> None:
    # Room for bytes, and for too few files: pg_dump itself meets the end.
    place = small_disk("size=200m,nr_inodes=40")
    with pytest.raises(backup.SpaceError, match="is full, and what was begun there has been removed: make room"):
        backup.create(chosen, filled, to=place)
    assert list(place.iterdir()) == []
    with filled.begin("kat_system") as connection:
        assert connection.execute(text("SELECT count(*) FROM evidence")).scalar() == 12


@pytest.mark.usefixtures("unchanged")
def test_a_database_in_use_is_not_replaced_unasked(chosen: Settings, filled: Database, made: Backup) -> None:
    with pytest.raises(backup.InUseError, match=r"is in use: `kat backup restore .* --yes`"):
        backup.restore(chosen, made, lambda: filled)


def test_an_install_that_runs_is_not_replaced(chosen: Settings, filled: Database, made: Backup) -> None:
    with filled.begin("kat_system") as connection:
        connection.execute(
            text("INSERT INTO process (role, host, pid, release) VALUES ('worker', 'elsewhere', 1, '0.1.0')")
        )
    with pytest.raises(backup.InUseError, match=r"worker on elsewhere \(1\).*stop it"):
        backup.restore(chosen, made, lambda: filled, replace=True)


def test_sessions_of_others_are_not_cut_off(
    chosen: Settings, filled: Database, made: Backup, server: embedded.Running
) -> None:
    name = reach.of(chosen, filled).database
    with (
        psycopg.connect(server.dsn("kat_admin", name)),
        pytest.raises(backup.InUseError, match="1 other sessions are connected"),
    ):
        backup.restore(chosen, made, lambda: filled, replace=True)
    shutil.rmtree(made.path)


def test_a_name_that_is_no_backup(chosen: Settings, tmp_path: Path) -> None:
    for name in ("nothing", str(tmp_path), None):
        with pytest.raises(backup.NoBackupError, match=r"kat backup (list|create)"):
            backup.get(name, backup.default_place(chosen))
