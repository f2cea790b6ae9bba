"""Organisations, groups, asset sets, consent and own networks; and that each act leaves one row of audit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from kattegat.accounts import audit, consent, groups, networks, organisations, sets
from kattegat.errors import KeyFormatError
from kattegat.store.database import Database


def test_organisations_are_made_once_and_found_by_code(database: Database) -> None:
    with database.begin("kat_system") as conn:
        made = organisations.create(conn, "example-1", " Example ", actor="ada")
        assert made.name == "Example"
        assert organisations.get(conn, "example-1") == made
        assert organisations.ensure(conn, "example-1", "Another name") == made
        other = organisations.ensure(conn, "a")
        assert other.name == "a"
        with pytest.raises(organisations.OrganisationExistsError):
            organisations.create(conn, "a", "Again")
        with pytest.raises(organisations.UnknownOrganisationError):
            organisations.get(conn, "b")
        assert organisations.page(conn) == [other, made]
        assert organisations.page(conn, after="a", limit=1) == [made]
        assert organisations.by_id(conn, [made.id, 99999]) == {made.id: made}
        assert [act.act for act in audit.page(conn)] == ["organisation.create"] * 2
    with database.begin("kat_app", [other.id]) as conn:
        assert organisations.page(conn) == [other]


@pytest.mark.parametrize("code", ["", "A", "a_b", "-a", "a-", "a b", "é", "a" * 64, "a\n", "a\x00"])
def test_a_code_that_is_none(database: Database, code: str) -> None:
    with database.begin("kat_system") as conn, pytest.raises(organisations.CodeError):
        organisations.create(conn, code, "Name")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00b", "x" * 201])
def test_a_name_that_is_none(database: Database, name: str) -> None:
    with database.begin("kat_system") as conn, pytest.raises(organisations.OrganisationNameError):
        organisations.create(conn, "a", name)


def test_groups_are_ordered_and_have_members(database: Database) -> None:
    with database.begin("kat_system") as conn:
        one = organisations.ensure(conn, "one").id
        late, early = groups.create(conn, "late", 2), groups.create(conn, "early", 1)
        with pytest.raises(groups.GroupExistsError):
            groups.create(conn, "late")
        with pytest.raises(groups.UnknownGroupError):
            groups.get(conn, "none")
        assert groups.all_groups(conn) == [early, late]
        assert groups.add(conn, late, one)
        assert not groups.add(conn, late, one)
        groups.add(conn, early, one)
        assert groups.members(conn, late) == [one]
        assert groups.groups_of(conn, one) == [early, late]
        groups.move(conn, early, 3)
        assert [group.name for group in groups.groups_of(conn, one)] == ["late", "early"]
        assert groups.remove(conn, late, one)
        assert not groups.remove(conn, late, one)
        groups.delete(conn, early)
        assert groups.groups_of(conn, one) == []
        acts = [act.act.removeprefix("group.") for act in reversed(audit.page(conn))]
        assert acts == ["organisation.create", "create", "create", "add", "add", "move", "remove", "delete"]


def test_asset_sets_find_their_assets(database: Database) -> None:
    with database.begin("kat_system") as conn:
        org = organisations.ensure(conn, "one").id
        other = organisations.ensure(conn, "other").id

        def asset(type_: str, key: str, clearance: int, organisation: int = org) -> int:
            return int(
                conn.execute(
                    text(
                        "INSERT INTO asset (organisation_id, type, key, clearance) VALUES (:o, :t, :k, :c) RETURNING id"
                    ),
                    {"o": organisation, "t": type_, "k": key, "c": clearance},
                ).scalar_one()
            )

        www = asset("Hostname", "www.example.org", 2)
        odd = asset("Hostname", "a_b%c.example.org", 0)
        address = asset("IPAddress", "internet|192.0.2.1", 2)
        foreign = asset("Hostname", "www.example.org", 2, other)
        queries: dict[str, dict[str, Any]] = {
            "all": {},
            "hosts": {"types": ["Hostname", "Website"]},
            "org": {"key": "*.example.org"},
            "odd": {"key": "a_b%c.*"},
            "one": {"key": "www.exampl?.org"},
            "scanned": {"clearance_min": 1},
            "backslash": {"key": "a\\_b*"},
        }
        ids = {name: sets.save(conn, org, name, query).id for name, query in queries.items()}
        found = sets.containing(conn, org, [www, odd, address, foreign])
        names = {value: name for name, value in ids.items()}
        assert [names[set_] for set_ in found[www]] == ["all", "hosts", "one", "org", "scanned"]
        assert [names[set_] for set_ in found[odd]] == ["all", "hosts", "odd", "org"]
        assert [names[set_] for set_ in found[address]] == ["all", "scanned"]
        assert found[foreign] == []
        again = sets.save(conn, org, "one", {"types": ["URL"]})
        assert again.id == ids["one"]
        assert {made.name for made in sets.all_sets(conn, org)} == set(ids)
        sets.delete(conn, org, "one")
        with pytest.raises(sets.UnknownSetError):
            sets.delete(conn, org, "one")


@pytest.mark.parametrize(
    "query",
    [
        {"type": ["Hostname"]},
        {"types": "Hostname"},
        {"clearance_min": 5},
        {"clearance_min": 3, "clearance_max": 2},
        {"key": ""},
        {"key": "a\x00"},
        {"key": 5},
    ],
)
def test_a_query_that_is_none_says_why(query: dict[str, object]) -> None:
    with pytest.raises(sets.QueryError):
        sets.read(query)


def test_consent_holds_from_grant_to_its_end_or_revocation(database: Database) -> None:
    with database.begin("kat_system") as conn:
        org = organisations.ensure(conn, "one").id
        assert consent.in_force(conn, org) == []
        with pytest.raises(consent.ConsentError):
            consent.grant(conn, org, "ada", " ")
        with pytest.raises(consent.ConsentError):
            consent.grant(conn, org, "ada", "yes", until=datetime(2030, 1, 1))  # noqa: DTZ001
        end = datetime.now(UTC) + timedelta(days=1)
        short = consent.grant(conn, org, "ada", "Scan us for a day.", until=end)
        long = consent.grant(conn, org, "bob", "Scan us.")
        assert consent.in_force(conn, org) == [short, long]
        assert consent.in_force(conn, org, at=end) == [long]
        assert consent.in_force(conn, org, at=short.granted_at - timedelta(seconds=1)) == []
        assert consent.revoke(conn, org, long.id, actor="bob")
        assert not consent.revoke(conn, org, long.id, actor="bob")
        assert consent.in_force(conn, org) == [short]
        acts = [(act.actor, act.act) for act in reversed(audit.page(conn, organisation_id=org))]
        assert acts[1:] == [("ada", "consent.grant"), ("bob", "consent.grant"), ("bob", "consent.revoke")]


def test_own_networks_are_declared_once_and_withdrawn(database: Database) -> None:
    with database.begin("kat_system") as conn:
        org = organisations.ensure(conn, "one").id
        assert networks.declare(conn, org, "10.0.0.0/8", actor="ada")
        assert not networks.declare(conn, org, "10.0.0.0/8", actor="bob")
        assert networks.declare(conn, org, "10.0.0.0/8", zone="office")
        assert networks.declare(conn, org, "fd00::/8")
        assert networks.declare(conn, org, "127.0.0.1")
        with pytest.raises(KeyFormatError, match="host bits"):
            networks.declare(conn, org, "10.0.0.5/8")
        with pytest.raises(KeyFormatError):
            networks.declare(conn, org, "10.0.0.0/8", zone="no zone")
        listed = networks.all_networks(conn, org)
        assert [(found.zone, found.network) for found in listed] == [
            ("internet", "10.0.0.0/8"),
            ("internet", "127.0.0.1/32"),
            ("internet", "fd00::/8"),
            ("office", "10.0.0.0/8"),
        ]
        assert networks.by_organisation(conn, [org, 999]) == {org: listed, 999: []}
        assert networks.withdraw(conn, org, "10.0.0.0/8")
        assert not networks.withdraw(conn, org, "10.0.0.0/8")
        assert len(networks.all_networks(conn, org)) == 3
        assert len(audit.page(conn, organisation_id=org)) == 6


def test_audit_pages_lose_and_repeat_nothing(database: Database) -> None:
    for batch in range(3):
        with database.begin("kat_system") as conn:
            org = organisations.ensure(conn, "one").id
            for number in range(4):
                audit.write(conn, "ada", "test", f"{batch}.{number}", {"n": number}, org)
    with database.begin("kat_app", [org]) as conn:
        seen: list[audit.Act] = []
        before = None
        while page := audit.page(conn, organisation_id=org, before=before, limit=5):
            seen += page
            before = (page[-1].at, page[-1].id)
    expected = [f"{batch}.{number}" for batch in (2, 1, 0) for number in (3, 2, 1, 0)]
    assert [act.object for act in seen if act.act == "test"] == expected
    with database.begin("kat_app", []) as conn:
        assert audit.page(conn) == []
