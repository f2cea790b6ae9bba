"""The door over real HTTP: a Unix socket, uvicorn and a client; the vault is a real one in a folder."""

from __future__ import annotations

import importlib
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from kattegat.evidence import vault as vaults
from kattegat.model.evidence import Evidence, Part
from kattegat.model.work import MAXIMUM_RESULT, Claim, Detail, Heartbeat, Jobs, Leases, Receipt, Result
from kattegat.registry import Plugin, Registry
from kattegat.scheduler import beat, dispatch, listing, queue, runners
from kattegat.scheduler.plan import plan
from kattegat.settings import load
from kattegat.store import migrate
from kattegat.store.database import Database
from kattegat.web import process
from kattegat.web.app import create_app

MEDIA = {"Content-Type": "application/msgpack"}


class Site(NamedTuple):
    """A running door, with one scan waiting."""

    client: httpx.Client
    database: Database
    vault: vaults.Vault
    token: str
    organisation: int
    source: int

    def send(self, what: str, message: Any, token: str | None = None) -> httpx.Response:
        body = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
        headers = {**MEDIA, "Authorization": f"Bearer {token or self.token}"}
        return self.client.post(f"/door/v1/{what}", content=body, headers=headers)

    def claim(self, **more: Any) -> Jobs:
        answer = self.send("claim", a_claim(**more))
        assert answer.status_code == 200, answer.text
        return msgspec.msgpack.decode(answer.content, type=Jobs)

    def hand_in(self, result: Result, token: str | None = None) -> Receipt:
        answer = self.send("hand-in", result, token)
        assert answer.status_code == 200, answer.text
        return msgspec.msgpack.decode(answer.content, type=Receipt)


def a_claim(**more: Any) -> Claim:
    fields: dict[str, Any] = {
        "name": "here",
        "release": beat.release(),
        "vantage": "internet",
        "scanners": {"sample-names": 1, "unheard-of": 1},
        "tools": {},
        "most": 5,
    }
    return Claim(**{**fields, **more})


def a_result(task_id: int, token: int, **more: Any) -> Result:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "outcome": "ok",
        "reason": "",
        "started_at": now - timedelta(seconds=2),
        "ended_at": now,
        "evidence": Evidence((Part("address", b"192.0.2.7"),)).pack(),
        "detail": Detail(contacted=["192.0.2.53"]),
    }
    return Result(task_id, token, **{**fields, **more})


@contextmanager
def serving(app: Any, path: Path) -> Iterator[None]:
    listening = process.listen_unix(path)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "samples"))
    registry = Registry([Plugin("katsample", importlib.import_module("katsample"))])
    install = load({"KAT_DATA_DIR": str(tmp_path)})
    vault = vaults.open_vault(install)
    with database.begin("kat_system") as conn:
        organisation = conn.execute(
            text("INSERT INTO organisation (code, name) VALUES ('acme', 'Acme') RETURNING id")
        ).scalar_one()
        asset = conn.execute(
            text(
                "INSERT INTO asset (organisation_id, type, key, present) VALUES (:o, 'Hostname', 'www.example.org',"
                " true) RETURNING id"
            ),
            {"o": organisation},
        ).scalar_one()
        plan(conn, organisation, [asset], registry)
        dispatch.dispatch(conn)
        source = conn.execute(text("SELECT id FROM source WHERE scanner = 'sample-names'")).scalar_one()
        token = runners.register(conn, "here")
    socket = tmp_path / "d.sock"
    with (
        serving(create_app(database, vault, registry, install), socket),
        httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://door", timeout=60) as client,
    ):
        yield Site(client, database, vault, token, organisation, source)


def error(answer: httpx.Response) -> tuple[int, str]:
    found = answer.json()["error"]
    assert set(found) == {"code", "message"}
    assert found["message"]
    return answer.status_code, found["code"]


def test_a_scan_goes_out_and_its_result_comes_in(site: Site) -> None:
    jobs = site.claim().jobs
    assert [(job.scanner, job.asset_key, job.organisation) for job in jobs] == [
        ("sample-names", "www.example.org", "acme")
    ]
    assert site.claim().jobs == []
    job = jobs[0]
    lease = (job.task_id, job.lease_token)
    beaten = msgspec.msgpack.decode(site.send("heartbeat", Heartbeat([lease, (999, 1)])).content, type=Leases)
    assert beaten.lost == [999]
    result = a_result(*lease)
    assert site.hand_in(result) == Receipt(True)
    assert site.hand_in(result) == Receipt(True, "It was handed in before.")
    with site.database.begin("kat_system") as conn:
        assert listing.counts(conn) == {("scan", "done"): 1, ("ingest", "queued"): 1}
        (ingest,) = listing.tasks(conn, listing.Filter(kinds=["ingest"]))
        stored = vaults.get(conn, site.vault, site.organisation, ingest.payload["evidence_id"])
        assert dispatch.dispatch(conn) == []
    assert stored.content == result.evidence
    assert (stored.asset_key, stored.runner, stored.detail["contacted"]) == (
        "www.example.org",
        "here",
        ["192.0.2.53"],
    )


