"""What the history says, what is thrown away of what is parked, and which forms are written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from kattegat.lifecycle import history, parked
from kattegat.schema import runs
from kattegat.schema.steps import Plan
from kattegat.store import forms
from kattegat.store.database import Database
from kattegat.store.forms import Finalized, Form

FORMS = (
    Form("fact dns-records", 1, "0.1.0", "0.1.0"),
    Form("fact dns-records", 2, "0.2.0", "0.3.0"),
    Form("leaf", 1, "0.1.0", "0.1.0"),
    Form("leaf", 2, "0.3.0", "0.4.0"),
)


def said(release: str) -> Finalized:
    return Finalized(release=release, by_whom="anna", at=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_refused_change_is_in_the_history_with_its_reason(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        number = runs.begin(connection, "upgrade", Plan(source="", target=""), by_whom="anna", host="here")
        connection.execute(text("UPDATE lifecycle.run SET state = 'refused', ended_at = now() + interval '3 s'"))
        runs.note(connection, number, {"refused": "somebody writes"})
    with database.begin("kat_owner") as connection:
        [entry] = history.entries(connection)
    assert (entry.state, entry.reason, entry.by_whom, entry.steps) == ("refused", "somebody writes", "anna", 0)
    assert entry.seconds == pytest.approx(3, abs=1)


def test_nothing_is_purged_while_a_change_is_under_way(used: Database) -> None:
    with used.begin("kat_owner") as connection:
        entry = next(one for one in parked.everything(connection) if one.kind == "column")
        runs.begin(connection, "upgrade", Plan(source="", target=""), by_whom="anna", host="here")
        with pytest.raises(parked.NotPurgeableError, match="kat upgrade --resume"):
            parked.purge(connection, [entry.id], "anna", "here")


def test_what_is_not_parked_is_not_shown_or_purged(used: Database) -> None:
    with used.begin("kat_owner") as connection:
        for act in (lambda: parked.get(connection, 77), lambda: parked.purge(connection, [77], "anna", "here")):
            with pytest.raises(parked.NotParkedError, match="kat parked list"):
                act()


@pytest.mark.parametrize(
    ("release", "facts", "leaves", "waits"),
    [(None, 1, 1, 2), ("0.2.0", 1, 1, 2), ("0.3.0", 2, 1, 1), ("0.4.0", 2, 2, 0)],
)
def test_a_form_is_written_once_a_release_that_writes_it_is_finalized(
    release: str | None, facts: int, leaves: int, waits: int
) -> None:
    last = None if release is None else said(release)
    assert forms.writable("fact dns-records", last, FORMS) == facts
    assert forms.writable("leaf", last, FORMS) == leaves
    assert forms.writable("a kind that is not on the list", last, FORMS) == 1
    assert len(forms.waiting(last, "0.4.0", FORMS)) == waits
    assert not any(form.writer == "0.4.0" for form in forms.waiting(last, "0.3.0", FORMS))


def test_the_oldest_reader_follows_what_is_stored(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        assert forms.oldest_reader(connection, FORMS) == "0.1.0"
        forms.finalize(connection, said("0.3.0"))
        assert forms.finalized(connection) == said("0.3.0")
        # Allowed, and not yet written.
        assert forms.oldest_reader(connection, FORMS) == "0.1.0"
        connection.execute(text("ALTER TABLE fact DISABLE ROW LEVEL SECURITY"))
    with database.begin("kat_system") as connection:
        number = connection.execute(
            text("INSERT INTO organisation (code, name) VALUES ('o', 'o') RETURNING id")
        ).scalar_one()
        asset = connection.execute(
            text("INSERT INTO asset (organisation_id, type, key) VALUES (:o, 'Hostname', 'a.example') RETURNING id"),
            {"o": number},
        ).scalar_one()
        source = connection.execute(
            text(
                "INSERT INTO source (organisation_id, kind, scanner, asset_id, vantage, state) VALUES (:o, 'scanner',"
                " 'dns-records', :a, 'local', 'ok') RETURNING id"
            ),
            {"o": number, "a": asset},
        ).scalar_one()
        connection.execute(
            text(
                "INSERT INTO fact (organisation_id, source_id, asset_id, kind, form, value, digest) VALUES (:o, :s, :a,"
                " 'dns-records', 2, '{}', '')"
            ),
            {"o": number, "s": source, "a": asset},
        )
    with database.begin("kat_owner") as connection:
        assert forms.oldest_reader(connection, FORMS) == "0.2.0"
