"""Grammars of keys: one normal form, an exact reason for each refusal, and nothing else raised on any text."""

# ruff: noqa: PT017 - a refusal is one of two right answers; pytest.raises would demand it.
from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kattegat.errors import KeyFormatError
from kattegat.model import keys

GRAMMARS: dict[str, Callable[[str], str]] = {
    "zone": keys.zone,
    "hostname": keys.hostname,
    "address": keys.address,
    "network": keys.network,
    "host": keys.host,
    "origin": keys.origin,
    "url": keys.url,
    "sha256": keys.sha256,
    "port": lambda text: str(keys.port(text)),
}
each_grammar = pytest.mark.parametrize("name", GRAMMARS)

# Any text at all, with lone surrogates and NUL, and text made of the pieces that grammars care about.
PIECES = [
    "a",
    "A",
    "1",
    "0",
    "255",
    ".",
    "..",
    "-",
    "_",
    "*",
    ":",
    "::",
    "/",
    "//",
    "?",
    "#",
    "%",
    "%2e",
    "%2F",
    "%zz",
    "@",
]
PIECES += [
    "[",
    "]",
    "|",
    "http://",
    "https:",
    ":80",
    ":443",
    "xn--",
    "ü",
    "ß",
    "。",
    "．",
    "\u200d",
    "\xad",
    "\x00",
    " ",
    "\n",
]
PIECES += ["\ud800", "é", "٣", "²", "fe80", "ffff", "eth0", "\\", "~", "\u2028", "\ufeff"]
any_text = st.text(st.characters(codec=None, categories=None), max_size=60)
nearly = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
like_a_url = st.builds(
    "{}{}{}".format, st.sampled_from(["http://", "https://h", "HTTP://[", "http://a.b:"]), nearly, any_text
)


def normal(name: str, text: str) -> str | None:
    """The normal form, or None for a refusal, which has its sentence."""
    try:
        return GRAMMARS[name](text)
    except KeyFormatError as problem:
        assert problem.reason
        assert "\n" not in str(problem)
        assert len(str(problem)) < 1000
        str(problem).encode("utf-8")
        return None


@each_grammar
@settings(deadline=None)
@given(text=any_text | nearly | like_a_url)
@example(text="http://h/\ud800")
@example(text="http://h?\ud800")
@example(text="http://h:0/")
@example(text="é" * 100_000)
@example(text="http://" + "é" * 100_000)
@example(text="9" * 5000)
@example(text="http://h:" + "9" * 5000)
@example(text="http://h/" + "../" * 5000)
def test_a_normal_form_stays_and_all_else_is_refused(name: str, text: str) -> None:
    made = normal(name, text)
    if made is not None:
        assert normal(name, made) == made
        made.encode("utf-8")
        assert "\x00" not in made


labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)


@settings(deadline=None)
@given(st.lists(labels, min_size=1, max_size=6), st.sampled_from(["", ".", " "]))
def test_valid_host_names_keep_their_labels(parts: list[str], end: str) -> None:
    name = ".".join([*parts, "test"])
    assert keys.hostname(name.upper() + end) == name


