"""The runner process against a door of these tests, over a Unix socket and over HTTPS with a pinned certificate.

The door here only speaks the messages; what the real one does with them is tested with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog.testing
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kattegat import settings
from kattegat.errors import UsageError
from kattegat.model.evidence import Evidence, Part
from kattegat.model.work import Claim, Heartbeat, Job, Jobs, Leases, Limits, Receipt, Result
from kattegat.plugin import Fact, Found, Hostname, Net, hours, scanner
from kattegat.registry import Plugin, Registry
from kattegat.runner.door import Door, DoorAway, DoorOtherRelease
from kattegat.runner.limits import Rules
from kattegat.runner.net import Shared
from kattegat.runner.outbox import Outbox
from kattegat.runner.process import Runner

SETTINGS = settings.load({"KAT_DATA_DIR": "/nowhere", "KAT_DNS_SERVER": "127.0.0.1:9", "KAT_CONCURRENCY": "4"})


class Size(Fact, about=Hostname):
    """A fact."""

    bytes: int


class Scanner:
    """Does what the name of the asset says."""

    async def fetch(self, asset: Hostname, net: Net) -> Evidence:
        if asset.name.startswith("stuck"):
            await asyncio.Event().wait()
        if asset.name.startswith("deaf"):
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    continue
        if asset.name.startswith("bug"):
            raise ValueError("a bug")
        return Evidence((Part("name", asset.name.encode() * 100),))

    def parse(self, asset: Hostname, evidence: Evidence) -> Iterator[Found]:
        return iter(())


def registry() -> Registry:
    module = types.ModuleType("probe")
    module.Size = Size  # type: ignore[attr-defined]
    module.Scanner = scanner("probe", about=Hostname, clearance=0, every=hours(1), yields=[Size])(Scanner)  # type: ignore[attr-defined]
    return Registry([Plugin("probe", module)])


def job(task: int, name: str = "www.test") -> Job:
    return Job(task, task + 1000, "acme", "probe", 1, "Hostname", name, 1, Limits("internet"), seconds=60)


class Counter:
    """The other side: jobs to give, and everything that was said."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = list(jobs)
        self.claims: list[Claim] = []
        self.beats: list[Heartbeat] = []
        self.results: list[Result] = []
        self.tokens: set[str] = set()
        self.lost: list[int] = []
        self.answer: Callable[[str, Any], tuple[int, Any] | None] = lambda what, message: None
        self.changed = asyncio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        """Waits until something has happened, looking each time that something was said."""
        async with asyncio.timeout(30):
            while not true():
                self.changed.clear()
                await self.changed.wait()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event["body"], event["more_body"]
        headers = dict(scope["headers"])
        self.tokens.add(headers[b"authorization"].decode())
        assert headers[b"content-type"] == b"application/msgpack"
        what = scope["path"].removeprefix("/door/v1/")
        kind = {"claim": Claim, "heartbeat": Heartbeat, "hand-in": Result}[what]
        message = msgspec.msgpack.decode(body, type=kind)
        status, answer = self.answer(what, message) or (200, self._usual(what, message))
        content = json.dumps(answer).encode() if isinstance(answer, dict) else msgspec.msgpack.encode(answer)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": content})
        self.changed.set()

    def _usual(self, what: str, message: Any) -> Any:
        if what == "claim":
            self.claims.append(message)
            given, self.jobs = self.jobs[: message.most], self.jobs[message.most :]
            return Jobs(given, wait_seconds=0.02)
        if what == "heartbeat":
            self.beats.append(message)
            return Leases([task for task, _ in message.leases if task in self.lost])
        self.results.append(message)
        return Receipt(True)


@asynccontextmanager
async def listening(counter: Counter, **where: Any) -> AsyncIterator[int]:
    """Serves the counter; gives the port."""
    config = uvicorn.Config(counter, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=1, **where)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        name = server.servers[0].sockets[0].getsockname()
        yield name[1] if isinstance(name, tuple) else 0
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("secret-token\n")
    return file


