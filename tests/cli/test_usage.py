"""Wrong command lines: exit code 2 and one sentence on stderr, before anything is made; and what every command has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kattegat.cli.main import main

COMMANDS = [
    ["scan"],
    ["up"],
    ["status"],
    ["doctor"],
    ["assets"],
    ["asset"],
    ["findings"],
    ["tasks"],
    ["evidence"],
    ["evidence", "show"],
    ["evidence", "verify"],
    ["evidence", "reparse"],
    ["plugins"],
    ["plugins", "list"],
    ["plugins", "show"],
    ["plugin"],
    ["plugin", "new"],
    ["plugin", "try"],
    ["process"],
    ["process", "web"],
    ["process", "scheduler"],
    ["process", "worker"],
    ["process", "runner"],
]


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place without an install; a wrong command line must leave it like that."""
    for name in list(os.environ):
        if name.startswith("KAT_") and not name.startswith("KAT_TEST_"):
            monkeypatch.delenv(name)
    data = tmp_path / "data"
    monkeypatch.setenv("KAT_DATA_DIR", str(data))
    monkeypatch.chdir(tmp_path)
    return data


def sentence(err: str) -> str:
    """The one line on stderr."""
    assert "Traceback" not in err
    assert err.startswith("kat: ")
    assert err.endswith(".\n")
    assert err.count("\n") == 1
    return err


WRONG: dict[tuple[str, ...], str] = {
    ("bogus",): 'Unknown command "bogus"',
    ("--bogus",): 'Unknown command "--bogus"',
    ("evidence", "bogus"): 'Unknown command "bogus"',
    ("plugins", "bogus"): 'Unknown command "bogus"',
    ("scan",): "There is nothing to scan",
    ("scan", ""): "it is empty",
    ("scan", "a..b"): "it has an empty label",
    ("scan", "a.example", "--bogus"): "Unknown option",
    ("scan", "10.0.0.0/8"): "it has 16,777,216 addresses",
    ("scan", "fe80::1%eth0"): "has a meaning on one machine only",
    ("scan", "x" * 5000): "it has 5000 characters",
    ("scan", "a\x00b"): "no UTF-8 text",
    ("scan", "a\udcff"): "no UTF-8 text",
    ("scan", "nothing/here.txt"): "no file of this name",
    ("scan", "a.example", "--clearance", "5"): "--clearance 5 is not a level",
    ("scan", "a.example", "--clearance", "-1"): "--clearance -1 is not a level",
    ("scan", "a.example", "--clearance", "much"): "Invalid value",
    ("scan", "a.example", "--clearance"): "--clearance",
    ("scan", "a.example", "--fail-on", "bad"): "--fail-on 'bad' is no severity",
    ("scan", "a.example", "--scanner", "bogus"): "There is no scanner 'bogus'",
    ("scan", "a.example", "--skip", "bogus"): "There is no scanner 'bogus'",
    ("scan", "a.example", "--allow", "everything"): "--allow 'everything' is no network",
    ("scan", "a.example", "--allow", "10.0.0.1/8"): "the network is 10.0.0.0/8",
    ("scan", "a.example", "--dns-server", "not an address"): "not an address",
    ("scan", "a.example", "--dns-server", "192.0.2.1:99999"): "192.0.2.1:99999",
    ("scan", "a.example", "--html", "no/such/folder/report.html"): "There is no folder",
    ("scan", "a.example", "--organisation", "Not A Code"): "is no code of an organisation",
    ("up", "--port", "0"): "--port 0 is no port",
    ("up", "--port", "65536"): "--port 65536 is no port",
    ("up", "--port", "http"): "Invalid value",
    ("up", "now"): "now",
    ("assets", "--at", "yesterday"): "--at 'yesterday' is no time",
    ("assets", "--limit", "0"): "--limit 0 is no number of rows",
    ("assets", "--limit", "-1"): "--limit -1 is no number of rows",
    ("asset",): "asset",
    ("asset", "a.example", "--at", "2026-13-01"): "--at '2026-13-01' is no time",
    ("findings", "--severity", "bad"): "--severity 'bad' is none",
    ("findings", "--limit", "9999999999999"): "is no number of rows",
    ("tasks", "--state", "bogus"): "--state 'bogus' is none",
    ("tasks", "--limit", "0"): "is no number of rows",
    ("evidence", "show", "--limit", "0"): "is no number of rows",
    ("plugins", "show"): "parameter NAME requires an argument",
    ("plugins", "show", "bogus"): "There is no scanner, check or plugin 'bogus'",
    ("plugin", "try", "bogus", "a.example"): "There is no scanner 'bogus'",
    ("plugin", "try", "dns-records", "192.0.2.1"): "is about a Hostname",
    ("plugin", "try", "dns-records", "a..b"): "it has an empty label",
    ("plugin", "try", "http", "https://a.example", "--allow", "everything"): "--allow 'everything' is no network",
    ("plugin", "try", "dns-records", "a.example", "--dns-server", "bogus"): "bogus",
    ("plugin", "new", "Bad_Name"): "is no name for a plugin",
    ("plugin", "new", "dns"): "There is a plugin 'dns' already",
}


