"""Assets, evidence and scopes: what is printed is read back the same, and nothing else is raised on any text."""

# ruff: noqa: PT017 - a refusal is one of two right answers; pytest.raises would demand it.
from __future__ import annotations

import string
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kattegat.errors import KeyFormatError
from kattegat.model import assets
from kattegat.model.assets import URL, Hostname, IPAddress, Network, Other, Service, Software, Website
from kattegat.model.evidence import Evidence, Part
from kattegat.model.scope import Scope

any_text = st.text(st.characters(codec=None, categories=None), max_size=60)
PIECES = [
    "a",
    "1",
    ".",
    "-",
    "_",
    "*",
    ":",
    "/",
    "?",
    "#",
    "%41",
    "%",
    "@",
    "[",
    "]",
    "|",
    "internet|",
    "192.0.2.1",
    "::1",
]
PIECES += ["tcp/443", "UDP/", "/24", "http://", "https://h", "pkg:npm/", "pkg:", "ab" * 32, "ü", "\ud800", "\x00", " "]
nearly = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)

labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)
names = st.lists(labels, max_size=4).map(lambda parts: ".".join([*parts, "test"]))
zones = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
addresses = st.builds(IPAddress, st.ip_addresses().map(str), zones)
hosts = names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda address: f"[{address}]")
ports = st.integers(1, 65535)
sites = st.builds("{}://{}:{}".format, st.sampled_from(["http", "https"]), hosts, ports)
paths = st.text(string.ascii_letters + string.digits + '/.%~?&=;:@+é ü"<>', max_size=30).map(
    lambda text: text.replace(" ", "")
)
words = st.text(string.ascii_letters + string.digits + "-._~%@+/é", min_size=1, max_size=12)
purls = st.builds("pkg:{}/{}@{}".format, st.sampled_from(["npm", "deb", "pypi", "github"]), words, words)


def software(text: str) -> Software | None:
    try:
        return Software(text)
    except KeyFormatError:
        return None


VALID: dict[str, st.SearchStrategy[Any]] = {
    "Hostname": names.map(Hostname),
    "IPAddress": addresses,
    "Network": st.builds(Network, st.ip_addresses().map(lambda address: f"{address}/{address.max_prefixlen}"), zones),
    "Service": st.builds(Service, addresses, st.sampled_from(["tcp", "udp", "sctp"]), ports),
    "Website": sites.map(Website),
    "URL": st.builds("{}/{}".format, sites, paths).map(URL),
    "Certificate": st.binary(min_size=32, max_size=32).map(lambda digest: assets.Certificate(digest.hex())),
    "Software": purls.map(software).filter(lambda made: made is not None),
}


def test_every_type_is_tried() -> None:
    assert set(VALID) == set(assets.TYPES)


@pytest.mark.parametrize("type_", VALID)
@settings(deadline=None)
@given(data=st.data())
def test_a_key_is_read_back_as_the_same_asset(type_: str, data: st.DataObject) -> None:
    asset = data.draw(VALID[type_])
    assert assets.parse(type_, asset.key) == asset
    assert assets.type_of(asset) == type_
    assert str(asset) == f"{type_} {asset.key}"


@pytest.mark.parametrize("type_", assets.TYPES)
@settings(deadline=None)
@given(text=any_text | nearly)
def test_any_text_is_an_asset_or_is_refused(type_: str, text: str) -> None:
    try:
        asset = assets.parse(type_, text)
    except KeyFormatError as problem:
        assert problem.reason
        str(problem).encode("utf-8")
        return
    assert assets.parse(type_, asset.key) == asset
    # PostgreSQL keeps neither: a key that it refuses would lose the whole batch.
    asset.key.encode("utf-8")
    assert "\x00" not in asset.key


@settings(deadline=None)
@given(st.text(), st.text())
def test_a_type_unknown_here_is_kept_as_it_is(name: str, text: str) -> None:
    if name not in assets.TYPES:
        asset = assets.parse(name, text)
        assert asset == Other(name, text)
        assert (assets.type_of(asset), asset.key) == (name, text)


