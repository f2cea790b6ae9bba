"""Scans whose command died steer nothing and keep nothing from being watched."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, text

from kattegat.accounts import consent
from kattegat.model.assets import Hostname
from kattegat.registry import Registry
from kattegat.scheduler import plan, scans
from kattegat.scheduler.scans import Choice

ONLY = Choice(("sample-names",), ())


def forget(conn: Connection) -> None:
    conn.execute(text("UPDATE scan SET started_at = now() - interval '1 hour' WHERE NOT options ? 'seen_at'"))


def test_a_scan_that_was_killed_steers_nothing(conn: Connection, organisation: int) -> None:
    scans.open_(conn, organisation, ["x.test"], ONLY, "test")
    assert scans.choice(conn, organisation) == ONLY
    forget(conn)
    assert scans.choice(conn, organisation) == Choice(None, ())
    assert scans.forsaken(conn) == {organisation}
    assert scans.forsaken(conn) == set()
    assert conn.execute(text("SELECT outcome, reason FROM scan")).one() == ("stopped", "its command died")


def test_a_scan_that_lives_is_left_alone_however_long_it_takes(conn: Connection, organisation: int) -> None:
    opened = scans.open_(conn, organisation, ["x.test"], ONLY, "test")
    scans.seen(conn, organisation, opened.id)
    conn.execute(text("UPDATE scan SET started_at = now() - interval '9 days'"))
    assert scans.forsaken(conn) == set()
    assert scans.choice(conn, organisation) == ONLY
    scans.close(conn, organisation, opened.id, "complete", "")
    assert scans.choice(conn, organisation) == Choice(None, ())


def test_what_a_choice_left_out_is_found_again(
    conn: Connection, organisation: int, add_asset: Callable[..., int], registry: Registry
) -> None:
    consent.grant(conn, organisation, "test", "go")
    add_asset(Hostname("x.test"), 2)
    plan.plan(conn, organisation, None, registry)
    assert plan.left_out(conn) == []
    plan.plan(conn, organisation, None, registry, only=["sample-names"])
    assert plan.left_out(conn) == [organisation]
    plan.plan(conn, organisation, None, registry)
    assert plan.left_out(conn) == []
