"""What goes wrong around a scan: a database that goes away, a full disk, a database of another release."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from katcli import Install, Site

from kattegat.store import server


@pytest.fixture
def small_disk(run_dir: Path) -> Iterator[Path]:
    """A disk of 512 MiB in memory."""
    place = run_dir / f"small-{os.getpid()}"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512m,mode=0711", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        place.rmdir()
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no disk can be mounted: {done.stderr}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
    place.rmdir()


def fill(place: Path) -> Path:
    """Takes every last byte of a disk."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    return filler


def sentence(err: str) -> str:
    """The last line on stderr, which is ours; nothing but progress before it."""
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert len([line for line in lines if line.startswith("kat: ")]) == 1
    assert lines[-1].startswith("kat: ")
    return lines[-1]


def checks(document: Any) -> set[str]:
    return {row["check"] for row in document["findings"]}


def test_a_scan_recovers_when_the_database_goes_away(make_install: Callable[[str], Install], site: Site) -> None:
    install = make_install("away")
    expected = install.scan(site, "--organisation", "calm")
    site.hold()
    running = install.start("scan", site.url, "--allow", "127.0.0.0/8", "--json", "--organisation", "storm")
    assert site.asked.wait(120)
    assert server.stop(install.data, "immediate")
    site.release()
    out, err = running.communicate(timeout=300)
    assert running.returncode == 1, err
    assert "Traceback" not in err
    document = install.json("findings", "--organisation", "storm")
    assert checks(document) == checks(expected) != set()
    assert '"complete": true' in out
    assert install.json("evidence", "verify", "--organisation", "storm")["problems"] == []
    assert install.processes() == []


def test_a_full_disk_loses_nothing(small_disk: Path, site: Site) -> None:
    install = Install(small_disk / "data")
    try:
        before = install.scan(site)
        filler = fill(small_disk)
        done = install.run("scan", site.url, "--allow", "127.0.0.0/8", code=3)
        assert "room" in sentence(done.stderr) or "space" in sentence(done.stderr)
        assert install.processes() == []
        filler.unlink()
        assert checks(install.json("findings")) == checks(before)
        assert install.json("evidence", "verify")["problems"] == []
        after = install.scan(site)
        assert after["complete"]
        assert checks(after) == checks(before)
    finally:
        server.stop(install.data, "immediate")


def test_a_disk_that_fills_up_during_a_scan_ends_it_with_one_sentence(small_disk: Path, site: Site) -> None:
    install = Install(small_disk / "data")
    try:
        before = install.scan(site)
        site.hold()
        running = install.start("scan", site.url, "--allow", "127.0.0.0/8", "--json")
        assert site.asked.wait(120)
        filler = fill(small_disk)
        site.release()
        _, err = running.communicate(timeout=300)
        assert running.returncode == 3, err
        assert "is full: make room there" in sentence(err)
        assert install.processes() == []
        filler.unlink()
        after = install.scan(site)
        assert checks(after) == checks(before)
        assert install.json("evidence", "verify")["problems"] == []
    finally:
        server.stop(install.data, "immediate")


def test_a_database_of_a_later_release_is_left_alone(make_install: Callable[[str], Install], site: Site) -> None:
    install = make_install("later")
    install.scan(site, "--scanner", "http")
    running = server.ensure(install.data)
    with psycopg.connect(running.dsn("kat_owner"), autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    # Only status answers for any release: it is where the sentence sends one.
    assert install.json("status")["revision"] == "9999"
    for command in (["findings"], ["up", "--port", "1"], ["scan", site.url], ["evidence", "verify"]):
        done = install.run(*command, code=4)
        assert sentence(done.stderr).startswith("kat: The database is at revision 9999, which this release (revision ")
        assert done.stdout == ""
    with psycopg.connect(running.dsn("kat_owner"), autocommit=True) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_the_port_of_the_web_process_is_taken(make_install: Callable[[str], Install], site: Site) -> None:
    install = make_install("taken")
    done = install.run("up", "--port", str(site.port), code=3)
    assert f"The web process can't listen on 127.0.0.1 port {site.port}" in sentence(done.stderr)
    assert install.processes() == []