def test_parts_of_assets() -> None:
    service = Service.parse("office|192.0.2.1|TCP/443")
    assert service == Service(IPAddress("192.0.2.1", "office"), "tcp", 443)
    assert service.key == "office|192.0.2.1|tcp/443"
    assert IPAddress.parse("2001:DB8::1").key == "internet|2001:db8::1"
    site = URL("https://[2001:db8::1]:8443/a?b").website
    assert (site.key, site.scheme, site.host, site.port, site.url) == (
        "https://[2001:db8::1]:8443",
        "https",
        "2001:db8::1",
        8443,
        "https://[2001:db8::1]:8443/",
    )
    assert URL("http://h?q").website == Website("http://h:80")


@pytest.mark.parametrize(
    ("type_", "text", "reason"),
    [
        ("Service", "192.0.2.1", "it is not like internet|192.0.2.1|tcp/443"),
        ("Service", "internet|192.0.2.1|icmp/1", "the protocol is one of tcp, udp, sctp"),
        ("Service", "internet|192.0.2.1|tcp/0", "a port is a number from 1 to 65535"),
        ("Service", "internet|192.0.2.1|tcp/٨٠", "a port is a number from 1 to 65535"),
        ("IPAddress", "|192.0.2.1", "a zone is 1 to 63 letters, digits, dots, underscores or hyphens"),
        ("IPAddress", "internet|fe80::1%eth0", "an address with an interface (%...) has a meaning on one machine only"),
        ("Network", "internet|10.0.0.5/8", "it has host bits set; the network is 10.0.0.0/8"),
        ("Software", "npm/left-pad", "it is no package URL"),
    ],
)
def test_refusals_have_their_reason(type_: str, text: str, reason: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        assets.parse(type_, text)
    assert reason in caught.value.reason


values = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats(allow_nan=False)
notes = st.dictionaries(st.text(max_size=8), values | st.lists(values, max_size=3), max_size=4)
parts = st.builds(Part, st.text(max_size=8), st.binary(max_size=200), notes)


@settings(deadline=None)
@given(st.lists(parts, max_size=5))
def test_evidence_is_unpacked_as_it_was_packed(made: list[Part]) -> None:
    evidence = Evidence(tuple(made))
    assert Evidence.unpack(evidence.pack()) == evidence
    for part in made:
        first = evidence.first(part.name)
        assert first is not None
        assert evidence.named(part.name)[0] is first
    assert evidence.first("no such name: nine") is None


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_other_bytes_are_no_evidence(content: bytes) -> None:
    try:
        evidence = Evidence.unpack(content)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return
    assert Evidence.unpack(evidence.pack()) == evidence


def test_evidence_of_a_later_form_is_not_guessed_at() -> None:
    with pytest.raises(msgspec.ValidationError, match="form 2 is not known"):
        Evidence.unpack(msgspec.msgpack.encode((2, ())))


kinds = st.sampled_from(["DnsRecords", "HttpReply", "OpenPort"])
items = st.sampled_from(["", "A", "MX"])
scopes = st.builds(
    Scope,
    st.dictionaries(kinds, st.none() | st.frozensets(items)),
    st.frozensets(st.tuples(kinds, st.none() | items)),
)


@settings(deadline=None)
@given(scopes, kinds, items, st.frozensets(st.tuples(kinds, st.none() | items)))
def test_a_scope_less_a_part_covers_less_by_that_part(
    scope: Scope, kind: str, item: str, out: frozenset[tuple[str, str | None]]
) -> None:
    taken_out = (kind, item) in out or (kind, None) in out
    assert scope.without(out).covers(kind, item) == (scope.covers(kind, item) and not taken_out)


def test_what_a_scope_covers() -> None:
    whole = Scope.of("DnsRecords", "HttpReply")
    assert whole.covers("DnsRecords", "anything")
    assert not whole.covers("OpenPort", "")
    some = Scope({"DnsRecords": frozenset({"A"})})
    assert some.covers("DnsRecords", "A")
    assert not some.covers("DnsRecords", "MX")
    assert not whole.without([("DnsRecords", "A")]).covers("DnsRecords", "A")
    assert whole.without([("DnsRecords", "A")]).covers("DnsRecords", "MX")
    assert not whole.without([("DnsRecords", None)]).covers("DnsRecords", "MX")
    assert not Scope({"DnsRecords": frozenset()}).covers("DnsRecords", "")
