"""Targets as people type them: what each text means, and why another can't be scanned."""

# ruff: noqa: PT017 - a refusal is one of two right answers; pytest.raises would demand it.
from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kattegat.model import assets, targets
from kattegat.model.assets import URL, Asset, Hostname, IPAddress, Network, Website
from kattegat.model.targets import TargetError

PIECES = [
    "a",
    "1",
    "10.0.0.0",
    ".",
    "-",
    "*",
    ":",
    "/",
    "//",
    "?",
    "#",
    "%",
    "@",
    "[",
    "]",
    "::1",
    "/24",
    "/8",
    "http://",
    "ü",
]
PIECES += ["https://h", "\ud800", "\x00", " ", "eth0", "\ufeff", ":80", "٣"]
nearly = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
any_text = st.text(st.characters(codec=None, categories=None), max_size=60) | nearly


@settings(deadline=None)
@given(any_text)
@example("9" * 5000)
@example("http://h/\ud800")
@example("a" * 1_000_000)
@example("http://h#f")
def test_any_text_is_a_target_or_is_refused(text: str) -> None:
    try:
        asset = targets.parse(text)
    except TargetError as problem:
        assert problem.text == text
        assert problem.reason
        assert "\n" not in str(problem)
        assert len(str(problem)) < 1000
        str(problem).encode("utf-8")
        return
    assert assets.parse(assets.type_of(asset), asset.key) == asset


GOOD: dict[str, Asset] = {
    "example.org": Hostname("example.org"),
    " Example.ORG. ": Hostname("example.org"),
    "bücher.example": Hostname("xn--bcher-kva.example"),
    "_dmarc.example.org": Hostname("_dmarc.example.org"),
    "192.0.2.1": IPAddress("192.0.2.1"),
    "2001:DB8::1": IPAddress("2001:db8::1"),
    "[::1]": IPAddress("::1"),
    "::ffff:192.0.2.1": IPAddress("192.0.2.1"),
    "192.0.2.0/24": Network("192.0.2.0/24"),
    "10.0.0.0/20": Network("10.0.0.0/20"),
    "2001:db8::/116": Network("2001:db8::/116"),
    "192.0.2.1/32": IPAddress("192.0.2.1"),
    "::1/128": IPAddress("::1"),
    "https://example.org": Website("https://example.org:443"),
    "http://example.org:8080/": Website("http://example.org:8080"),
    "http://example.org/#top": Website("http://example.org:80"),
    "http://example.org/?": Website("http://example.org:80"),
    "http://example.org/a/..": Website("http://example.org:80"),
    "https://example.org/a?b": URL("https://example.org/a?b"),
    "https://example.org?b": URL("https://example.org/?b"),
}


@pytest.mark.parametrize("text", GOOD)
def test_targets(text: str) -> None:
    assert targets.parse(text) == GOOD[text]


def test_a_target_lies_in_the_zone_asked_for() -> None:
    assert targets.parse("192.0.2.1", zone="office") == IPAddress("192.0.2.1", "office")
    assert targets.parse("192.0.2.0/24", zone="office") == Network("192.0.2.0/24", "office")


NO_FILE = "and there is no file of this name that could be read"
BAD = {
    "": "it is empty",
    " \t": "it is empty",
    "a..b": "it has an empty label (two dots in a row, or a dot in front)",
    "a" * 64 + ".org": "has 64 characters, and a label has at most 63",
    "192.0.2": "it is neither an IPv4 nor an IPv6 address",
    "192.0.2.01": "it is neither an IPv4 nor an IPv6 address",
    "300.1.1.1": "it is neither an IPv4 nor an IPv6 address",
    "fe80::1%eth0": "an address with an interface (%...) has a meaning on one machine only",
    "10.0.0.0/8": "it has 16,777,216 addresses and a scan takes networks of at most 4,096; give smaller ones",
    "0.0.0.0/0": "it has 4,294,967,296 addresses",
    "::/0": "addresses and a scan takes networks of at most 4,096; give smaller ones",
    "10.0.0.0/19": "it has 8,192 addresses",
    "192.0.2.1/24": "it has host bits set; the network is 192.0.2.0/24",
    "192.0.2.0/33": "it is no network in CIDR form, such as 192.0.2.0/24",
    "example.org:8080": "for a port give a URL, such as http://example.org:8080/",
    "example.org:443": "for a port give a URL, such as https://example.org:443/",
    "[::1]:80": "for a port give a URL, such as http://[::1]:80/",
    "example.org/a": "for a page give a URL, such as https://example.org/a, " + NO_FILE,
    "/etc/nothing.txt": "it is no network such as 192.0.2.0/24, " + NO_FILE,
    "ftp://example.org/": "it must start with http:// or https://",
    "http://user:secret@example.org/": "it contains a user name or password, which are not kept",
    "http://example.org:0/": "is no port; a port is a number from 1 to 65535",
    "http://example.org/a b": "it contains a space or a control character",
    "a\x00b": "it contains a NUL character",
}


@pytest.mark.parametrize("text", BAD)
def test_what_can_not_be_scanned_says_why(text: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.parse(text)
    assert BAD[text] in caught.value.reason
    assert str(caught.value).endswith(f"can't be scanned: {caught.value.reason}.")
    assert caught.value.exit_code == 2


def test_a_list_of_targets() -> None:
    lines = ["\ufeffexample.org\r\n", "# a comment\n", "\n", "  192.0.2.1   # the router\n", "https://h/a#part"]
    assert list(targets.read(lines)) == [Hostname("example.org"), IPAddress("192.0.2.1"), URL("https://h/a")]
    assert list(targets.read([])) == []
    assert list(targets.read(["\ufeff# only a comment", "\ufeff"])) == []
    assert list(targets.read(["192.0.2.1"], zone="office")) == [IPAddress("192.0.2.1", "office")]


def test_an_error_in_a_list_names_its_line() -> None:
    with pytest.raises(TargetError, match=r"'a\.\.b' can't be scanned: it has an empty label .* \(line 3\)\.$"):
        list(targets.read(["good.example", "# fine", "a..b", "c..d"]))
