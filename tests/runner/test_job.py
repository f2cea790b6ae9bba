"""One job: whatever a scanner or its target does becomes a result with one sentence."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from kattegat import settings
from kattegat.model.evidence import Evidence, Part
from kattegat.model.work import Job, KnownFact, Limits, Result
from kattegat.plugin import Fact, Found, Hostname, Need, Net, NotReached, Option, hours, scanner
from kattegat.registry import Plugin, Registry
from kattegat.runner.job import run_job

SETTINGS = settings.load({"KAT_DATA_DIR": "/nowhere", "KAT_DNS_SERVER": "127.0.0.1:9"})


class Colour(Fact, about=Hostname):
    """A fact to ask for."""

    name: str
    seen: datetime


class Probe:
    """What every scanner of these tests has."""

    def parse(self, asset: Hostname, evidence: Evidence) -> Iterator[Found]:
        return iter(())


def registry_with(fetch: Any, version: int = 1) -> Registry:
    cls = type("Scanner", (Probe,), {"fetch": fetch})
    module = types.ModuleType("probe")
    module.Colour = Colour  # type: ignore[attr-defined]
    module.Scanner = scanner(  # type: ignore[attr-defined]
        "probe",
        about=Hostname,
        clearance=0,
        every=hours(1),
        yields=[Colour],
        uses=[Need(Colour)],
        options=[Option("depth", 3, "How deep."), Option("width", 5, "How wide.")],
        version=version,
    )(cls)
    return Registry([Plugin("probe", module)])


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "task_id": 7,
        "lease_token": 9,
        "organisation": "acme",
        "scanner": "probe",
        "scanner_version": 1,
        "asset_type": "Hostname",
        "asset_key": "www.test",
        "clearance": 1,
        "limits": Limits("internet", own_networks=["127.0.0.0/8"]),
    }
    return Job(**(values | changes))


def perform(fetch: Any, **changes: Any) -> Result:
    return asyncio.run(run_job(job(**changes), registry_with(fetch), SETTINGS))


def test_evidence_and_detail_come_back() -> None:
    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        assert net.vantage == "internet"
        assert {name: net.options[name] for name in ("depth", "width")} == {"depth": 8, "width": 5}
        return Evidence((Part("x", b"\x00\xff", {"asset": asset.key}),))

    result = perform(fetch, options={"depth": 8})
    assert (result.task_id, result.lease_token, result.outcome, result.reason) == (7, 9, "ok", "")
    assert Evidence.unpack(result.evidence).parts[0] == Part("x", b"\x00\xff", {"asset": "www.test"})
    assert result.detail.runner_release
    assert result.started_at <= result.ended_at


def test_contacts_are_told_also_when_it_fails(lab: Any) -> None:
    async def main() -> Result:
        async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with lab.serving(quiet) as port:

            async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
                await net.connect("127.0.0.1", port)
                await net.connect("10.0.0.1", port)
                raise AssertionError

            return await run_job(job(), registry_with(fetch), SETTINGS)

    result = asyncio.run(main())
    assert result.outcome == "blocked"
    assert result.reason.startswith("10.0.0.1 is a private address")
    assert result.detail.contacted == ["127.0.0.1"]
    assert result.detail.sources == ["127.0.0.1"]
    assert [reason + "." for reason in result.detail.refused] == [result.reason]


def test_not_reached_is_its_sentence() -> None:
    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        raise NotReached("It was not there.")

    result = perform(fetch)
    assert (result.outcome, result.reason, result.evidence) == ("failed", "It was not there.", b"")


def test_not_reached_out_of_a_task_group() -> None:
    async def refuse(net: Net) -> None:
        await net.connect("10.0.0.1", 80)

    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse(net))
        return Evidence()

    assert perform(fetch).outcome == "blocked"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd\0 \x1b[31m value\n" + "x" * 999),
        SystemExit(1),
        RecursionError(),
        ExceptionGroup("two", [ValueError("a"), NotReached("b")]),
    ],
)
def test_bug_of_a_scanner(error: BaseException) -> None:
    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        raise error

    with structlog.testing.capture_logs() as log:
        result = perform(fetch)
    assert result.outcome == "failed"
    assert result.reason.startswith(f"scanner probe broke: {type(error).__name__}: ")
    assert result.reason.endswith("(this is a bug in the scanner)")
    assert result.reason.isprintable()
    assert len(result.reason) < 450
    assert log[0]["event"] == "scanner_broke"
    assert log[0]["exc_info"] is error


@pytest.mark.parametrize("wrong", [None, b"bytes", []])
def test_what_is_no_evidence(wrong: object) -> None:
    async def fetch(self: Any, asset: Hostname, net: Net) -> object:
        return wrong

    def synchronous(self: Any, asset: Hostname, net: Net) -> object:
        return wrong

    for function in (fetch, synchronous):
        with structlog.testing.capture_logs():
            assert "in place of Evidence" in perform(function).reason


def test_own_time_out_of_a_scanner_is_not_ours() -> None:
    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        raise TimeoutError("inner")

    with structlog.testing.capture_logs():
        assert "broke: TimeoutError: inner" in perform(fetch).reason


@pytest.mark.parametrize("stubborn", [False, True])
def test_time_limit(stubborn: bool) -> None:
    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if stubborn:
                raise RuntimeError("while cleaning up") from None
            raise
        return Evidence()

    result = perform(fetch, seconds=1)
    assert (result.outcome, result.reason) == ("failed", "The scan took longer than 1 seconds.")


def test_evidence_that_is_too_large() -> None:
    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        return Evidence((Part("x", bytes(65 * 1024 * 1024)),))

    result = perform(fetch)
    assert result.outcome == "failed"
    assert "more than is kept of one scan" in result.reason
    assert result.evidence == b""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scanner": "unknown"}, "no scanner 'unknown'"),
        ({"scanner_version": 2}, "has version 1 of scanner probe, and the task needs version 2"),
        ({"asset_key": "not a name"}, "is not a Hostname key"),
        ({"asset_key": "nul\0.test"}, "NUL"),
        ({"limits": Limits("internet", own_networks=["10.0.0.1/8"])}, "10.0.0.1/8"),
    ],
)
def test_job_that_can_not_be_begun(changes: dict[str, Any], said: str) -> None:
    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        return Evidence()

    result = perform(fetch, **changes)
    assert result.outcome == "failed"
    assert said in result.reason


def test_known_facts(tmp_path: Path) -> None:
    now = datetime.now(UTC)

    def fact(**changes: Any) -> KnownFact:
        values: dict[str, Any] = {
            "kind": "Colour",
            "asset_type": "Hostname",
            "asset_key": "www.test",
            "item": "",
            "form": 1,
            "value": {"name": "red", "seen": "2025-01-01T00:00:00Z"},
            "scanner": "eyes",
            "vantage": "internet",
            "confirmed_at": now,
        }
        return KnownFact(**(values | changes))

    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        (known,) = net.known["Colour"]
        assert known.fact == Colour(name="red", seen=datetime(2025, 1, 1, tzinfo=UTC))
        assert (known.asset, known.scanner, known.confirmed_at) == (asset, "eyes", now)
        assert set(net.known) == {"Colour"}
        return Evidence()

    unreadable = [fact(form=2), fact(kind="Smell"), fact(value={"name": 1}), fact(asset_key="no name")]
    with structlog.testing.capture_logs():
        result = perform(fetch, known=[*unreadable, fact()])
    assert (result.outcome, result.reason) == ("ok", "")


def test_nothing_is_contacted_after_the_end(lab: Any) -> None:
    reached: list[int] = []

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(1)

    async def main() -> None:
        leftovers: list[asyncio.Task[Any]] = []
        go = asyncio.Event()
        async with lab.serving(web) as port, lab.resolving(lambda query: lab.answering(query)) as (one, dns):

            async def later(action: Any) -> Any:
                await go.wait()
                return await action()

            async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
                actions = (
                    lambda: net.connect("127.0.0.1", port),
                    lambda: net.get(f"http://127.0.0.1:{port}/"),
                    lambda: net.dns("www.test", "A", server=str(one)),
                )
                leftovers.extend(asyncio.create_task(later(action)) for action in actions)
                return Evidence()

            assert (await run_job(job(), registry_with(fetch), SETTINGS)).outcome == "ok"
            go.set()
            ended: list[Any] = await asyncio.gather(*leftovers, return_exceptions=True)
            assert [type(outcome).__name__ for outcome in ended] == ["Unreached", "Unreached", "DnsReply"]
            assert all("the scan is over" in text for text in (str(ended[0]), str(ended[1]), ended[2].problem))
            assert dns.asked == []

    asyncio.run(main())
    assert reached == []


def test_cancelled_job_is_no_result() -> None:
    closed: list[bool] = []

    async def fetch(self: Any, asset: Hostname, net: Net) -> Evidence:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append(True)
        return Evidence()

    async def main() -> None:
        task = asyncio.create_task(run_job(job(), registry_with(fetch), SETTINGS))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert closed == [True]