@asynccontextmanager
async def running(url: str, token: Path, outbox: Outbox, **options: Any) -> AsyncIterator[Runner]:
    """A runner at work; stopped at the end, and its own errors raised."""
    door = Door(url, token, options.pop("ca_file", None), seconds=5.0)
    shared = Shared(Rules(), (), machine=())
    runner = Runner(
        door,
        registry(),
        SETTINGS,
        shared,
        outbox,
        name="r1",
        **({"heartbeat_seconds": 0.05, "first_pause": 0.02} | options),
    )
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        runner.stop()
        await task
        await door.aclose()
        outbox.close()


def test_jobs_are_done_and_handed_in(tmp_path: Path, token: Path) -> None:
    async def main() -> None:
        counter = Counter(*(job(number, f"{'bug' if number == 3 else 'www'}{number}.test") for number in range(10)))
        path = tmp_path / "door.sock"
        async with listening(counter, uds=str(path)), running(f"unix:{path}", token, Outbox(tmp_path / "spool")):
            await counter.until(lambda: len(counter.results) == 10)
        results = {result.task_id: result for result in counter.results}
        assert set(results) == set(range(10))
        assert results[3].reason == "scanner probe broke: ValueError: a bug (this is a bug in the scanner)"
        assert [results[number].outcome for number in range(10)].count("ok") == 9
        assert Evidence.unpack(results[7].evidence).parts[0].content == b"www7.test" * 100
        assert results[7].lease_token == 1007
        claim = counter.claims[0]
        assert (claim.name, claim.vantage, claim.scanners, claim.most) == ("r1", "internet", {"probe": 1}, 4)
        assert counter.tokens == {"Bearer secret-token"}
        assert list((tmp_path / "spool").glob("*.result")) == []

    with structlog.testing.capture_logs():
        asyncio.run(main())


def test_leases_are_kept_and_lost_ones_ended(tmp_path: Path, token: Path) -> None:
    async def main() -> None:
        counter = Counter(job(1, "stuck1.test"), job(2, "stuck2.test"))
        path = tmp_path / "door.sock"
        async with (
            listening(counter, uds=str(path)),
            running(f"unix:{path}", token, Outbox(tmp_path / "spool")) as runner,
        ):
            await counter.until(
                lambda: bool(counter.beats) and sorted(counter.beats[-1].leases) == [(1, 1001), (2, 1002)]
            )
            counter.lost = [1]
            await counter.until(lambda: counter.beats[-1].leases == [(2, 1002)])
            assert list(runner._jobs) == [(2, 1002)]
        assert counter.results == []  # ended jobs are nobody's result

    with structlog.testing.capture_logs():
        asyncio.run(main())


def test_door_that_goes_away_loses_nothing(tmp_path: Path, token: Path) -> None:
    async def main() -> None:
        counter = Counter(*(job(number) for number in range(6)))
        counter.answer = lambda what, message: (500, {"error": {}}) if what == "hand-in" else None
        path = tmp_path / "door.sock"
        # Room in memory for one result only, so that the others have to go to disk.
        outbox = Outbox(tmp_path / "spool", memory=1500)
        async with listening(counter, uds=str(path)), running(f"unix:{path}", token, outbox):
            await counter.until(lambda: len(outbox) == 6)
            assert len(list((tmp_path / "spool").glob("*.result"))) == 5
        assert counter.results == []
        assert len(list((tmp_path / "spool").glob("*.result"))) == 6

        # A new runner, and a door that is back.
        counter = Counter()
        async with listening(counter, uds=str(path)), running(f"unix:{path}", token, Outbox(tmp_path / "spool")):
            await counter.until(lambda: len(counter.results) == 6)
        assert {result.task_id for result in counter.results} == set(range(6))
        assert all(result.evidence for result in counter.results)
        assert list((tmp_path / "spool").glob("*.result")) == []

    with structlog.testing.capture_logs():
        asyncio.run(main())


def test_door_that_is_not_there_yet(tmp_path: Path, token: Path) -> None:
    async def main() -> None:
        counter = Counter(job(1))
        path = tmp_path / "door.sock"
        async with running(f"unix:{path}", token, Outbox(tmp_path / "spool")):
            await asyncio.sleep(0.1)
            async with listening(counter, uds=str(path)):
                await counter.until(lambda: len(counter.results) == 1)

    with structlog.testing.capture_logs() as log:
        asyncio.run(main())
    assert any(entry["event"] == "claim_failed" and "can't be reached" in entry["problem"] for entry in log)


