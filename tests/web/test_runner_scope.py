"""A runner's token gives what it was registered for and no more, and ends at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from litestar.testing import TestClient
from sqlalchemy import text

from kattegat.accounts import settings
from kattegat.evidence import vault as vaults
from kattegat.model.assets import Hostname, IPAddress
from kattegat.model.work import Claim, Heartbeat, Jobs, Leases, Limits, PermitCall, Permits
from kattegat.registry import Plugin, Registry
from kattegat.runner.guard import Guard, Refused
from kattegat.scheduler import beat, dispatch, listing, regime, runners
from kattegat.scheduler.plan import plan
from kattegat.scheduler.runners import Scope
from kattegat.settings import load
from kattegat.store.database import Database
from kattegat.web.app import create_app

SCANNERS = {"sample-names": 1, "sample-ports": 1}


class Site:
    """Two organisations, each with a name and two addresses that are due."""

    def __init__(self, database: Database, registry: Registry, client: object) -> None:
        self.database, self.registry, self.client = database, registry, client
        self.organisations: list[int] = []
        with database.begin("kat_system") as conn:
            for code in "ab":
                number = conn.execute(
                    text("INSERT INTO organisation (code, name) VALUES (:c, :c) RETURNING id"), {"c": code}
                ).scalar_one()
                self.organisations.append(number)
                conn.execute(
                    text("INSERT INTO consent (organisation_id, granted_by, text) VALUES (:o, 't', 't')"), {"o": number}
                )
                for asset in (Hostname("www.example.org"), IPAddress("192.0.2.7"), IPAddress("198.51.100.7")):
                    conn.execute(
                        text(
                            "INSERT INTO asset (organisation_id, type, key, present, clearance)"
                            " VALUES (:o, :t, :k, true, 4)"
                        ),
                        {"o": number, "t": asset.type, "k": asset.key},
                    )
                plan(conn, number, None, registry)
            dispatch.dispatch(conn)

    def register(self, name: str, scope: Scope) -> str:
        with self.database.begin("kat_system") as conn:
            return runners.register(conn, name, scope=scope)

    def send(self, token: str, what: str, message: object) -> object:
        return self.client.post(  # type: ignore[attr-defined]
            f"/door/v1/{what}",
            content=msgspec.msgpack.encode(message),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/msgpack"},
        )

    def claim(self, token: str, most: int = 50) -> list[tuple[str, str, str]]:
        answer = self.send(token, "claim", Claim("x", beat.release(), "internet", SCANNERS, {"sampletool": "1"}, most))
        assert answer.status_code == 200, answer.text  # type: ignore[attr-defined]
        self.jobs = msgspec.msgpack.decode(answer.content, type=Jobs).jobs  # type: ignore[attr-defined]
        return sorted((job.organisation, job.scanner, job.asset_key) for job in self.jobs)


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "samples"))
    registry = Registry([Plugin("katsample", importlib.import_module("katsample"))])
    install = load({"KAT_DATA_DIR": str(tmp_path)})
    with TestClient(create_app(database, vaults.open_vault(install), registry, install)) as client:
        yield Site(database, registry, client)


def test_organisations_scanners_and_networks(site: Site) -> None:
    everything = len([task for task in waiting(site) if task.scanner in SCANNERS and task.state == "queued"])
    one = site.claim(site.register("one", Scope(organisations=(site.organisations[0],), scanners=("sample-names",))))
    assert one == [("a", "sample-names", "www.example.org")]
    near = site.claim(site.register("near", Scope(networks=("192.0.2.0/24",))))
    assert {key for _, _, key in near} == {"internet|192.0.2.7"}
    assert {code for code, _, _ in near} == {"a", "b"}
    assert site.jobs[0].limits.only == ["192.0.2.0/24"]
    nobody = site.claim(site.register("nobody", Scope(organisations=(10**9,))))
    assert nobody == []
    rest = site.claim(site.register("rest", Scope()))
    assert len(one) + len(near) + len(rest) == everything


def waiting(site: Site) -> list[object]:
    with site.database.begin("kat_system") as conn:
        return list(listing.tasks(conn, listing.Filter(kinds=["scan"]), limit=1000))


def test_a_bound_runner_contacts_nothing_else() -> None:
    guard = Guard(Limits("internet", only=["93.184.216.0/24"]))
    assert str(guard.check("93.184.216.34")) == "93.184.216.34"
    with pytest.raises(Refused, match="no network that this runner may serve"):
        guard.check("8.8.8.8")


def test_permits_within_the_scope_only(site: Site) -> None:
    with site.database.begin("kat_system") as conn:
        regime.set_(conn, settings.INSTALL, "limit.address.connections", 2, site.registry, "piet")
    token = site.register("near", Scope(networks=("192.0.2.0/24",)))
    site.claim(token)
    job = site.jobs[0]
    assert job.limits.permits
    call = PermitCall(job.task_id, job.lease_token, "192.0.2.7", 9)
    answer = msgspec.msgpack.decode(site.send(token, "permits", call).content, type=Permits)  # type: ignore[attr-defined]
    assert len(answer.permits) == 2
    assert site.send(token, "permits", PermitCall(job.task_id, job.lease_token, "8.8.8.8", 1)).status_code == 403  # type: ignore[attr-defined]
    assert site.send(token, "permits", PermitCall(job.task_id, job.lease_token, "no address", 1)).status_code in (
        400,
        403,
    )  # type: ignore[attr-defined]
    other = site.register("other", Scope())
    stolen = site.send(other, "permits", call)
    assert msgspec.msgpack.decode(stolen.content, type=Permits).lost  # type: ignore[attr-defined]
    # Nobody gives back, or prolongs, what is another's.
    numbers = [number for number, _ in answer.permits]
    renewed = site.send(other, "permits", PermitCall(renew=numbers, release=numbers))
    assert msgspec.msgpack.decode(renewed.content, type=Permits).renewed == []  # type: ignore[attr-defined]
    again = msgspec.msgpack.decode(site.send(token, "permits", call).content, type=Permits)  # type: ignore[attr-defined]
    assert again.permits == []
    assert again.wait_seconds > 0


def test_revoking_ends_it_at_once(site: Site) -> None:
    token = site.register("one", Scope())
    assert site.claim(token, 2)
    leases = [(job.task_id, job.lease_token) for job in site.jobs]
    with site.database.begin("kat_system") as conn:
        runners.revoke(conn, "one", "piet", "it was stolen")
        assert ("scan", "leased") not in listing.counts(conn)
    assert site.send(token, "heartbeat", Heartbeat(leases)).status_code == 403  # type: ignore[attr-defined]
    fresh = site.register("two", Scope())
    answer = site.send(fresh, "heartbeat", Heartbeat(leases))
    assert sorted(msgspec.msgpack.decode(answer.content, type=Leases).lost) == sorted(task for task, _ in leases)  # type: ignore[attr-defined]


def test_a_scope_that_there_can_not_be(site: Site) -> None:
    with pytest.raises(runners.RunnerScopeError):
        site.register("x", Scope(networks=("10.0.0.1/8",)))
