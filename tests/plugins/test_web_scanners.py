"""The scanners of websites: on recorded evidence, on damaged evidence, and on a real nginx."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kattegat.model.evidence import Evidence, Part
from kattegat.plugin import Asset, Fact, Found, Hostname, HttpReply, IPAddress, NotMeasured, Website
from kattegat.plugins import web

FOLDER = Path(__file__).parent / "recorded" / "web"


def _recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kattegat_test_web_record", FOLDER / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


record = _recorder()
SCANS: list[tuple[str, Asset]] = list(record.SCANS)
A, B = record.BOTH, record.HTTP_ONLY


def recorded(name: str, asset: Asset) -> Evidence:
    return Evidence.unpack((FOLDER / record.file_of(name, asset)).read_bytes())


def parsed(name: str, asset: Asset, evidence: Evidence | None = None) -> list[Found | NotMeasured]:
    return list(record.scanner(name).parse(asset, evidence or recorded(name, asset)))


def fact(name: str, asset: Asset, kind: str) -> Any:
    found = [entry.fact for entry in parsed(name, asset) if isinstance(entry, Found) and entry.fact.kind == kind]
    return found[0] if found else None


def links(found: Found) -> set[tuple[str, str, str]]:
    return {(link.type, str(link.origin), str(link.target)) for link in found.links}


# --- websites --------------------------------------------------------------------------------------------------------


def test_a_name_is_visited_on_both_ports_of_each_address() -> None:
    host = Hostname("two.test")
    results = {entry.item: entry for entry in parsed("websites", host) if isinstance(entry, Found)}
    assert {item: (found.fact.state, found.fact.answers) for item, found in results.items()} == {  # type: ignore[attr-defined]
        f"http/80 {A}": ("open", "http"),
        f"https/443 {A}": ("open", "http"),
        f"http/80 {B}": ("open", "http"),
        f"https/443 {B}": ("closed", ""),
    }
    service = f"Service internet|{A}|tcp/443"
    assert links(results[f"https/443 {A}"]) == {
        ("has_service", f"IPAddress internet|{A}", service),
        ("has_website", "Hostname two.test", "Website https://two.test:443"),
        ("serves", service, "Website https://two.test:443"),
    }
    assert links(results[f"https/443 {B}"]) == set()


def test_an_address_is_visited_itself() -> None:
    address = IPAddress(A, "dmz")
    evidence = recorded("address-websites", IPAddress(A))
    results = [entry for entry in parsed("address-websites", address, evidence) if isinstance(entry, Found)]
    assert [entry.item for entry in results] == ["http/80", "https/443"]
    assert ("has_website", f"IPAddress dmz|{A}", f"Website https://{A}:443") in links(results[1])


@pytest.mark.parametrize(
    ("state", "after", "wanted"),
    [
        ("closed", None, ("closed", "")),
        ("no answer", None, f"{A} port 443 did not answer"),
        ("a router says no", None, "a router says no"),
        ("open", None, "the recorded evidence is not complete"),
        ("open", ("sent nothing for 10 seconds.", "timeout"), "sent nothing for 10 seconds."),
        ("open", ("broke off the TLS handshake.", "reset"), "broke off the TLS handshake."),
        ("open", ("completed no TLS handshake: wrong version number.", "malformed"), ("open", "")),
        ("open", ("completed no TLS handshake: sslv3 alert handshake failure.", "malformed"), ("open", "tls")),
        ("open", ("completed no TLS handshake: unsupported protocol.", "malformed"), ("open", "tls")),
        ("open", ("completed no TLS handshake: strange.", "malformed"), "completed no TLS handshake: strange."),
        ("open", ("answered with malformed HTTP: x.", "malformed"), ("open", "tls")),
    ],
)
def test_what_a_port_says(state: str, after: tuple[str, str] | None, wanted: tuple[str, str] | str) -> None:
    parts = [Part("port", b"", {"address": A, "port": 443, "state": state})]
    if after is not None:
        parts.append(Part("silent", b"", {"address": A, "port": 443, "problem": after[0], "how": after[1]}))
    (result,) = parsed("websites", Hostname("a.test"), Evidence(tuple(parts)))
    if isinstance(wanted, str):
        assert result == NotMeasured("WebPorts", wanted, f"https/443 {A}")
    else:
        assert isinstance(result, Found)
        assert (result.fact.state, result.fact.answers) == wanted  # type: ignore[attr-defined]
        assert any(link.type == "has_website" for link in result.links) == bool(wanted[1])
        assert any(link.type == "has_service" for link in result.links) == (wanted[0] == "open")


def test_addresses_beyond_the_first_eight_are_told() -> None:
    evidence = Evidence((Part("addresses", b"", {"looked": [], "left": ["192.0.2.9"]}),))
    results = parsed("websites", Hostname("a.test"), evidence)
    assert [entry.item for entry in results] == ["http/80 192.0.2.9", "https/443 192.0.2.9"]
    assert all(isinstance(entry, NotMeasured) for entry in results)


@pytest.mark.parametrize(("name", "visited"), [("a.test", True), ("*.a.test", False), ("_dmarc.a.test", False)])
def test_names_that_are_visited(name: str, visited: bool) -> None:
    assert web.WebsitesScanner.__scanner__.applies(Hostname(name)) == visited  # type: ignore[attr-defined]


# --- http ------------------------------------------------------------------------------------------------------------


def site(text: str) -> Website:
    return Website(text)


def test_the_front_page_of_a_right_site() -> None:
    found = fact("http", site("https://good.test"), "HttpResponse")
    assert (found.status, found.url, found.leaves, found.stopped) == (200, "https://good.test/", False, "")
    assert (found.content_type, found.server, found.version) == ("text/html; charset=utf-8", "nginx", "1.1")
    (cookie,) = fact("http", site("https://good.test"), "Cookies").cookies
    assert (cookie.name, cookie.secure, cookie.http_only, cookie.same_site) == ("__Host-session", True, True, "strict")


def test_headers_keep_their_order_and_what_is_sent_twice_without_values_that_vary() -> None:
    headers = fact("http", site("https://bad.test"), "HttpHeaders")
    names = [name for name, _ in headers.headers]
    assert names.count("Set-Cookie") == 2
    assert headers.all("set-cookie") == ["PHPSESSID", "__Host-x"]
    assert headers.all("date") == ["(varies)"]
    assert headers.all("x-powered-by") == ["PHP/5.3.3"]
    assert names.index("Server") < names.index("X-Powered-By")


def test_policies_in_the_page_are_read() -> None:
    assert fact("http", site("https://bad.test"), "HttpResponse").meta == (("referrer", "unsafe-url"),)


@pytest.mark.parametrize(
    ("origin", "hops", "stopped", "leads_to"),
    [
        ("http://good.test", ["http://good.test/", "https://good.test/"], "", "https://good.test/"),
        ("https://down.test", ["https://down.test/", "http://good.test/", "https://good.test/"], "",
         "http://good.test/"),
        ("https://moved.test", ["https://moved.test/", "https://good.test/"], "", "https://good.test/"),
        ("https://inside.test", ["https://inside.test/"], "blocked", "http://10.0.0.1/admin"),
        ("https://loop.test", ["https://loop.test/"], "loop", "https://loop.test/"),
        ("http://loop.test", ["http://loop.test/"], "loop", "http://loop.test/"),
        ("https://chain.test", ["https://chain.test/" + "x" * count for count in range(11)], "limit",
         "https://chain.test/" + "x" * 11),
        # The site that wants its cookie back gets it, as from a browser, and ends at a page.
        ("https://cookie.test", ["https://cookie.test/", "https://cookie.test/"], "", ""),
    ],
)  # fmt: skip
def test_redirects(origin: str, hops: list[str], stopped: str, leads_to: str) -> None:
    found = fact("http", site(origin), "HttpResponse")
    assert [hop.url for hop in found.hops] == hops
    assert (found.stopped, found.leads_to) == (stopped, leads_to)


def test_a_redirect_elsewhere_is_a_link_and_its_headers_are_the_own_ones() -> None:
    results = parsed("http", site("https://moved.test"))
    first = results[0]
    assert isinstance(first, Found)
    assert links(first) == {("redirects_to", "Website https://moved.test:443", "Website https://good.test:443")}
    assert first.fact.leaves  # type: ignore[attr-defined]
    assert fact("http", site("https://moved.test"), "HttpHeaders").all("strict-transport-security") == []


def test_addresses_that_answer_differently() -> None:
    found = fact("http", site("http://two.test"), "AddressDifferences")
    assert found.addresses == (A, B)
    assert {entry.what for entry in found.differences} == {
        "content-security-policy", "permissions-policy", "referrer-policy", "strict-transport-security",
        "x-content-type-options", "x-frame-options",
    }  # fmt: skip
    assert ("x-frame-options", ((A, "DENY"), (B, ""))) in [(one.what, one.answers) for one in found.differences]


def test_an_address_that_does_not_answer_is_not_measured() -> None:
    results = parsed("http", site("https://two.test"))
    (missing,) = (entry for entry in results if isinstance(entry, NotMeasured))
    assert (missing.kind, missing.item) == ("AddressDifferences", B)
    assert missing.reason == f"{B} port 443 refused the connection."


def test_nonces_do_not_make_every_scan_a_change() -> None:
    def reply(nonce: bytes) -> Part:
        body = b'<meta http-equiv="Content-Security-Policy" content="script-src \'nonce-' + nonce + b"'\">"
        policy = b"script-src 'nonce-" + nonce + b"'"
        return HttpReply(
            "https://a.test/", A, 200, ((b"Content-Security-Policy", policy), (b"Date", nonce)), body
        ).part("hop")

    def facts(nonce: bytes) -> list[Found | NotMeasured]:
        part = reply(nonce)
        part = Part(part.name, part.content, {**part.notes, "chain": ""})
        return parsed("http", site("https://a.test"), Evidence((part,)))

    assert facts(b"one") == facts(b"two")
    assert any("'nonce-(varies)'" in str(entry) for entry in facts(b"one"))


# --- security.txt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "found", "url", "problems"),
    [
        ("https://good.test", True, "https://good.test/.well-known/security.txt", []),
        ("https://bad.test", False, "", []),
        ("https://moved.test", True, "https://good.test/.well-known/security.txt", []),
        ("http://good.test", True, "https://good.test/.well-known/security.txt", []),
        ("https://down.test", True, "https://down.test/security.txt", ["syntax", "contact-uri", "legacy-place"]),
        ("http://plain.test", True, "http://plain.test/.well-known/security.txt", ["http"]),
    ],
)
def test_security_txt(origin: str, found: bool, url: str, problems: list[str]) -> None:
    result = fact("security-txt", site(origin), "SecurityTxt")
    assert (result.found, result.url) == (found, url)
    assert [problem.code for problem in result.problems] == problems


def served(status: int, body: bytes, media: bytes, url: str = "https://a.test/.well-known/security.txt") -> Part:
    part = HttpReply(url, A, status, ((b"Content-Type", media),), body).part("hop")
    return Part(part.name, part.content, {**part.notes, "chain": "/.well-known/security.txt"})


FILE = b"Contact: mailto:a@example.org\nExpires: 2027-01-01T00:00:00Z\nCanonical: https://b.test/security.txt\n"


def test_how_a_file_is_served_counts() -> None:
    (result,) = parsed("security-txt", site("https://a.test"), Evidence((served(200, FILE, b"text/html"),)))
    assert isinstance(result, Found)
    assert [problem.code for problem in result.fact.problems] == ["content-type", "canonical"]  # type: ignore[attr-defined]
    latin = Evidence((served(200, FILE, b'text/plain; charset="iso-8859-1"'),))
    (result,) = parsed("security-txt", site("https://a.test"), latin)
    assert isinstance(result, Found)
    assert [problem.code for problem in result.fact.problems] == ["charset", "canonical"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_error_of_the_server_does_not_say_that_there_is_no_file(status: int) -> None:
    (result,) = parsed("security-txt", site("https://a.test"), Evidence((served(status, b"", b"text/html"),)))
    assert result == NotMeasured("SecurityTxt", f"the site answered {status}")


@pytest.mark.parametrize(
    ("origin", "applies"),
    [
        ("https://a.test", True),
        ("http://a.test", True),
        ("https://a.test:8443", False),
        ("https://192.0.2.1", False),
        ("https://[2001:db8::1]", False),
    ],
)
def test_sites_that_are_asked_for_security_txt(origin: str, applies: bool) -> None:
    assert web.SecurityTxtScanner.__scanner__.applies(site(origin)) == applies  # type: ignore[attr-defined]


def test_facts_are_read_back_from_json_as_they_were() -> None:
    kinds: set[str] = set()
    for name, asset in SCANS:
        for entry in parsed(name, asset):
            if isinstance(entry, Found):
                kinds.add(entry.fact.kind)
                value = msgspec.json.decode(msgspec.json.encode(entry.fact))
                assert msgspec.convert(value, type=type(entry.fact)) == entry.fact
    assert kinds == {kind.kind for kind in vars(web).values() if isinstance(kind, type) and issubclass(kind, Fact)}


# --- damage ----------------------------------------------------------------------------------------------------------

NOTES = st.dictionaries(
    st.sampled_from(["address", "port", "state", "url", "why", "problem", "how", "chain", "left"]),
    st.none() | st.integers() | st.text(max_size=10) | st.lists(st.text(max_size=5), max_size=3),
    max_size=4,
)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, Asset, Evidence]:
    """Recorded evidence of which parts were changed, lost, doubled or given other notes."""
    name, asset = draw(st.sampled_from(SCANS))
    parts: list[Part] = []
    for part in recorded(name, asset).parts:
        content = bytearray(part.content)
        for _ in range(draw(st.integers(0, 3)) if content else 0):
            at = draw(st.integers(0, len(content) - 1))
            content[at] = draw(st.integers(0, 255))
        if draw(st.booleans()):
            content = content[: draw(st.integers(0, len(content)))]
        notes = {**part.notes, **draw(NOTES)} if draw(st.booleans()) else part.notes
        parts += [Part(part.name, bytes(content), notes)] * draw(st.integers(0, 2))
    return name, asset, Evidence(tuple(parts))


@given(damaged())
@settings(max_examples=400)
def test_no_damage_breaks_a_parser(case: tuple[str, Asset, Evidence]) -> None:
    name, asset, evidence = case
    for entry in parsed(name, asset, evidence):
        # What is found can be stored: JSON without NUL.
        if isinstance(entry, Found):
            assert b"\\u0000" not in msgspec.json.encode(entry.fact)
        assert "\x00" not in (entry.item or "")


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=60)), max_size=5), st.binary(max_size=200))
def test_no_response_breaks_the_parser(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    names = (b"Location", b"Set-Cookie", b"Content-Security-Policy", b"Content-Type")
    full = tuple((names[index % 4] if index % 2 else name, value) for index, (name, value) in enumerate(headers))
    part = HttpReply("https://a.test/", A, 302, full, b"<meta " + body).part("hop")
    evidence = Evidence((Part("hop", part.content, {**part.notes, "chain": ""}),))
    results = parsed("http", site("https://a.test"), evidence)
    assert {entry.fact.kind for entry in results if isinstance(entry, Found)} >= {"HttpResponse", "HttpHeaders"}
    for entry in results:
        if isinstance(entry, Found):
            assert b"\\u0000" not in msgspec.json.encode(entry.fact)


# --- the real thing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    problem = record.missing()
    if problem:
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    with record.nginx() as folder:
        yield folder


@pytest.mark.real
def test_a_real_nginx_gives_the_recorded_facts(server: Path) -> None:
    """Everything that was recorded, scanned again; only the day on which the security.txt ends is another."""
    live = asyncio.run(record.scan())

    def comparable(results: list[Found | NotMeasured]) -> list[str]:
        texts = []
        for entry in results:
            text = str(entry).replace(_version(entry), "nginx/VERSION")
            texts.append(re.sub(r"datetime\(202[1-9], [0-9, ]+", "datetime(soon, ", text))
        return texts

    for name, asset in SCANS:
        wanted = comparable(parsed(name, asset))
        assert comparable(parsed(name, asset, live[record.file_of(name, asset)])) == wanted, (name, asset)


def _version(entry: Found | NotMeasured) -> str:
    """The version that nginx names, which is another on other machines."""
    _, slash, rest = str(entry).partition("nginx/")
    return f"nginx/{rest.partition(chr(39))[0]}" if slash else "nginx/VERSION"
