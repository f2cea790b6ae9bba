"""`kat scan` of a real server on loopback, and the commands that look at what it has left."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from katcli import Install, Site

from kattegat.model.evidence import Evidence

KEYS = {
    "form", "organisation", "targets", "started_at", "ended_at", "complete", "incomplete_because", "findings",
    "coverage", "assets", "links", "changes", "troubles",
}  # fmt: skip
HARDENED = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class First(NamedTuple):
    """A scan from nothing, and what it left."""

    install: Install
    site: Site
    document: Any
    page: str
    left: list[str]


@pytest.fixture(scope="module")
def first(make_install: Callable[[str], Install], tmp_path_factory: pytest.TempPathFactory) -> Iterator[First]:
    install, site = make_install("scan"), Site()
    page = tmp_path_factory.mktemp("page") / "report.html"
    document = install.scan(site, "--html", str(page))
    yield First(install, site, document, page.read_text(encoding="utf-8"), install.processes())
    site.stop()


@pytest.fixture(scope="module")
def up(first: First) -> Iterator[Install]:
    """The same install with `kat up` running: scans use its processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Without one kat doctor complains.
    first.install.run("keys", "recovery", "set", code=0)
    running = first.install.start("up", "--port", str(port))
    assert running.stderr is not None
    said = ""
    while f"Kattegat is up at http://127.0.0.1:{port}/" not in said.replace("\n", " "):
        line = running.stderr.readline()
        assert line, f"kat up ended: {said}"
        said += line
    yield first.install
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert first.install.processes() == []


def by_check(rows: Any) -> set[tuple[str, str]]:
    return {(row["asset"]["key"], row["check"]) for row in rows}


def test_a_scan_from_nothing_ends_with_findings(first: First) -> None:
    document, site = first.document, first.site
    assert set(document) == KEYS
    assert document["complete"]
    assert document["targets"] == [site.key]
    finding = next(row for row in document["findings"] if "script" in "".join(row["items"]))
    assert finding["asset"] == {"type": "Website", "key": site.key}
    assert finding["severity"] == "low"
    assert finding["title"]
    assert finding["fix"]
    assert finding["known_by"][0]["scanner"] == "http"
    assert set(document["coverage"]) == {"pass", "fail", "unknown"}
    for outcome, rows in document["coverage"].items():
        for row in rows:
            assert set(row) == {"check", "asset", "reason"}
            assert bool(row["reason"]) == (outcome == "unknown")
    assert by_check(document["coverage"]["fail"]) == by_check(document["findings"])
    assert {("IPAddress", "internet|127.0.0.1"), ("Website", site.key)} <= {
        (row["type"], row["key"]) for row in document["assets"]
    }
    assert set(document["changes"]) == {"previous", "new", "still_open", "resolved", "not_measured"}
    assert document["changes"]["previous"] is None
    assert first.left == []


def test_the_page_is_self_contained_and_escapes_hostile_text(first: First) -> None:
    page = first.page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page.lower()
    assert "\x1b" not in page
    assert re.search(r"""(?:src|href|action|data)\s*=\s*["']?(?!#)""", page, re.IGNORECASE) is None
    assert re.search(r"url\(|@import|<(?:link|iframe|object|embed|img|form)\b", page, re.IGNORECASE) is None
    assert "default-src 'none'" in page
    for finding in first.document["findings"]:
        assert finding["title"].replace("'", "&#39;") in page


def test_a_terminal_gets_no_control_characters(up: Install, site: Site) -> None:
    done = up.run("scan", site.url, "--allow", "127.0.0.0/8", "--organisation", "terminal", code=1)
    assert "\x1b" not in done.stdout + done.stderr
    assert "<script>alert(1)</script>" in done.stdout
    assert "Coverage" in done.stdout
    assert "This is the first scan of these targets" in done.stdout.replace("\n", " ")


def test_what_changed_between_scans(up: Install, site: Site) -> None:
    here = ("--organisation", "changes", "--scanner", "http")
    one = up.scan(site, *here, "--fail-on", "medium")
    assert len(one["changes"]["new"]) == sum(len(row["items"]) for row in one["findings"])
    between = datetime.now(UTC).isoformat()

    site.headers = {"Server": "calm", "Set-Cookie": "visitor=1", **HARDENED}
    two = up.scan(site, *here, "--fail-on", "critical", code=0)
    before, after = by_check(one["findings"]), by_check(two["findings"])
    assert after - before
    assert before - after
    assert by_check(two["changes"]["new"]) == after - before
    assert by_check(two["changes"]["resolved"]) == before - after
    assert by_check(two["changes"]["still_open"]) == after & before
    assert two["changes"]["not_measured"] == []

    site.stop()
    three = up.run("scan", site.url, "--allow", "127.0.0.0/8", *here, "--json", code=3)
    document = json.loads(three.stdout)
    assert not document["complete"]
    assert "refused the connection" in document["incomplete_because"]
    assert "not complete" in three.stderr
    changes = document["changes"]
    assert (changes["new"], changes["resolved"], changes["still_open"]) == ([], [], [])
    assert by_check(changes["not_measured"]) == after
    assert all("refused the connection" in row["reason"] for row in changes["not_measured"])
    assert by_check(document["findings"]) == after
    assert document["coverage"]["fail"] == []
    assert [row["scanner"] for row in document["troubles"]] == ["http"]

    site.start()
    four = up.scan(site, *here)
    assert by_check(four["changes"]["still_open"]) == after
    assert (four["changes"]["new"], four["changes"]["resolved"]) == ([], [])

    then = up.json("asset", site.key, "--organisation", "changes", "--at", between)
    now = up.json("asset", site.key, "--organisation", "changes")
    assert "script" in json.dumps(then["facts"])
    assert "script" not in json.dumps(now["facts"])
    assert "visitor" in json.dumps(now["facts"])
    resolved = up.json("findings", "--organisation", "changes", "--resolved")
    assert by_check(row for row in resolved["findings"] if row["state"] == "resolved") == before - after