def test_a_failed_scan_is_kept_with_its_reason(site: Site) -> None:
    (job,) = site.claim().jobs
    result = a_result(job.task_id, job.lease_token, outcome="failed", reason="no answer\x00", evidence=b"")
    assert site.hand_in(result).taken
    with site.database.begin("kat_system") as conn:
        (ingest,) = listing.tasks(conn, listing.Filter(kinds=["ingest"]))
        assert ingest.payload["outcome"] == "failed"
        assert ingest.payload["evidence_id"] is None
        (scan,) = listing.tasks(conn, listing.Filter(kinds=["scan"]))
        assert (scan.state, scan.reason) == ("failed", "no answer\ufffd")


def test_a_lost_lease_is_refused_and_nothing_is_kept(site: Site) -> None:
    (job,) = site.claim().jobs
    with site.database.begin("kat_system") as conn:
        conn.execute(text("UPDATE task SET lease_until = now() - interval '1 second'"))
        queue.reap(conn)
    receipt = site.hand_in(a_result(job.task_id, job.lease_token))
    assert (receipt.taken, receipt.reason) == (False, "The lease is lost: the task is queued now.")
    assert not site.hand_in(a_result(10**15, 1)).taken
    assert not site.hand_in(a_result(2**63 + 5, 1)).taken
    with site.database.begin("kat_system") as conn:
        assert conn.execute(text("SELECT count(*) FROM evidence")).scalar_one() == 0
        other = runners.register(conn, "other")
        conn.execute(text("UPDATE task SET run_after = now()"))
    (again,) = site.claim().jobs
    stolen = site.hand_in(a_result(again.task_id, again.lease_token), other)
    assert not stolen.taken


def test_two_results_of_one_source_wait_for_each_other(site: Site) -> None:
    (job,) = site.claim().jobs
    with site.database.begin("kat_system") as conn:
        queue.push(conn, [queue.NewTask("ingest", site.organisation, site.source)])
    answer = site.send("hand-in", a_result(job.task_id, job.lease_token))
    assert error(answer) == (503, "busy")


def test_only_a_valid_token_opens(site: Site) -> None:
    assert error(site.client.post("/door/v1/claim", content=b"")) == (401, "no_token")
    assert error(site.send("claim", a_claim(), token="guessed")) == (401, "unknown_token")
    headers = {"Authorization": "Basic abc"}
    assert error(site.client.post("/door/v1/claim", content=b"", headers=headers)) == (401, "no_token")
    odd = {"Authorization": b"Bearer \xff\xfe\x80"}
    assert error(site.client.post("/door/v1/claim", content=b"", headers=odd)) == (401, "unknown_token")
    with site.database.begin("kat_system") as conn:
        runners.revoke(conn, "here")
    answer = site.send("claim", a_claim())
    assert error(answer) == (403, "revoked")
    assert "register the runner again" in answer.json()["error"]["message"]


def test_another_protocol_release_or_vantage_is_refused(site: Site) -> None:
    assert error(site.send("claim", a_claim(protocol=2))) == (409, "protocol")
    answer = site.send("claim", a_claim(release="0.0.9"))
    assert error(answer) == (409, "release")
    assert f"install {beat.release()}" in answer.json()["error"]["message"]
    assert error(site.send("claim", a_claim(vantage="dmz"))) == (409, "vantage")
    assert site.claim(scanners={"sample-names": 2}).jobs == []


def test_what_may_not_be_scanned_any_more_is_cancelled_at_the_door(site: Site) -> None:
    with site.database.begin("kat_system") as conn:
        conn.execute(text("UPDATE asset SET present = false"))
    assert site.claim().jobs == []
    with site.database.begin("kat_system") as conn:
        (scan,) = listing.tasks(conn, listing.Filter(kinds=["scan"]))
        assert (scan.state, scan.reason) == ("cancelled", "no longer present")
        assert conn.execute(text("SELECT hold FROM schedule WHERE id = :s"), {"s": site.source}).scalar_one() == (
            "no longer present"
        )


def test_a_result_waits_while_evidence_can_not_be_stored(site: Site, tmp_path: Path) -> None:
    (job,) = site.claim().jobs
    result = a_result(job.task_id, job.lease_token)
    folder = tmp_path / "evidence"
    folder.rename(tmp_path / "elsewhere")
    folder.write_text("in the way, as a full disk would be")
    answer = site.send("hand-in", result)
    assert error(answer) == (503, "unavailable")
    with site.database.begin("kat_system") as conn:
        assert listing.counts(conn) == {("scan", "leased"): 1}
        assert conn.execute(text("SELECT count(*) FROM evidence")).scalar_one() == 0
    folder.unlink()
    (tmp_path / "elsewhere").rename(folder)
    assert site.hand_in(result) == Receipt(True)


