"""Limits that hold across runners, seen at the sockets of the target, whatever the clocks on the walls say."""

from __future__ import annotations

import asyncio
import importlib
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from sqlalchemy import text

from kattegat.accounts import settings
from kattegat.evidence import vault as vaults
from kattegat.model.work import START_SECONDS, PermitCall, Permits
from kattegat.plugin import NotReached
from kattegat.registry import Plugin, Registry
from kattegat.runner.permits import Client
from kattegat.scheduler import dispatch, listing, regime, runners
from kattegat.scheduler.plan import plan
from kattegat.settings import load
from kattegat.store.database import Database
from kattegat.web import process
from kattegat.web.app import create_app

SAMPLES = Path(__file__).parents[1] / "samples"
RUNNER = """
import importlib, sys, time
sys.path.insert(0, sys.argv.pop(1))
shift = float(sys.argv.pop(1))
real = time.time
time.time = lambda: real() + shift
from kattegat import registry
loaded = registry.Registry([registry.Plugin("kathammer", importlib.import_module("kathammer"))])
registry.load = lambda: loaded
from kattegat.runner.main import main
sys.exit(main(sys.argv[1:]))
"""


class Target:
    """A server in one thread that writes down each connection and how many were open then."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listening.getsockname()[1]
        self.most = 0
        self.times: list[float] = []
        self._stop = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        chosen = selectors.DefaultSelector()
        chosen.register(self.listening, selectors.EVENT_READ)
        open_ = 0
        while not self._stop:
            # What has ended first: the one that takes its place came after.
            ready = sorted(chosen.select(0.1), key=lambda entry: entry[0].fileobj is self.listening)
            for key, _ in ready:
                if key.fileobj is self.listening:
                    connection, _ = self.listening.accept()
                    chosen.register(connection, selectors.EVENT_READ)
                    open_ += 1
                    self.times.append(time.monotonic())
                    self.most = max(self.most, open_)
                    continue
                connection = key.fileobj  # type: ignore[assignment]
                try:
                    data = connection.recv(100)
                except OSError:
                    data = b""
                if not data:
                    chosen.unregister(connection)
                    connection.close()
                    open_ -= 1
        for key in list(chosen.get_map().values()):
            if key.fileobj is not self.listening:
                key.fileobj.close()  # type: ignore[union-attr]
        chosen.close()

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self.listening.close()


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


@pytest.mark.parametrize(("name", "value"), [("limit.address.connections", 3), ("limit.network.rate", 12.0)])
def test_two_runners_keep_to_a_limit_together(
    database: Database, tmp_path: Path, target: Target, name: str, value: float
) -> None:
    sys.path.insert(0, str(SAMPLES))
    hammer = importlib.import_module("kathammer")
    registry = Registry([Plugin("kathammer", hammer)])
    install = load({"KAT_DATA_DIR": str(tmp_path)})
    scans = 4
    with database.begin("kat_system") as conn:
        organisation = conn.execute(
            text("INSERT INTO organisation (code, name) VALUES ('acme', 'Acme') RETURNING id")
        ).scalar_one()
        assets = list(
            conn.execute(
                text(
                    "INSERT INTO asset (organisation_id, type, key, present)"
                    " SELECT :o, 'Hostname', n || '.example.org', true FROM generate_series(1, :n) n RETURNING id"
                ),
                {"o": organisation, "n": scans},
            ).scalars()
        )
        conn.execute(
            text(
                "INSERT INTO own_network (organisation_id, zone, network, declared_by)"
                " VALUES (:o, 'internet', '127.0.0.0/8', 't')"
            ),
            {"o": organisation},
        )
        # At most two scans with each runner, so that both have some.
        regime.set_(conn, settings.INSTALL, name, value, registry, "piet")
        plan(conn, organisation, assets, registry)
        assert len(dispatch.dispatch(conn)) == scans
        tokens = [runners.register(conn, str(number)) for number in range(2)]
    app = create_app(database, vaults.open_vault(install), registry, install)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
    listening = process.listen_unix(tmp_path / "door")
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    serving.start()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KAT_")}
    started = []
    for number, token in enumerate(tokens):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "token").write_text(token)
        where = {"--door": f"unix:{tmp_path / 'door'}", "--token-file": folder / "token", "--spool": folder / "spool"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", RUNNER, str(SAMPLES), str(-600 * number)]
                + [str(part) for pair in where.items() for part in pair],
                env=environment
                | {
                    "KAT_TEST_TARGET": str(target.port),
                    "KAT_DATA_DIR": str(folder),
                    "KAT_DNS_SERVER": "127.0.0.1:9",
                    "KAT_CONCURRENCY": "2",
                },
            )
        )
    try:
        end = time.monotonic() + 120
        while True:
            with database.begin("kat_system") as conn:
                counts = listing.counts(conn)
                by = {task.leased_by for task in listing.tasks(conn, listing.Filter(kinds=["scan"]))}
            if counts.get(("scan", "done")) == scans:
                break
            assert time.monotonic() < end, counts
            assert not counts.get(("scan", "failed")), counts
            time.sleep(0.1)
    finally:
        for runner in started:
            runner.kill()
            runner.wait()
        server.should_exit = True
        serving.join(20)
        listening.close()
    assert by == {"0", "1"}
    assert len(target.times) == scans * hammer.CONNECTIONS
    if name == "limit.address.connections":
        assert target.most == value
    else:
        # In any second: what begins in it by the server's reckoning, and what may be late by as much as it may.
        for begin in target.times:
            assert sum(1 for at in target.times if begin <= at < begin + 1) <= value * (1 + START_SECONDS) + 1
    with database.begin("kat_system") as conn:
        conn.execute(text("DELETE FROM permit"))


class Away:
    """A door that gives one permit and then answers nothing any more."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked = 0

    async def permits(self, message: PermitCall) -> Permits:
        self.asked += 1
        if self.asked > 1:
            raise OSError("the link is cut")
        return Permits([(7, 0.0)], [], self.seconds)


def test_without_the_door_a_connection_ends_with_its_permit_and_no_other_begins() -> None:
    async def main() -> None:
        door = Away(1.0)
        client = Client(door, least_seconds=0.1)
        over = asyncio.Event()
        async with client.connection((1, 2), "192.0.2.1") as held:
            held.lost = over.set
            async with asyncio.timeout(30):
                await over.wait()
            assert held.expires <= asyncio.get_running_loop().time()
            with pytest.raises(NotReached, match="no permit could be had"):
                async with client.connection((1, 2), "192.0.2.1"):
                    pass
        await client.aclose()

    asyncio.run(main())


class Late:
    """A door whose first answer takes longer than a permit may be late."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self.back: list[int] = []

    async def permits(self, message: PermitCall) -> Permits:
        self.back += message.release
        if not message.most:
            return Permits([], message.renew, 30.0)
        number = len(self.given) + 1
        self.given.append(number)
        if number == 1:
            await asyncio.sleep(START_SECONDS * 1.2)
        return Permits([(number, 0.0)], [], 30.0)


def test_a_permit_that_comes_too_late_is_not_used() -> None:
    async def main() -> None:
        door = Late()
        client = Client(door)
        async with client.connection((1, 2), "192.0.2.1") as held:
            assert held.number == 2
        await client.aclose()
        assert sorted(door.back) == [1, 2]

    asyncio.run(main())