def test_only_the_scanners_asked_for_run(up: Install, site: Site) -> None:
    def ran(organisation: str, *choice: str) -> set[str]:
        # What a scan left out is watched by `kat up` once the scan has ended, so only its own tasks count.
        ended = up.scan(site, "--organisation", organisation, *choice, code=None)["ended_at"]
        rows = up.json("tasks", "--organisation", organisation, "--limit", "1000")["tasks"]
        return {row["scanner"] for row in rows if row["created_at"] < ended}

    only, without = ran("only", "--scanner", "http"), ran("without", "--skip", "http")
    assert only == {"http"}
    assert without
    assert "http" not in without


@pytest.mark.parametrize(
    "command",
    [
        "status", "doctor", "assets", "findings", "tasks", "evidence show", "evidence verify",
        "evidence verify --quick", "plugins list", "plugins show http", "asset 127.0.0.1", "evidence show 127.0.0.1",
    ],
)  # fmt: skip
def test_every_command_gives_a_document_and_words(up: Install, command: str) -> None:
    assert isinstance(up.json(*command.split()), dict)
    done = up.run(*command.split(), code=0)
    assert done.stdout.strip()
    assert "\x1b" not in done.stdout


def test_status_and_doctor_see_what_runs(up: Install) -> None:
    status = up.json("status")
    assert {row["role"] for row in status["processes"] if row["alive"]} >= {"web", "scheduler", "worker"}
    assert [row["alive"] for row in status["runners"] if row["name"] == "local"] == [True]
    assert status["counts"]["findings"] > 0
    assert [part for part in up.json("doctor")["parts"] if not part["fine"]] == []


def test_a_second_up_is_refused(up: Install) -> None:
    done = up.run("up", "--port", "1", code=2)
    assert "This install runs already (" in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert up.json("status")["processes"]


def test_evidence_is_shown_saved_and_read_again(up: Install, first: First, tmp_path: Path) -> None:
    listed = up.json("evidence", "show", first.site.key)["evidence"]
    assert {row["scanner"] for row in listed} >= {"http"}
    number = next(row["id"] for row in listed if row["scanner"] == "http")
    saved = tmp_path / "one.evidence"
    shown = up.json("evidence", "show", str(number), "--save", str(saved))
    assert shown["asset"]["key"] == first.site.key
    assert shown["parts"]
    parts = Evidence.unpack(saved.read_bytes()).parts
    assert [(part.name, len(part.content)) for part in parts] == [
        (part["name"], part["size"]) for part in shown["parts"]
    ]
    before = by_check(up.json("findings")["findings"])
    again = up.json("evidence", "reparse", "--scanner", "http")
    assert again == {"sources": 1, "queued": 1}
    while {row["state"] for row in up.json("tasks")["tasks"]} & {"queued", "leased"}:
        time.sleep(0.2)
    assert by_check(up.json("findings")["findings"]) == before
    assert up.json("evidence", "verify")["problems"] == []


NOWHERE = [
    (["asset", "nobody.example"], "There is no asset 'nobody.example'"),
    (["evidence", "show", "999999999"], "999999999"),
    (["evidence", "show", "9" * 30], "There is no asset"),
    (["assets", "--organisation", "nobody"], "There is no organisation 'nobody'; there are: "),
    (["evidence", "reparse", "--scanner", "bogus"], "There is no scanner 'bogus'"),
]


@pytest.mark.parametrize(("arguments", "said"), NOWHERE, ids=lambda value: " ".join(value)[:40])
def test_what_is_not_there_is_said_in_a_sentence(up: Install, arguments: list[str], said: str) -> None:
    done = up.run(*arguments)
    assert done.returncode in (2, 3)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_scans_at_once_in_one_data_directory(make_install: Callable[[str], Install], site: Site) -> None:
    install = make_install("two")
    running = [
        install.start("scan", site.url, "--allow", "127.0.0.0/8", "--json", "--organisation", name)
        for name in ("one", "other")
    ]
    done = [process.communicate(timeout=300) for process in running]
    for process, (out, err) in zip(running, done, strict=True):
        assert process.returncode == 1, err
        assert "Traceback" not in err
        assert json.loads(out)["complete"]
    one, other = (json.loads(out) for out, _ in done)
    assert by_check(one["findings"]) == by_check(other["findings"]) != set()
    assert install.processes() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_a_stopped_scan_leaves_nothing_and_goes_on(
    make_install: Callable[[str], Install], site: Site, number: signal.Signals
) -> None:
    install = make_install(number.name.lower())
    site.hold()
    running = install.start("scan", site.url, "--allow", "127.0.0.0/8")
    assert site.asked.wait(120)
    running.send_signal(number)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 3, err
    assert "Traceback" not in err
    assert "it was stopped; the same command again goes on where it ended" in " ".join((out + err).split())
    assert install.processes() == []
    site.release()
    assert install.scan(site)["complete"]
    assert install.processes() == []