def test_too_large_a_body_is_refused_unread(site: Site) -> None:
    assert error(site.send("claim", b"x" * (1024 * 1024 + 1))) == (413, "too_large")
    # Nobody without a token is listened to for so long.
    assert error(site.send("claim", b"x" * (1024 * 1024 + 1), token="guessed")) == (401, "unknown_token")

    def endless() -> Iterator[bytes]:
        for _ in range(3 * MAXIMUM_RESULT // (1 << 20)):
            yield b"x" * (1 << 20)

    headers = {**MEDIA, "Authorization": f"Bearer {site.token}"}
    try:
        answer = site.client.post("/door/v1/hand-in", content=endless(), headers=headers)
    except httpx.WriteError:
        pass  # refused, and the line cut, while we were still sending
    else:
        assert error(answer) == (413, "too_large")
    assert site.claim().jobs != []


def test_wrong_times_and_paths_are_one_sentence(site: Site) -> None:
    (job,) = site.claim().jobs
    now = datetime.now(UTC)
    for more in (
        {"started_at": now.replace(tzinfo=None)},
        {"started_at": now + timedelta(seconds=9)},
        {"started_at": now - timedelta(days=900)},
        {"ended_at": now + timedelta(days=900)},
    ):
        assert error(site.send("hand-in", a_result(job.task_id, job.lease_token, **more))) == (400, "bad_request")
    assert error(site.client.get("/door/v1/claim"))[0] == 405
    assert error(site.client.get("/nothing")) == (404, "not_found")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries(
    {
        "task_id": st.integers(-(2**63), 2**64 - 1) | JSON,
        "lease_token": st.integers(-(2**63), 2**64 - 1),
        "outcome": st.sampled_from(["ok", "failed", "blocked", "odd"]),
        "reason": st.text(),
        "started_at": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat) | st.text(),
        "ended_at": st.just(datetime.now(UTC).isoformat()),
        "evidence": st.binary(),
        "detail": st.just({}) | JSON,
    }
)
CLAIMS = st.fixed_dictionaries(
    {
        "name": st.text(),
        "release": st.just(beat.release()) | st.text(),
        "vantage": st.just("internet") | st.text(),
        "scanners": st.dictionaries(st.text() | st.just("sample-names"), st.integers(-(2**63), 2**64 - 1), max_size=3),
        "tools": st.dictionaries(st.text() | st.just("sampletool"), st.text(), max_size=3),
        "most": st.integers(-(2**63), 2**64 - 1),
    }
)
BEATS = st.fixed_dictionaries(
    {"leases": st.lists(st.tuples(st.integers(-(2**63), 2**64 - 1), st.integers(-(2**63), 2**64 - 1)), max_size=5)}
)


def test_no_body_at_all_breaks_the_door(site: Site) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        what=st.sampled_from(["claim", "heartbeat", "hand-in"]),
        body=st.binary(max_size=200) | st.one_of(JSON, NEARLY, CLAIMS, BEATS).map(msgspec.msgpack.encode),
    )
    def send(what: str, body: bytes) -> None:
        answer = site.send(what, body)
        assert answer.status_code < 500, answer.text
        if answer.status_code != 200:
            error(answer)

    send()
    nested = b"\x91" * 100_000
    for what in ("claim", "heartbeat", "hand-in"):
        assert error(site.send(what, nested)) == (400, "bad_request")
        assert error(site.send(what, b"")) == (400, "bad_request")


def test_health_and_page(site: Site) -> None:
    health = site.client.get("/health")
    assert health.status_code == 200
    assert (health.json()["database"], health.json()["revision"]) == ("answers", migrate.head())
    page = site.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "www.example.org" not in page.text


def test_health_says_when_the_database_is_away(tmp_path: Path) -> None:
    nowhere = Database({"kat_system": "host=127.0.0.1 port=1 connect_timeout=2"}, login=True)  # type: ignore[dict-item]
    install = load({"KAT_DATA_DIR": str(tmp_path)})
    app = create_app(nowhere, vaults.open_vault(install), Registry([]), install)
    socket = tmp_path / "d.sock"
    with (
        serving(app, socket),
        httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://door", timeout=60) as client,
    ):
        assert client.get("/health").status_code == 503
        answer = client.post("/door/v1/claim", content=b"", headers={"Authorization": "Bearer x"})
        assert error(answer) == (503, "database_away")


def test_sockets(tmp_path: Path) -> None:
    path = tmp_path / "run" / "door.sock"
    first = process.listen_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(process.ListenError, match="Another web process"):
        process.listen_unix(path)
    first.close()
    process.listen_unix(path).close()
    with pytest.raises(process.ListenError, match="too long"):
        process.listen_unix(tmp_path / ("x" * 120))
    tcp = process.listen_tcp("127.0.0.1", 0)
    with pytest.raises(process.ListenError, match="KAT_PORT"):
        process.listen_tcp("127.0.0.1", tcp.getsockname()[1])
    tcp.close()
