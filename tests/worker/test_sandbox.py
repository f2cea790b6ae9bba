"""The sandbox against parsers that do what parsers must not: each costs its own run, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kattegat.model.assets import Hostname, IPAddress
from kattegat.model.evidence import Evidence, Part
from kattegat.model.facts import Link
from kattegat.registry import Registry
from kattegat.worker import sandbox as sandboxes
from kattegat.worker.confine import MACHINES, program
from kattegat.worker.sandbox import Parsed, Sandbox

WWW = Hostname("www.example.org")


def told(sandbox: Sandbox, what: str, detail: str = "") -> str:
    """The problem of a parser that was told to do this; the next parse must be as if nothing had been."""
    parsed = sandbox.parse("sample-banner", WWW, Evidence((Part(what, detail.encode()),)).pack())
    assert parsed.found == ()
    after = sandbox.parse("sample-banner", WWW, Evidence((Part("say", b"still here"),)).pack())
    assert [found.fact.text for found in after.found] == ["still here"]  # type: ignore[attr-defined]
    return parsed.problem


def test_facts_links_and_gaps_come_through(sandbox: Sandbox) -> None:
    evidence = Evidence((Part("address", b"192.0.2.7"), Part("address", b"2001:db8::7"), Part("silent", b"no answer")))
    parsed = sandbox.parse("sample-names", WWW, evidence.pack())
    assert parsed.problem == ""
    (found,) = parsed.found
    assert found.fact.addresses == ["192.0.2.7", "2001:db8::7"]  # type: ignore[attr-defined]
    assert found.links == tuple(Link("resolves_to", WWW, IPAddress(a)) for a in ("192.0.2.7", "2001:db8::7"))
    assert [(gap.kind, gap.item, gap.reason) for gap in parsed.unmeasured] == [("Addresses", "AAAA", "no answer")]


def test_a_parser_that_loops_is_ended(registry: Registry) -> None:
    with Sandbox(registry, 1, seconds=0.5, modules=["katsample"]) as short:
        assert told(short, "loop") == "the parser took longer than 0.5 seconds"


def test_a_parser_that_eats_memory_is_stopped(sandbox: Sandbox) -> None:
    assert told(sandbox, "memory") == "the parser ran out of memory"


def test_a_parser_that_exits_or_recurses(sandbox: Sandbox) -> None:
    assert told(sandbox, "exit") == "the parser ended its process with exit code 3"
    assert "RecursionError" in told(sandbox, "recurse")


def test_a_parser_writes_no_file(sandbox: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    target = tmp_path / "trace"
    problem = told(sandbox, "write", str(target))
    assert "Error" in problem
    assert not target.exists() or target.read_bytes() == b""
    if "calls" in sandbox.confined():
        assert not target.exists()


def test_a_parser_starts_no_process_and_opens_no_socket(sandbox: Sandbox) -> None:
    if "calls" not in sandbox.confined():
        pytest.skip("this kernel or machine has no filter for system calls")
    assert told(sandbox, "fork").startswith("PermissionError")
    assert told(sandbox, "spawn").startswith("PermissionError")
    assert told(sandbox, "socket").startswith("PermissionError")


def test_a_problem_of_the_parser_has_its_type_and_text(sandbox: Sandbox) -> None:
    assert told(sandbox, "raise", "odd bytes") == "ValueError: odd bytes"
    assert told(sandbox, "raise", "x" * 9000).endswith("...")
    assert "Addresses, which it does not declare" in told(sandbox, "foreign")
    assert told(sandbox, "huge") == "the parser found more than 32 MB"


def test_what_a_parser_prints_does_not_disturb(sandbox: Sandbox) -> None:
    parsed = sandbox.parse("sample-banner", WWW, Evidence((Part("print", b"x"),)).pack())
    assert (parsed.problem, len(parsed.found)) == ("", 1)


@pytest.mark.parametrize("junk", [b"", b"\x00", b"not evidence", b"\x92\x63\x90", b"\xc1" * 1000])
def test_bytes_that_are_no_evidence(sandbox: Sandbox, junk: bytes) -> None:
    assert sandbox.parse("sample-banner", WWW, junk).problem


def test_an_unknown_scanner(sandbox: Sandbox) -> None:
    assert sandbox.parse("unheard-of", WWW, b"") == Parsed(problem="scanner unheard-of is not installed")


def test_the_environment_stays_outside(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    monkeypatch.setenv("KAT_DATABASE_URL", "postgresql://me:secret@nowhere/")
    with Sandbox(registry, 1, modules=["katsample"]) as made:
        made.confined()
        environments = [
            path.read_bytes()
            for path in Path("/proc").glob("[0-9]*/environ")
            if os.access(path, os.R_OK) and b"kattegat.worker.parsing" in (path.parent / "cmdline").read_bytes()
        ]
    assert environments
    assert not any(b"secret" in environment for environment in environments)


def test_worn_processes_are_replaced_and_threads_share_them(
    monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    monkeypatch.setattr(sandboxes, "USES", 3)
    with Sandbox(registry, 2, modules=["katsample"]) as made, ThreadPoolExecutor(4) as threads:
        texts = [str(number) for number in range(12)]
        answers = threads.map(
            lambda detail: made.parse("sample-banner", WWW, Evidence((Part("say", detail.encode()),)).pack()), texts
        )
        assert [answer.found[0].fact.text for answer in answers] == texts  # type: ignore[attr-defined]


def test_a_plugin_that_can_not_be_loaded_says_how_to_see_why(registry: Registry) -> None:
    with (
        Sandbox(registry, 1, modules=["no_such_plugin"]) as made,
        pytest.raises(sandboxes.SandboxError, match=r"exit code 1.*kattegat.worker.parsing no_such_plugin"),
    ):
        made.parse("sample-banner", WWW, b"")


def test_a_parsing_process_ends_when_nobody_listens() -> None:
    samples = Path(__file__).parents[1] / "samples"
    run = subprocess.run(
        [sys.executable, "-m", "kattegat.worker.parsing", "katsample"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(samples)},
    )
    assert run.returncode == 0


def test_filters_jump_inside_themselves() -> None:
    for machine in MACHINES.values():
        made = program(machine)
        for place, (_, when_true, when_false, _) in enumerate(made):
            assert place + 1 + max(when_true, when_false) < len(made) or place == len(made) - 1
        assert len(set(machine.denied)) == len(machine.denied)