@settings(deadline=None)
@given(st.ip_addresses())
def test_an_address_has_the_form_of_rfc_5952(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert keys.address(address.exploded.upper()) == str(mapped or address)


@settings(deadline=None)
@given(st.ip_addresses(v=6), st.integers(0, 128))
def test_a_network_without_host_bits_is_kept(address: ipaddress.IPv6Address, length: int) -> None:
    network = ipaddress.ip_network((address, length), strict=False)
    assert keys.network(network.exploded) == str(network)


HOSTNAMES = {
    "example.org": "example.org",
    " Example.ORG. ": "example.org",
    "localhost": "localhost",
    "bücher.example": "xn--bcher-kva.example",
    "XN--BCHER-KVA.example": "xn--bcher-kva.example",
    "faß.example": "xn--fa-hia.example",
    "ｅｘａｍｐｌｅ．ｏｒｇ": "example.org",
    "example。org": "example.org",
    "a\u00adb.example": "ab.example",
    "_dmarc.example.org": "_dmarc.example.org",
    "_25._tcp.example.org": "_25._tcp.example.org",
    "host_name.example": "host_name.example",
    "*.example.org": "*.example.org",
    "1.example": "1.example",
    "a" * 63 + ".example": "a" * 63 + ".example",
}


@pytest.mark.parametrize("text", HOSTNAMES)
def test_host_names(text: str) -> None:
    assert keys.hostname(text) == HOSTNAMES[text]


LONG = ".".join(["a" * 62] * 4 + ["bc"])  # 254 characters
EMPTY_LABEL = "it has an empty label (two dots in a row, or a dot in front)"
NO_CHARACTER = "has a character that host names don't have, or a hyphen at its edge"
NO_IDN = "is no valid internationalised label"
NO_HOSTNAMES = {
    "": "it is empty",
    "   ": "it is empty",
    ".": "it is empty",
    "a..b": EMPTY_LABEL,
    ".a": EMPTY_LABEL,
    "a.b..": EMPTY_LABEL,
    "a" * 64 + ".example": "has 64 characters, and a label has at most 63",
    LONG: "it has 254 characters, and a name has at most 253",
    "x" * 3000: "it has 3000 characters, and a name has at most 253",
    "☃.example": NO_IDN,
    "\U0001f600.example": NO_IDN,
    "аb\u05d0.example": NO_IDN,  # left-to-right and right-to-left letters in one label
    "\u200d.example": NO_IDN,
    "\u00ad.example": NO_IDN,
    "\ud800.example": NO_IDN,
    "a.*.example": "'*' is allowed as the first label only",
    "*a.example": NO_CHARACTER,
    "-a.example": NO_CHARACTER,
    "a-.example": NO_CHARACTER,
    "a b.example": NO_CHARACTER,
    "a/b": NO_CHARACTER,
    "example.org:80": NO_CHARACTER,
    "a\x00.example": "it contains a NUL character",
    "example.123": "its last label is a number, so it would be read as an IPv4 address",
    "1.2.3": "its last label is a number, so it would be read as an IPv4 address",
    "192.0.2.1": "it is an address, not a name",
    "[2001:db8::1]": "it is an address, not a name",
}


@pytest.mark.parametrize("text", NO_HOSTNAMES)
def test_what_is_no_host_name_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        keys.hostname(text)
    assert NO_HOSTNAMES[text] in caught.value.reason
    assert caught.value.type == "Hostname"
    assert caught.value.text == text
    assert caught.value.exit_code == 2


ADDRESSES = {
    "192.0.2.1": "192.0.2.1",
    "2001:DB8:0:0:0:0:0:1": "2001:db8::1",
    "2001:db8:0:1:1:1:1:1": "2001:db8:0:1:1:1:1:1",
    "2001:0:0:1:0:0:0:1": "2001:0:0:1::1",
    "2001:db8::0:1:0:0:1": "2001:db8::1:0:0:1",
    "::": "::",
    "[::1]": "::1",
    "::ffff:192.0.2.1": "192.0.2.1",
    "::FFFF:C000:0201": "192.0.2.1",
    "64:ff9b::192.0.2.1": "64:ff9b::c000:201",
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_addresses(text: str) -> None:
    assert keys.address(text) == ADDRESSES[text]


NEITHER = "it is neither an IPv4 nor an IPv6 address"
INTERFACE = "an address with an interface (%...) has a meaning on one machine only"
NO_ADDRESSES = {
    "": NEITHER,
    "192.0.2.01": NEITHER,
    "192.0.2": NEITHER,
    "192.0.2.256": NEITHER,
    "0xc0000201": NEITHER,
    "3221225985": NEITHER,
    "[::1": NEITHER,
    "192.0.2.1]": NEITHER,
    "::1::": NEITHER,
    "192.0.2.1%eth0": NEITHER,
    "192.0.2.٣": NEITHER,
    "fe80::1%eth0": INTERFACE,
    "[fe80::1%25eth0]": INTERFACE,
}


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        keys.address(text)
    assert caught.value.reason == NO_ADDRESSES[text]


NO_NETWORKS = {
    "": "it is no network in CIDR form, such as 192.0.2.0/24",
    "192.0.2.0/33": "it is no network in CIDR form, such as 192.0.2.0/24",
    "192.0.2.0/": "it is no network in CIDR form, such as 192.0.2.0/24",
    "example.org/24": "it is no network in CIDR form, such as 192.0.2.0/24",
    "10.0.0.5/8": "it has host bits set; the network is 10.0.0.0/8",
    "2001:db8::1/32": "it has host bits set; the network is 2001:db8::/32",
    "fe80::1%eth0/64": INTERFACE,
}


@pytest.mark.parametrize("text", NO_NETWORKS)
def test_what_is_no_network_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        keys.network(text)
    assert caught.value.reason == NO_NETWORKS[text]


def test_networks() -> None:
    assert keys.network("10.0.0.0/8") == "10.0.0.0/8"
    assert keys.network(" 10.0.0.0/255.0.0.0 ") == "10.0.0.0/8"
    assert keys.network("0.0.0.0/0") == "0.0.0.0/0"
    assert keys.network("2001:DB8::/32") == "2001:db8::/32"
    assert keys.network("192.0.2.1") == "192.0.2.1/32"


def test_ports() -> None:
    assert [keys.port(text) for text in ("1", " 443 ", 65535, "0080")] == [1, 443, 65535, 80]
    for text in ("", "0", "65536", "-1", "+80", "8_0", "８０", "८०", "80.0", "0x50", "9" * 5000, 0, 65536, -1):
        with pytest.raises(KeyFormatError, match="a port is a number from 1 to 65535"):
            keys.port(text)


URLS = {
    "HTTP://Example.ORG": "http://example.org/",
    "http://example.org:80/": "http://example.org/",
    "https://example.org:443/": "https://example.org/",
    "http://example.org:443/": "http://example.org:443/",
    "http://example.org:/": "http://example.org/",
    "http://example.org./": "http://example.org/",
    "http://bücher.example/": "http://xn--bcher-kva.example/",
    "http://[2001:DB8::0:1]/": "http://[2001:db8::1]/",
    "http://[::1]:8080/": "http://[::1]:8080/",
    "http://[::ffff:192.0.2.1]/": "http://192.0.2.1/",
    "http://h/%7euser/%2f/%c3%a9": "http://h/~user/%2F/%C3%A9",
    "http://h/é": "http://h/%C3%A9",
    "http://h/%": "http://h/%25",
    "http://h/%zz": "http://h/%25zz",
    "http://h/a/./b/../c": "http://h/a/c",
    "http://h/../../a": "http://h/a",
    "http://h/%2e%2e/a": "http://h/a",
    "http://h/a/..": "http://h/",
    "http://h/a/.": "http://h/a/",
    "http://h//a//": "http://h//a//",
    "http://h/a#part": "http://h/a",
    "http://h/a?": "http://h/a",
    "http://h?q=%41+b": "http://h/?q=A+b",
    "http://h/a?b?c": "http://h/a?b?c",
    " http://h/ ": "http://h/",
}


@pytest.mark.parametrize("text", URLS)
def test_urls(text: str) -> None:
    assert keys.url(text) == URLS[text]


SPACE = "it contains a space or a control character"
NO_PORT = "is no port; a port is a number from 1 to 65535"
NO_URLS = {
    "": "it must start with http:// or https://",
    "example.org": "it must start with http:// or https://",
    "ftp://h/": "it must start with http:// or https://",
    "javascript:alert(1)": "it must start with http:// or https://",
    "http://": "it names no host",
    "http:///a": "it names no host",
    "http://:80/": "it names no host",
    "http://user@h/": "it contains a user name or password, which are not kept",
    "http://user:secret@h/": "it contains a user name or password, which are not kept",
    "http://@h/": "it contains a user name or password, which are not kept",
    "http://h/a b": SPACE,
    "http://h/a\tb": SPACE,
    "http://h/a\r\nb": SPACE,
    "http://h/\x00": SPACE,
    "http://h/\x7f": SPACE,
    "http://h/\ud800": "it contains half a character (a lone surrogate)",
    "http://h:0/": NO_PORT,
    "http://h:99999/": NO_PORT,
    "http://h:x/": NO_PORT,
    "http://h:８０/": NO_PORT,
    "http://[::1]x/": NO_PORT,
    "http://::1/": "an IPv6 address in a URL stands in brackets, such as http://[2001:db8::1]/",
    "http://[::1": "it is no URL",
    "http://[fe80::1%25eth0]/": INTERFACE,
    "http://h%41/": NO_CHARACTER,
    "http://a..b/": EMPTY_LABEL,
    "http://0x7f.1/": "its last label is a number",
}


@pytest.mark.parametrize("text", NO_URLS)
def test_what_is_no_url_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        keys.url(text)
    assert NO_URLS[text] in caught.value.reason


def test_origins() -> None:
    assert keys.origin("HTTPS://Example.org") == "https://example.org:443"
    assert keys.origin("http://example.org/") == "http://example.org:80"
    assert keys.origin("http://[2001:DB8::1]:8080") == "http://[2001:db8::1]:8080"
    for text in ("https://h/a", "https://h/?q", "https://h/#f"):
        with pytest.raises(KeyFormatError, match="an origin has no path; give it as a URL instead"):
            keys.origin(text)
    with pytest.raises(KeyFormatError, match="is no port"):
        keys.origin("https://h:0")


def test_zones_and_digests() -> None:
    assert keys.zone(" Office.2 ") == "office.2"
    for text in ("", " ", "-a", "a b", "a" * 64, "ü", "a|b", "a\x00"):
        with pytest.raises(KeyFormatError, match="a zone is 1 to 63"):
            keys.zone(text)
    assert keys.sha256(":".join(["AB"] * 32)) == "ab" * 32
    for text in ("", "ab" * 31, "ab" * 33, "zz" * 32):
        with pytest.raises(KeyFormatError, match="64 hexadecimal digits"):
            keys.sha256(text)


def test_a_long_text_is_shown_by_its_beginning() -> None:
    with pytest.raises(KeyFormatError) as caught:
        keys.hostname("a" * 200)
    assert "a" * 77 + "..." in str(caught.value)
    assert "a" * 78 not in str(caught.value)
