"""`kat status|upgrade|downgrade|finalize|history|parked` as typed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from katcli import Install

from kattegat import settings
from kattegat.lifecycle import run
from kattegat.lifecycle.run import Wish
from kattegat.schema import fence
from kattegat.store import forms, migrate, server
from kattegat.store.database import Database

sys.path.insert(0, str(Path(__file__).parents[1] / "lifecycle"))
import changekit
from changekit import LAST, Told


@pytest.fixture(scope="module")
def install(make_install: Callable[[str], Install]) -> Install:
    """An install whose database a newer release has used; its server runs, as if that release had been up."""
    made = make_install("changed")
    running = server.ensure(made.data, durable=False)
    database = Database.embedded(running)
    chosen = settings.load({"KAT_DATA_DIR": str(made.data)})
    migrate.prepare(database, plan_key=migrate.key_path(chosen))
    changekit.fill(database)
    wish = Wish(kind="upgrade", to=LAST, yes=True, backup=False)
    run.change(chosen, database, wish, Told(), config=changekit.newer())
    database.close()
    return made


def test_the_older_release_is_told_what_to_type_and_goes_back_by_itself(install: Install) -> None:
    for command in (["assets"], ["findings"], ["tasks"], ["scan", "127.0.0.1"], ["evidence", "verify"]):
        said = install.run(*command, code=4).stderr
        assert said.count("\n") == 1, said
        assert "kat downgrade" in said
        assert "Can't locate" not in said
    status = install.json("status")
    assert status["revision"] == LAST
    assert "kat downgrade" in status["problem"]
    assert status["needed"]["revision"] == LAST
    assert install.run("status", code=0).stdout.count("Traceback") == 0
    kept = install.json("parked", "list")["parked"]
    assert "public.organisation_group.position" in {entry["was"] for entry in kept}
    assert status["parked"]["count"] == len(kept)
    assert install.json("history")["changes"][0]["state"] == "done"
    dry = install.json("downgrade", "--dry-run")
    assert dry["outcome"] is None
    assert dry["sql"]
    assert dry["to"]["revision"] == migrate.head()
    printed = install.run("downgrade", "--dry-run", code=0).stdout
    assert "way back" in printed
    assert f"UPDATE public.alembic_version SET version_num = '{migrate.head()}'" in printed
    assert "Nobody is there to be asked" in install.run("downgrade", "--no-backup", code=2).stderr
    done = install.json("downgrade", "--yes")
    assert done["outcome"]["state"] == "done"
    assert done["outcome"]["backup"]
    after = install.json("status")
    assert after["revision"] == migrate.head()
    assert after["problem"] is None
    assert after["backup"]["proven_at"]
    assert len(install.json("assets", "--organisation", "one")["assets"]) == 0
    # What the newer release had is kept, and can be looked at and taken out.
    away = {each["was"]: each for each in install.json("parked", "list")["parked"]}
    assert {"public.asset.label", "public.place"} <= set(away)
    number = str(away["public.asset.label"]["id"])
    shown = install.json("parked", "show", number)
    assert shown["shape"]["type"] == "text"
    lines = install.run("parked", "export", number, code=0).stdout.splitlines()
    assert len(lines) == 101
    assert "host1.example 100%" in "".join(lines)
    # Without an answer nothing is thrown away; and a column that must have values is not.
    assert "Nobody is there" in install.run("parked", "purge", number, code=2).stderr
    assert "may not be empty when it comes back" in install.run("parked", "purge", number, "--yes", code=3).stderr
    place = str(away["public.place"]["id"])
    assert install.json("parked", "purge", place, "--yes")["purged"][0]["was"] == "public.place"
    assert [entry["kind"] for entry in install.json("history")["changes"]] == ["purge", "downgrade", "upgrade"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["upgrade", "--resume", "--cancel"], "say one of the two"),
        (["upgrade", "--resume", "--to", "0.1.0"], "leave --to"),
        (["downgrade", "--accept-plan", "abc"], "no SHA-256"),
        (["downgrade", "--resume"], "nothing to resume"),
        (["downgrade", "--cancel"], "nothing to resume or cancel"),
        (["parked", "purge"], "by their numbers, or --all"),
        (["parked", "show", "9999"], "Nothing is parked under the number 9999"),
        (["upgrade", "--to", "7.7.7"], "no release or revision '7.7.7'"),
        (["finalize", "now"], "kat --help"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_sentence(install: Install, arguments: list[str], says: str) -> None:
    said = install.run(*arguments, code=2).stderr
    assert says in said
    assert said.count("\n") == 1


def test_a_closed_fence_without_a_change_is_opened(install: Install) -> None:
    database = Database.embedded(server.ensure(install.data, durable=False))
    with database.engine("kat_owner").connect() as connection:
        fence.close(connection)
        connection.invalidate()
    said = install.run("assets", code=4).stderr
    assert "--resume" in said
    assert "open again" in install.run("upgrade", "--resume", code=0).stderr
    database.close()
    install.run("assets", "--organisation", "one", code=0)


def test_finalize_says_what_it_means(install: Install) -> None:
    if install.json("status")["problem"]:
        install.run("downgrade", "--yes", "--no-backup", code=0)
    assert install.json("status")["oldest_reader"] == "0.1.0"
    assert "--yes" in install.run("finalize", "--json", code=2).stderr
    done = install.json("finalize", "--yes")
    assert done["forms"] == [
        {"kind": form.kind, "number": form.number, "reader": form.reader, "writer": form.writer}
        for form in forms.waiting(None, done["release"])
    ]
    assert done["forms"]
    assert install.json("status")["oldest_reader"] == max(form["reader"] for form in done["forms"])
    assert install.json("finalize")["forms"] == []