def test_busy_result_holds_up_no_other(tmp_path: Path, token: Path) -> None:
    async def main() -> None:
        counter = Counter(job(1), job(2), job(3))
        refusals = 0

        def answer(what: str, message: Any) -> tuple[int, Any] | None:
            nonlocal refusals
            if what == "hand-in" and message.task_id == 1 and len(counter.results) < 2:
                refusals += 1
                return 503, {"error": {"code": "busy", "message": "Later."}}
            return None

        counter.answer = answer
        path = tmp_path / "door.sock"
        async with listening(counter, uds=str(path)), running(f"unix:{path}", token, Outbox(tmp_path / "spool")):
            await counter.until(lambda: len(counter.results) == 3)
        assert refusals >= 1
        assert counter.results[-1].task_id == 1

    with structlog.testing.capture_logs():
        asyncio.run(main())


def test_refused_result_is_told_without_its_evidence(tmp_path: Path, token: Path) -> None:
    async def main() -> None:
        counter = Counter(job(1), job(2))

        def answer(what: str, message: Any) -> tuple[int, Any] | None:
            if what == "hand-in" and message.task_id == 1 and message.evidence:
                return 413, {"error": {"code": "too_large", "message": "Too large."}}
            return None

        counter.answer = answer
        path = tmp_path / "door.sock"
        async with listening(counter, uds=str(path)), running(f"unix:{path}", token, Outbox(tmp_path / "spool")):
            await counter.until(lambda: len(counter.results) == 2)
        refused = next(result for result in counter.results if result.task_id == 1)
        assert (refused.outcome, refused.evidence) == ("failed", b"")
        assert refused.reason == ("The result was refused. The door answered a hand-in with status 413: Too large.")

    with structlog.testing.capture_logs():
        asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (
            401,
            {"error": {"code": "unknown_token", "message": "No runner has this token."}},
            "No runner has this token.",
        ),
        (409, {"error": {"code": "vantage", "message": "Registered for inside."}}, "Registered for inside."),
        (500, {}, "status 500"),
        (302, {}, "status 302"),
        (200, {"nonsense": 1}, "can't be read"),
    ],
)
def test_what_the_door_says_against_a_claim(tmp_path: Path, token: Path, status: int, content: Any, said: str) -> None:
    async def main() -> None:
        counter = Counter()
        counter.answer = lambda what, message: (status, content)
        path = tmp_path / "door.sock"
        async with listening(counter, uds=str(path)):
            door = Door(f"unix:{path}", token)
            with pytest.raises(DoorAway) as caught:
                await door.claim(Claim("r", "1", "internet", {}, {}, 1))
            assert said in str(caught.value)
            await door.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("jobs", [0, 4], ids=["idle", "busy"])
def test_a_runner_of_another_release_than_the_install_ends(tmp_path: Path, token: Path, jobs: int) -> None:
    async def main() -> None:
        counter = Counter(*(job(number, f"stuck{number}.test") for number in range(jobs)))

        def answer(what: str, message: Any) -> tuple[int, Any] | None:
            if what == "claim" and (message.most == 0 or not jobs):
                return 409, {"error": {"code": "release", "message": "Install 1.0 on the runner."}}
            return None

        counter.answer = answer
        path = tmp_path / "door.sock"
        async with listening(counter, uds=str(path)):
            door, outbox = Door(f"unix:{path}", token), Outbox(tmp_path / "spool")
            runner = Runner(door, registry(), SETTINGS, Shared(Rules(), (), machine=()), outbox, name="r1")
            with pytest.raises(DoorOtherRelease, match=r"Install 1\.0 on the runner\.") as raised:
                await runner.run()
            await door.aclose()
            outbox.close()
            assert raised.value.exit_code == 4

    with structlog.testing.capture_logs():
        asyncio.run(main())


def test_token_is_read_anew(tmp_path: Path, token: Path) -> None:
    async def main() -> None:
        counter = Counter()
        path = tmp_path / "door.sock"
        async with listening(counter, uds=str(path)):
            door = Door(f"unix:{path}", token)
            await door.heartbeat(Heartbeat([]))
            token.write_text("new")
            await door.heartbeat(Heartbeat([]))
            token.unlink()
            with pytest.raises(DoorAway, match="token"):
                await door.heartbeat(Heartbeat([]))
            await door.aclose()
        assert counter.tokens == {"Bearer secret-token", "Bearer new"}

    asyncio.run(main())


