"""Settings in force against a plain model of the rule, on random trees."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from kattegat.accounts import audit, groups, organisations, sets, settings
from kattegat.accounts.settings import InForce
from kattegat.plugin import Option
from kattegat.store.database import Database

KNOWN = {
    "tls.seconds": Option("seconds", 5, ""),
    "tls.share": Option("share", 0.5, ""),
    "tls.deep": Option("deep", False, ""),
    "tls.names": Option("names", ("a",), ""),
    "tls.mode": Option("mode", "x", ""),
}
NUMBERS = ("tls.seconds", "tls.share")


def test_each_level_covers_the_one_above_and_is_taken_away_again(database: Database) -> None:
    with database.begin("kat_system") as conn:
        org = organisations.ensure(conn, "one").id
        team = groups.create(conn, "team")
        groups.add(conn, team, org)
        set_ = sets.save(conn, org, "mail", {}).id
        assert settings.in_force(conn, org) == {}
        places = [
            (settings.INSTALL, InForce(1, "install", "")),
            (settings.group(team.id), InForce(2, "group", "team")),
            (settings.organisation(org), InForce(3, "organisation", "one")),
            (settings.asset_set(org, set_), InForce(4, "asset_set", "mail")),
        ]
        for number, (place, told) in enumerate(places, 1):
            settings.set_(conn, place, "tls.seconds", 99, known=KNOWN)
            settings.set_(conn, place, "tls.seconds", number, known=KNOWN, actor="ada")
            assert settings.in_force(conn, org, asset_sets=[set_]) == {"tls.seconds": told}
        assert settings.in_force(conn, org)["tls.seconds"].level == "organisation"
        low = settings.in_force(conn, org, asset_sets=[set_], strictest={"tls.seconds": min})
        assert low == {"tls.seconds": InForce(1, "install", "")}
        for place, told in reversed(places):
            assert settings.in_force(conn, org, asset_sets=[set_])["tls.seconds"] == told
            assert settings.unset(conn, place, "tls.seconds")
            assert not settings.unset(conn, place, "tls.seconds")
        defaults = settings.in_force(conn, org, ["tls.seconds", "tls.names"], known=KNOWN)
        assert defaults == {
            "tls.seconds": InForce(5, "default", ""),
            "tls.names": InForce(["a"], "default", ""),
        }
        acts = [act.act for act in audit.page(conn) if act.act.startswith("setting.")]
        assert (acts.count("setting.set"), acts.count("setting.unset")) == (8, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tls.seconds", True),
        ("tls.seconds", 1.5),
        ("tls.seconds", "5"),
        ("tls.share", math.inf),
        ("tls.share", math.nan),
        ("tls.deep", 1),
        ("tls.names", "a"),
        ("tls.names", [1]),
        ("tls.mode", "a\x00"),
    ],
)
def test_a_value_of_another_kind_is_refused(database: Database, name: str, value: Any) -> None:
    with database.begin("kat_system") as conn:
        with pytest.raises(settings.OptionValueError):
            settings.set_(conn, settings.INSTALL, name, value, known=KNOWN)
        with pytest.raises(settings.UnknownOptionError):
            settings.set_(conn, settings.INSTALL, "tls.other", value, known=KNOWN)
        assert settings.in_force(conn, organisations.ensure(conn, "one").id) == {}


def test_an_organisation_sees_and_changes_only_its_own(database: Database) -> None:
    with database.begin("kat_system") as conn:
        one, two = organisations.ensure(conn, "one").id, organisations.ensure(conn, "two").id
        settings.set_(conn, settings.organisation(two), "tls.seconds", 7, known=KNOWN)
    with database.begin("kat_app", [one]) as conn:
        settings.set_(conn, settings.organisation(one), "tls.seconds", 3, known=KNOWN)
        assert settings.in_force(conn, one)["tls.seconds"].value == 3
        assert settings.in_force(conn, two) == {}
        assert not settings.unset(conn, settings.organisation(two), "tls.seconds")


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Groups with positions and members, sets, and values at random places; and a question."""
    value = st.integers(-3, 3)
    places = st.dictionaries(st.sampled_from(NUMBERS), value, max_size=2)
    return {
        "groups": draw(st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 1)), places), max_size=4)),
        "sets": draw(st.lists(st.tuples(st.integers(0, 1), places), max_size=4)),
        "install": draw(places),
        "organisations": draw(st.tuples(places, places)),
        "strictest": draw(st.dictionaries(st.sampled_from(NUMBERS), st.sampled_from([min, max]), max_size=2)),
        "names": draw(st.none() | st.lists(st.sampled_from(NUMBERS))),
        "chosen": draw(st.sets(st.integers(0, 3))),
    }


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees())
def test_in_force_equals_the_plain_rule(database: Database, tree: dict[str, Any]) -> None:
    with database.engine("kat_system").connect() as conn:
        orgs = [organisations.ensure(conn, code).id for code in ("one", "two")]
        conn.execute(text("DELETE FROM setting"))

        def give(place: settings.Place, values: dict[str, int]) -> None:
            for name, number in values.items():
                settings.set_(conn, place, name, number, known=KNOWN)

        give(settings.INSTALL, tree["install"])
        layered: list[list[tuple[str, str, dict[str, int]]]] = [[("install", "", tree["install"])] for _ in orgs]
        made = []
        for number, (position, members, values) in enumerate(tree["groups"]):
            group = groups.create(conn, f"g{number}", position)
            give(settings.group(group.id), values)
            for member in members:
                groups.add(conn, group, orgs[member])
            made.append((position, group.name, members, values))
        for _, name, members, values in sorted(made, key=lambda each: each[:2]):
            for member in members:
                layered[member].append(("group", name, values))
        for index, code in enumerate(("one", "two")):
            give(settings.organisation(orgs[index]), tree["organisations"][index])
            layered[index].append(("organisation", code, tree["organisations"][index]))
        chosen = []
        for number, (owner, values) in enumerate(tree["sets"]):
            set_ = sets.save(conn, orgs[owner], f"s{number}", {})
            give(settings.asset_set(orgs[owner], set_.id), values)
            if number in tree["chosen"]:
                chosen.append(set_.id)
                layered[owner].append(("asset_set", set_.name, values))
        for index, org in enumerate(orgs):
            expected = {}
            for name in NUMBERS if tree["names"] is None else tree["names"]:
                said = [(values[name], level, place) for level, place, values in layered[index] if name in values]
                if not said:
                    continue
                if name in tree["strictest"]:
                    best = tree["strictest"][name](value for value, _, _ in said)
                    expected[name] = next(each for each in said if each[0] == best)
                else:
                    expected[name] = said[-1]
            found = settings.in_force(conn, org, tree["names"], asset_sets=chosen, strictest=tree["strictest"])
            assert found == expected
        conn.rollback()