@pytest.mark.parametrize("arguments", WRONG, ids=lambda arguments: " ".join(arguments)[:60].encode("ascii", "replace"))
def test_a_wrong_command_line_gives_one_sentence(
    arguments: tuple[str, ...], nothing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert WRONG[arguments] in sentence(err)
    assert out == ""
    assert not nothing.exists()


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_has_help(arguments: list[str], nothing: Path) -> None:
    try:
        code = main([*arguments, "--help"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    assert code == 0
    assert not nothing.exists()


LISTS = {
    b"good.example\na..b\n": "'a..b' can't be scanned: it has an empty label",
    b"good.example\r\n\r\n# fine\r\n10.0.0.0/8\r\n": "(line 4).",
    b"\xef\xbb\xbfgood.example\nhttp://h:0/\n": "(line 2).",
    b"caf\xe9.example\n": "is not UTF-8 text (byte 3).",
    b"a\x00b\n": "it contains a NUL character",
    b"": "There is nothing to scan",
    b"# only a comment\n\n": "There is nothing to scan",
}


@pytest.mark.parametrize("content", LISTS)
def test_a_wrong_list_of_targets_is_refused_as_a_whole(
    content: bytes, nothing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "targets.txt"
    listed.write_bytes(content)
    assert main(["scan", str(listed)]) == 2
    assert LISTS[content] in sentence(capsys.readouterr().err)
    assert not nothing.exists()


def test_a_list_that_is_a_folder_or_a_looped_link(
    nothing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in (str(tmp_path), str(tmp_path / "loop")):
        assert main(["scan", name]) == 2
        assert "there is no file of this name that could be read" in sentence(capsys.readouterr().err)


ENVIRONMENT = {
    ("KAT_PROT", "8480"): "KAT_PROT is '8480', but there is no such setting (there are: KAT_DATA_DIR, ",
    ("KAT_PORT", "http"): "KAT_PORT is 'http', but it must be a whole number; correct it or unset it.",
    ("KAT_PORT", "65536"): "KAT_PORT is '65536', but a port is at most 65535; correct it or unset it.",
    ("KAT_PORT", "-1"): "KAT_PORT is '-1', but it must not be negative; correct it or unset it.",
    ("KAT_CONCURRENCY", "many"): "KAT_CONCURRENCY is 'many', but it must be a whole number",
    ("KAT_CONCURRENCY", "0"): "KAT_CONCURRENCY is '0', but it must be at least 1",
    ("KAT_SCAN_SECONDS", "0"): "KAT_SCAN_SECONDS is '0', but it must be at least 1",
    ("KAT_DATABASE_URL", "mysql://x"): "KAT_DATABASE_URL is 'mysql://x', but it must start with postgresql://",
    ("KAT_LOG", "loud"): "KAT_LOG is 'loud', but it must be debug, info, warning or error",
}


@pytest.mark.parametrize("setting", ENVIRONMENT, ids="=".join)
def test_a_wrong_setting_gives_one_sentence(
    setting: tuple[str, str], nothing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(*setting)
    for command in (["status"], ["scan", "a.example"], ["doctor"]):
        assert main(command) == 2
        assert ENVIRONMENT[setting] in sentence(capsys.readouterr().err)
    assert not nothing.exists()


READERS = [
    ["status"],
    ["assets"],
    ["asset", "a.example"],
    ["findings"],
    ["tasks"],
    ["evidence", "show"],
    ["evidence", "verify"],
    ["evidence", "reparse"],
]


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_before_there_is_an_install(arguments: list[str], nothing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ([], ["--json"]):
        assert main([*arguments, *form]) == 3
        out, err = capsys.readouterr()
        assert sentence(err) == f"kat: There is no install in {nothing} yet: kat scan or kat up makes one.\n"
        assert out == ""
    assert not nothing.exists()


def test_doctor_before_there_is_an_install(nothing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 3
    out, err = capsys.readouterr()
    parts = {part["name"]: part for part in json.loads(out)["parts"]}
    assert parts["database"] == {
        "name": "database",
        "fine": False,
        "said": "there is none yet: kat up or kat scan makes it",
    }
    assert parts["settings"]["fine"]
    assert parts["plugins"]["fine"]
    assert err == ""
    assert not nothing.exists()


def test_documents_without_an_install(nothing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"dns-records", "http"} <= {entry["name"] for entry in document["scanners"]}
    assert len(document["checks"]) >= 45
    assert main(["plugins", "show", "dns", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "dns"
    assert main(["plugins", "show", "dns"]) == 0
    assert main(["plugins", "list"]) == 0


def kat(*arguments: str, data: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command as a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
    return subprocess.run(
        [sys.executable, "-m", "kattegat", *arguments],
        input=stdin,
        env={**clean, "KAT_DATA_DIR": str(data)},
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_as_a_process_of_its_own(nothing: Path) -> None:
    done = kat("--version", data=nothing)
    assert (done.returncode, done.stderr) == (0, b"")
    done = kat("scan", "a..b", data=nothing)
    assert done.returncode == 2
    assert b"empty label" in done.stderr
    sentence(done.stderr.decode())


def test_standard_input_as_a_list(nothing: Path) -> None:
    for content, said in (
        (b"good.example\na..b\n", "(line 2)."),
        (b"\xff\n", "is not UTF-8 text"),
        (b"", "nothing to scan"),
    ):
        done = kat("scan", "-", data=nothing, stdin=content)
        assert done.returncode == 2
        assert said in sentence(done.stderr.decode())
    assert not nothing.exists()


def test_the_runner_says_what_it_lacks(nothing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["process", "runner"])
    assert end.value.code == 2
    assert "--door, --token-file" in capsys.readouterr().err
