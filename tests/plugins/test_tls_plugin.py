"""The TLS scanners: recorded evidence of the laboratory, jobs against servers on loopback, broken evidence."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kattegat.model.assets import Certificate, Website
from kattegat.model.evidence import Evidence, Part
from kattegat.model.facts import Found, Link, NotMeasured
from kattegat.model.work import Job, Limits, Result
from kattegat.plugin import Stream
from kattegat.plugins import tls
from kattegat.plugins.shared.exchange import Exchange, Probe, Step
from kattegat.plugins.tls import handshake, reach
from kattegat.plugins.tls.facts import NO_IPV6, CertificateDetails, TlsHandshake, TlsProtocols
from kattegat.plugins.tls.handshake import TlsCertificateScanner
from kattegat.plugins.tls.protocols import TlsProtocolsScanner
from kattegat.registry import Plugin, Registry
from kattegat.runner.job import run_job
from kattegat.runner.limits import explain
from kattegat.runner.net import GuardedNet, Shared
from kattegat.settings import load

RECORDED = Path(__file__).with_name("recorded") / "tls"
DAY = timedelta(days=1)


def recorded(scanner: str, host: str) -> Evidence:
    return Evidence.unpack((RECORDED / f"{scanner}--{host}.evidence").read_bytes())


def at_of(evidence: Evidence) -> datetime:
    """When the conversation of recorded evidence was held."""
    return datetime.fromisoformat(evidence.parts[0].notes["at"])


def certificate(host: str) -> tuple[list[Found], datetime]:
    evidence = recorded("tls-certificate", host)
    found = list(TlsCertificateScanner().parse(Website(f"https://{host}"), evidence))
    assert all(isinstance(entry, Found) for entry in found)
    return [entry for entry in found if isinstance(entry, Found)], at_of(evidence)


# --- recorded evidence -----------------------------------------------------------------------------------------------


def test_the_handshakes_of_a_right_site() -> None:
    found, at = certificate("www.good.test")
    first, details, second = found
    site = Website("https://www.good.test")
    assert [(entry.asset, entry.item) for entry in (first, second)] == [(site, "10.77.0.80"), (site, "fd77::80")]
    assert isinstance(first.fact, TlsHandshake)
    leaf = Certificate(first.fact.leaf)
    assert first.links == second.links == (Link("presents", site, leaf),)
    assert (details.asset, details.item, details.links) == (leaf, "", ())
    assert first.fact == TlsHandshake(
        address="10.77.0.80",
        version="TLSv1.3",
        suite="TLS_AES_256_GCM_SHA384",
        group="x25519",
        alpn="http/1.1",
        leaf=first.fact.leaf,
        chain=first.fact.chain,
        trust="trusted",
        trust_reason="The chain leads to a trusted root.",
        roots="own",
        name_matches=True,
        names=["www.good.test", "good.test", "mta-sts.good.test", "v6only.good.test"],
        common_name_only=False,
        ocsp_stapled=False,
        problems=[],
    )
    assert (len(first.fact.chain), first.fact.chain[0]) == (2, first.fact.leaf)
    assert isinstance(details.fact, CertificateDetails)
    assert details.fact.subject == "CN=www.good.test,O=Kattegat Laboratory"
    assert details.fact.issuer == "CN=Kattegat Laboratory Issuing,O=Kattegat Laboratory"
    assert (details.fact.key_type, details.fact.key_bits, details.fact.curve) == ("EC", 256, "secp256r1")
    assert (details.fact.signature_hash, details.fact.self_signed, details.fact.is_ca) == ("sha256", False, False)
    assert details.fact.not_after is not None
    assert at + 179 * DAY < details.fact.not_after < at + 181 * DAY


@pytest.mark.parametrize(
    ("host", "trust", "matches", "sent", "days_left"),
    [
        ("www.bad.test", "self-signed", False, 1, 180),
        ("expired.bad.test", "trusted", True, 2, -10),  # its own dates are judged apart
        ("soon.bad.test", "trusted", True, 2, 7),
        ("weakkey.bad.test", "invalid", True, 2, 179),
        ("chain.bad.test", "unknown-issuer", True, 1, 180),
        ("old.bad.test", "trusted", True, 2, 180),
    ],
)
def test_each_wrong_certificate(host: str, trust: str, matches: bool, sent: int, days_left: int) -> None:
    (first, details), at = certificate(host)
    assert isinstance(first.fact, TlsHandshake)
    assert isinstance(details.fact, CertificateDetails)
    assert (first.fact.trust, first.fact.name_matches, len(first.fact.chain)) == (trust, matches, sent)
    assert details.fact.not_after is not None
    assert (details.fact.not_after - at).days == days_left


def test_one_key_and_signature_are_weak() -> None:
    (first, details), _ = certificate("weakkey.bad.test")
    assert isinstance(first.fact, TlsHandshake)
    assert isinstance(details.fact, CertificateDetails)
    assert (details.fact.key_type, details.fact.key_bits, details.fact.signature_hash) == ("RSA", 1024, "sha1")
    assert (
        first.fact.trust_reason
        == "The certificate CN=weakkey.bad.test is signed with SHA-1, which is no longer trusted."
    )


def test_what_sites_offer() -> None:
    offered = {}
    for host in ("www.good.test", "www.bad.test", "old.bad.test"):
        [entry] = TlsProtocolsScanner().parse(Website(f"https://{host}"), recorded("tls-protocols", host))
        assert isinstance(entry, Found)
        assert isinstance(entry.fact, TlsProtocols)
        assert entry.item == entry.fact.address
        offered[host] = entry.fact
    good, bad, old = offered.values()
    assert [(entry.version, len(entry.suites), entry.preference) for entry in good.versions] == [
        ("TLSv1.3", 3, "server"),
        ("TLSv1.2", 3, "server"),
    ]
    assert good.refused == ["TLSv1.1", "TLSv1.0", "SSLv3", "SSLv2"]
    assert [(entry.version, len(entry.suites), entry.preference) for entry in bad.versions] == [
        ("TLSv1.2", 61, "client"),
        ("TLSv1.1", 20, "client"),
        ("TLSv1.0", 20, "client"),
    ]
    assert (bad.dh_bits, bad.fallback_scsv, bad.unmeasured) == ([1024], True, {})
    assert old.refused == ["TLSv1.3", "TLSv1.2", "SSLv3", "SSLv2"]


def test_the_facts_survive_their_json_form() -> None:
    found, _ = certificate("www.good.test")
    found += [
        entry
        for entry in TlsProtocolsScanner().parse(Website("https://x.test"), recorded("tls-protocols", "www.good.test"))
        if isinstance(entry, Found)
    ]
    assert {type(entry.fact) for entry in found} == {TlsHandshake, CertificateDetails, TlsProtocols}
    for entry in found:
        assert msgspec.json.decode(msgspec.json.encode(entry.fact), type=type(entry.fact)) == entry.fact


def test_another_site_at_the_same_address_is_judged_by_its_own_name() -> None:
    evidence = recorded("tls-certificate", "www.good.test")
    first = next(iter(TlsCertificateScanner().parse(Website("https://other.test"), evidence)))
    assert isinstance(first, Found)
    assert isinstance(first.fact, TlsHandshake)
    assert first.fact.name_matches is False


def test_an_address_that_kept_silent_is_not_measured_and_the_other_is() -> None:
    evidence = recorded("tls-certificate", "www.good.test")
    silent = reach.Talk(
        "10.77.0.80", (Exchange("x", False, _sent(evidence), b"", "unreachable"),), at_of(evidence), "Gone."
    )
    found = list(
        TlsCertificateScanner().parse(Website("https://www.good.test"), Evidence((silent.part(), *evidence.parts[1:])))
    )
    site = Website("https://www.good.test")
    assert found[0] == NotMeasured("TlsHandshake", "Gone", "10.77.0.80", site)
    assert [type(entry) for entry in found[1:]] == [Found, Found]
    assert len(evidence.parts) == 3


def _sent(evidence: Evidence) -> bytes:
    return reach.read(evidence.parts[0]).conversation[0].sent


def test_without_roots_the_trust_is_unknown() -> None:
    evidence = recorded("tls-certificate", "www.good.test")
    site = Website("https://www.good.test")
    no_file = Part("roots", b"", {"kind": "own", "problem": "the roots cannot be read from /x (No such file)"})
    for parts, reason in (
        (evidence.parts[:1], "The roots were not recorded."),
        (
            (evidence.parts[0], no_file),
            "There were no trusted roots to go by: the roots cannot be read from /x (No such file).",
        ),
    ):
        first = next(iter(TlsCertificateScanner().parse(site, Evidence(parts))))
        assert isinstance(first, Found)
        assert isinstance(first.fact, TlsHandshake)
        assert (first.fact.trust, first.fact.trust_reason) == ("unknown", reason)


def test_only_roots_that_could_end_the_chain_are_kept(tmp_path: Path) -> None:
    evidence = recorded("tls-certificate", "www.good.test")
    kept = evidence.first("roots")
    assert kept is not None
    file = tmp_path / "roots.pem"
    file.write_bytes(make("unrelated")[0] + kept.content)
    chain = handshake.analyse_certificate(reach.read(evidence.parts[0]).conversation).chain_der
    assert handshake.roots_part([chain, ()], str(file)) == Part("roots", kept.content, {"kind": "own", "problem": ""})
    missing = handshake.roots_part([chain], str(tmp_path / "none"))
    assert (missing.content, missing.notes["kind"]) == (b"", "own")
    assert missing.notes["problem"].startswith("the roots cannot be read")
    assert handshake.roots_part([chain], "").notes["kind"] == "system"


# --- jobs against servers on loopback --------------------------------------------------------------------------------


def make(name: str, *, address: str | None = None) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address))] if address else []
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now - DAY).not_valid_after(now + 90 * DAY)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return signed.public_bytes(Encoding.PEM), private


@asynccontextmanager
async def server(tmp_path: Path, *, name: str = "x", address: str | None = None) -> AsyncIterator[tuple[int, bytes]]:
    """A TLS server on 127.0.0.1, TLS 1.2 and 1.3; gives its port and its certificate (DER)."""
    cert, key = make(name, address=address)
    file = tmp_path / "server.pem"
    file.write_bytes(cert + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    running = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield running.sockets[0].getsockname()[1], ssl.PEM_cert_to_DER_cert(cert.decode())
    finally:
        running.close()
        await running.wait_closed()
        await asyncio.sleep(0.05)


async def perform(scanner: str, port: int, **environment: str) -> Result:
    registry = Registry([Plugin("tls", tls)])
    job = Job(
        task_id=1,
        lease_token=1,
        organisation="acme",
        scanner=scanner,
        scanner_version=1,
        asset_type="Website",
        asset_key=f"https://127.0.0.1:{port}",
        clearance=2,
        limits=Limits("internet", own_networks=["127.0.0.0/8"]),
        options={"pause": 0.0},
    )
    settings = load({"KAT_DATA_DIR": "/nowhere", "KAT_DNS_SERVER": "127.0.0.1:9", **environment})
    return await run_job(job, registry, settings)


def test_a_site_known_by_its_address(tmp_path: Path) -> None:
    async def main() -> tuple[Result, int, bytes]:
        async with server(tmp_path, address="127.0.0.1") as (port, der):
            return await perform("tls-certificate", port), port, der

    result, port, der = asyncio.run(main())
    assert (result.outcome, result.reason) == ("ok", "")
    assert result.detail.contacted == ["127.0.0.1"]
    site = Website(f"https://127.0.0.1:{port}")
    first, details = TlsCertificateScanner().parse(site, Evidence.unpack(result.evidence))
    assert isinstance(first, Found)
    assert isinstance(first.fact, TlsHandshake)
    assert (first.item, first.fact.trust, first.fact.roots, first.fact.name_matches) == (
        "127.0.0.1", "self-signed", "system", True,
    )  # fmt: skip
    assert isinstance(details, Found)
    assert details.asset == Certificate(hashlib.sha256(der).hexdigest())


def test_a_common_name_alone_is_for_nobody(tmp_path: Path) -> None:
    async def main() -> Result:
        async with server(tmp_path, name="127.0.0.1") as (port, _):
            return await perform("tls-certificate", port)

    result = asyncio.run(main())
    first = next(iter(TlsCertificateScanner().parse(Website("https://127.0.0.1"), Evidence.unpack(result.evidence))))
    assert isinstance(first, Found)
    assert isinstance(first.fact, TlsHandshake)
    assert (first.fact.name_matches, first.fact.common_name_only, first.fact.names) == (False, True, [])


class WithoutIPv6(GuardedNet):
    """The net of a machine on which IPv6 is off, for a host that has addresses of both kinds."""

    number = errno.ENETUNREACH

    async def resolve(self, name: str) -> list[str]:
        return ["2001:db8::1", "127.0.0.1"]

    async def connect(self, host: str, port: int, *, tls: str | None = None) -> Stream:
        if ":" not in host:
            return await super().connect(host, port, tls=tls)
        try:
            raise OSError(self.number, "so it is")
        except OSError as error:
            raise explain(host, error, 1) from None


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTUNREACH])
def test_a_machine_without_ipv6_says_so_of_itself(tmp_path: Path, number: int) -> None:
    async def main() -> Evidence:
        async with server(tmp_path) as (port, _):
            shared = Shared.of(load({"KAT_DATA_DIR": "/nowhere", "KAT_DNS_SERVER": "127.0.0.1:9"}))
            net = WithoutIPv6(shared, Limits("internet", own_networks=["127.0.0.0/8"]))
            net.number = number
            try:
                return await TlsCertificateScanner().fetch(Website(f"https://host.test:{port}"), net)
            finally:
                await net.close()

    site = Website("https://host.test")
    found = list(TlsCertificateScanner().parse(site, asyncio.run(main())))
    assert [entry.item for entry in found] == ["127.0.0.1", "", "2001:db8::1"]
    # A router that knows of no way may be wrong about this one address.
    reason = (
        "2001:db8::1 can't be reached: no route to the host (it is down, or a firewall rejects)"
        if number == errno.EHOSTUNREACH
        else NO_IPV6
    )
    assert found[2] == NotMeasured("TlsHandshake", reason, "2001:db8::1", site)


def test_the_versions_of_a_server_here(tmp_path: Path) -> None:
    async def main() -> Result:
        async with server(tmp_path) as (port, _):
            return await perform("tls-protocols", port)

    result = asyncio.run(main())
    assert (result.outcome, result.reason) == ("ok", "")
    [entry] = TlsProtocolsScanner().parse(Website("https://127.0.0.1"), Evidence.unpack(result.evidence))
    assert isinstance(entry, Found)
    assert isinstance(entry.fact, TlsProtocols)
    assert [offered.version for offered in entry.fact.versions] == ["TLSv1.3", "TLSv1.2"]
    assert {"TLSv1.1", "TLSv1.0"} <= set(entry.fact.refused)


@pytest.mark.parametrize("scanner", ["tls-certificate", "tls-protocols"])
def test_a_server_that_is_not_there_or_speaks_http_was_not_reached(scanner: str) -> None:
    async def main() -> tuple[Result, Result, int]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(5)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.transport.abort()

        running = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = running.sockets[0].getsockname()[1]
        talking = await perform(scanner, port)
        running.close()
        await running.wait_closed()
        return talking, await perform(scanner, port), port

    talking, gone, port = asyncio.run(main())
    assert (talking.outcome, talking.evidence) == ("failed", b"")
    assert talking.reason.startswith("127.0.0.1: no handshake came about, because the server's answer is malformed")
    assert (gone.outcome, gone.reason) == ("failed", f"127.0.0.1: 127.0.0.1 port {port} refused the connection.")


def test_a_plan_ends_in_time_and_is_closed() -> None:
    closed = []

    def plan() -> Probe:
        try:
            for number in range(20):
                yield Step(str(number), b"", lambda data: True)
        finally:
            closed.append(True)

    now = iter(range(100))
    bounded = reach.bounded(plan(), 3, lambda: float(next(now)))
    seen = [step.what for step in bounded]
    assert (seen, closed) == (["0", "1", "2"], [True])


# --- broken evidence -------------------------------------------------------------------------------------------------

CASES = sorted(path.name for path in RECORDED.glob("tls-certificate--*.evidence"))


def _parse(scanner: type[Any], evidence: Evidence) -> list[Found | NotMeasured]:
    found = list(scanner().parse(Website("https://www.good.test"), evidence))
    assert all(isinstance(entry, Found | NotMeasured) for entry in found)
    return found


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CASES), st.data())
def test_changed_bytes_never_raise(case: str, data: st.DataObject) -> None:
    evidence = Evidence.unpack((RECORDED / case).read_bytes())
    parts = []
    for part in evidence.parts:
        content = bytearray(part.content)
        for _ in range(data.draw(st.integers(0, 6))):
            at = data.draw(st.integers(0, max(0, len(content) - 1)))
            content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        parts.append(Part(part.name, bytes(content), part.notes))
    _parse(TlsCertificateScanner, Evidence(tuple(parts)))
    _parse(TlsProtocolsScanner, Evidence(tuple(parts)))


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.data())
def test_changed_replies_never_raise(data: st.DataObject) -> None:
    """Like the above, but the envelope stays whole, so that what the server said is what is wrong."""
    evidence = recorded("tls-certificate", "www.bad.test")
    talk = reach.read(evidence.parts[0])
    changed = []
    for exchange in talk.conversation:
        received = bytearray(exchange.received)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, max(0, len(received) - 1)))
            received[at : at + 1] = data.draw(st.binary(max_size=2))
        changed.append(
            Exchange(exchange.what, exchange.same_connection, exchange.sent, bytes(received), exchange.ended)
        )
    part = talk._replace(conversation=tuple(changed)).part()
    _parse(TlsCertificateScanner, Evidence((part, *evidence.parts[1:])))


@pytest.mark.parametrize(
    "notes",
    [{}, {"address": "x", "at": "2026-01-01T00:00:00+00:00"}, {"address": "192.0.2.1", "at": "soon"},
     {"address": "192.0.2.1", "at": "2026-01-01T00:00:00"}, {"address": 7, "at": 7}],
)  # fmt: skip
def test_notes_that_are_wrong_are_not_measured(notes: dict[str, Any]) -> None:
    part = recorded("tls-certificate", "www.good.test").parts[0]
    for scanner, kind in ((TlsCertificateScanner, "TlsHandshake"), (TlsProtocolsScanner, "TlsProtocols")):
        [entry] = _parse(scanner, Evidence((Part(part.name, part.content, notes),)))
        assert isinstance(entry, NotMeasured)
        assert entry.kind == kind