def certificate(folder: Path, name: str) -> Path:
    """A certificate for 127.0.0.1 with its key, in one file, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_https_with_a_pinned_certificate(tmp_path: Path, token: Path) -> None:
    async def main() -> None:
        counter = Counter(job(1))
        ours, other = certificate(tmp_path, "ours"), certificate(tmp_path, "other")
        where = {"host": "127.0.0.1", "port": 0, "ssl_certfile": str(ours), "ssl_version": ssl.PROTOCOL_TLS_SERVER}
        async with listening(counter, **where) as port:
            url = f"https://127.0.0.1:{port}"
            async with running(url, token, Outbox(tmp_path / "spool"), ca_file=ours):
                await counter.until(lambda: len(counter.results) == 1)
            claims = len(counter.claims)
            for trusted in (other, None):
                door = Door(url, token, trusted)
                with pytest.raises(DoorAway, match="certificate"):
                    await door.claim(Claim("r", "1", "internet", {}, {}, 1))
                await door.aclose()
            assert len(counter.claims) == claims

    asyncio.run(main())


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:8480", "ftp://x", "/path"])
def test_what_is_no_door(url: str, token: Path) -> None:
    with pytest.raises(UsageError, match="is no door"):
        Door(url, token)


def test_missing_pin(token: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no certificates"):
        Door("https://127.0.0.1:1", token, tmp_path / "missing")
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(UsageError, match="no certificates"):
        Door("https://127.0.0.1:1", token, tmp_path / "empty.pem")


# --- as a process ----------------------------------------------------------------------------------------------------


STARTER = """
import importlib.util, sys
from kattegat import registry as registries
spec = importlib.util.spec_from_file_location("probe_of_the_test", sys.argv.pop(1))
module = importlib.util.module_from_spec(spec)
sys.modules["probe_of_the_test"] = module
spec.loader.exec_module(module)
registries.load = module.registry
from kattegat.runner.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("name", "stop"), [("stuck.test", signal.SIGTERM), ("stuck.test", signal.SIGINT), ("deaf.test", signal.SIGTERM)]
)
def test_signal_ends_the_process(tmp_path: Path, token: Path, stop: signal.Signals, name: str) -> None:
    async def main() -> tuple[int, str]:
        counter = Counter(job(1, name))
        path = tmp_path / "door.sock"
        async with listening(counter, uds=str(path)):
            environment = {key: value for key, value in os.environ.items() if not key.startswith("KAT_")}
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                STARTER,
                __file__,
                *("--door", f"unix:{path}", "--token-file", str(token), "--spool", str(tmp_path / "spool")),
                env=environment | {"KAT_DATA_DIR": str(tmp_path), "KAT_DNS_SERVER": "127.0.0.1:9"},
                stderr=subprocess.PIPE,
            )
            await counter.until(lambda: not counter.jobs and len(counter.claims) > 1)
            process.send_signal(stop)
            _, said = await process.communicate()
            beats = len(counter.beats)
            await asyncio.sleep(0.1)
            assert len(counter.beats) == beats
            return process.returncode or 0, said.decode()

    code, said = asyncio.run(main())
    # A scanner that will not be cancelled is left behind by force.
    assert code == (0 if name == "stuck.test" else 1), said
    assert "Traceback" not in said


def test_command_line(
    tmp_path: Path, token: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kattegat.runner import main

    monkeypatch.setattr(main.logs, "to_stderr", lambda level, role: None)
    monkeypatch.setattr(main, "raise_file_limit", lambda: None)
    monkeypatch.setenv("KAT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("KAT_DNS_SERVER", "nonsense")
    assert main.main(["--door", "unix:/nowhere", "--token-file", str(token)]) == 2
    assert "is no DNS server" in capsys.readouterr().err
    monkeypatch.setenv("KAT_DNS_SERVER", "")
    assert main.main(["--door", "http://x", "--token-file", str(token)]) == 2
    assert "is no door" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main.main(["--door", "unix:/x", "--token-file", str(token), "--spool", str(tmp_path / "file")]) == 3
    assert "--spool" in capsys.readouterr().err
