"""The laboratory's zones as master files (RFC 1035, section 5), before signing.

`good.test` has everything right; `bad.test` has everything wrong; the other zones each show one thing. Every zone
carries the same TTL, short enough to wait for and long enough to be cached.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from . import topology
from .topology import v4, v6

TTL = 300
#: Everyday name servers of the zones, below the `nic.test` part of the parent zone.
SERVERS = ("ns1.nic.test.", "ns2.nic.test.")
#: The serial number the second server of lame.test answers, one change behind.
LAME_OLD_SERIAL = 2026010100


@dataclass(frozen=True)
class Zone:
    """A zone: its origin with the final dot, the text of its master file, and how it is signed.

    `signed`: "" (unsigned), "nsec" or "nsec3". `ds`: "right", "wrong" (of a key that isn't in the zone) or "none", what
    the parent says about it. `expired`: its signatures ended a month ago. `tampered`: names whose A record is altered
    after signing. `transfer`: anyone may transfer it (AXFR). `nameservers`: as delegated by the parent.
    """

    origin: str
    text: str
    signed: str = ""
    ds: str = "none"
    expired: bool = False
    tampered: tuple[str, ...] = ()
    transfer: bool = False
    nameservers: tuple[str, ...] = SERVERS
    extra: dict[str, str] = field(default_factory=dict)


def today_serial() -> int:
    """Serial number of a zone made today, in the usual form YYYYMMDDnn (RFC 1912, section 2.2)."""
    return int(dt.datetime.now(dt.UTC).strftime("%Y%m%d01"))


def zone_text(
    origin: str, records: Iterable[str], *, nameservers: Iterable[str] = SERVERS, serial: int | None = None
) -> str:
    """Text of a master file: SOA and NS at the top, then the records given, relative to the origin."""
    soa = f"@ SOA ns1.nic.test. hostmaster.nic.test. {serial or today_serial()} 7200 3600 1209600 300"
    lines = [f"$ORIGIN {origin}", f"$TTL {TTL}", soa, *(f"@ NS {server}" for server in nameservers), *records]
    return "\n".join(lines) + "\n"


def address_records(origin: str) -> list[str]:
    """A and AAAA records of every published name below the origin."""
    return [
        f"{name}. {'AAAA' if ':' in address else 'A'} {address}"
        for name, addresses in topology.published_names().items()
        if f".{name}.".endswith(f".{origin}")
        for address in addresses
    ]


def child_zones(*, mail_tlsa: str, ssh_sshfp: list[str]) -> list[Zone]:
    """All zones below `test.`.

    Args:
        mail_tlsa: SHA-256 of mail.good.test's public key, hex, for its TLSA record.
        ssh_sshfp: data of ssh.good.test's SSHFP records (RFC 4255), each "algorithm type fingerprint".
    """
    return [
        _good(mail_tlsa, ssh_sshfp),
        _bad(),
        _plain("broken.test.", signed="nsec", ds="wrong"),
        _plain("tampered.test.", signed="nsec", ds="right", tampered=("www.tampered.test.",)),
        _plain("expired.test.", signed="nsec", ds="right", expired=True),
        _plain("insecure.test.", signed="nsec", ds="none"),
        _lame(),
        Zone("cloud.test.", zone_text("cloud.test.", [f"live A {v4(80)}"])),
        many_zone(0),
    ]


def _plain(
    origin: str, *, signed: str = "", ds: str = "none", expired: bool = False, tampered: tuple[str, ...] = ()
) -> Zone:
    records = [*address_records(origin), '@ TXT "v=spf1 -all"', "@ MX 0 ."]
    return Zone(origin, zone_text(origin, records), signed, ds, expired, tampered)


def _good(mail_tlsa: str, ssh_sshfp: list[str]) -> Zone:
    origin = "good.test."
    records = [
        *address_records(origin),
        "@ MX 10 mail",
        '@ TXT "v=spf1 mx -all"',
        '@ CAA 0 issue "ca.nic.test"',
        '@ CAA 0 issuewild ";"',
        '@ CAA 0 iodef "mailto:hostmaster@good.test"',
        '_dmarc TXT "v=DMARC1; p=reject; sp=reject; adkim=s; aspf=s; rua=mailto:dmarc@good.test"',
        f"s1._domainkey TXT {_dkim_rsa(2048)}",
        f"e1._domainkey TXT {_dkim_ed25519()}",
        '_mta-sts TXT "v=STSv1; id=20260101000000"',
        '_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tlsrpt@good.test"',
        f"_25._tcp.mail TLSA 3 1 1 {mail_tlsa}",
        *(f"ssh SSHFP {data}" for data in ssh_sshfp),
        "_submission._tcp SRV 10 5 587 mail",
        "_submissions._tcp SRV 10 5 465 mail",
        "_imap._tcp SRV 0 0 0 .",
        "alias CNAME alias2",
        "alias2 CNAME www",
        f"*.wild A {v4(topology.WEB['www.good.test'])}",
        '_underscore TXT "a name with an underscore"',
        f"_host A {v4(topology.WEB['www.good.test'])}",
        # A name of its own with nothing below a mail domain: no mail, said as RFC 7505 and RFC 7208 want it.
        "nomail MX 0 .",
        'nomail TXT "v=spf1 -all"',
    ]
    return Zone(origin, zone_text(origin, records), signed="nsec3", ds="right")


def _bad() -> Zone:
    origin = "bad.test."
    servers = ("ns1.nic.test.",)
    records = [
        *address_records(origin),
        "@ MX 10 mail",
        "@ MX 20 mx-alias",
        "@ MX 30 mx-nowhere",
        "mx-alias CNAME mail",
        '@ TXT "v=spf1 +all"',
        '_dmarc TXT "v=DMARC1; p=none"',
        f"weak._domainkey TXT {_dkim_rsa(1024)}",
        'revoked._domainkey TXT "v=DKIM1; p="',
        'broken._domainkey TXT "v=DKIM1; k=rsa; p=!!not-base64!!"',
        '_mta-sts TXT "v=STSv1; id=20260101000000"',
        '_smtp._tls TXT "v=TLSRPTv1; rua=ftp://bad.test/"',
        # CNAMEs that lead nowhere: inside the zone, into someone else's zone (can be taken over), and in a circle.
        "dangling CNAME gone",
        "takeover CNAME abandoned.cloud.test.",
        "live CNAME live.cloud.test.",
        "loop1 CNAME loop2",
        "loop2 CNAME loop1",
        "delegated NS ns9.nic.test.",
        # SPF (RFC 7208): more than ten look-ups, a syntax error, none, two, +all, an include of nothing.
        *_mail_domain("spf-many", f'"v=spf1 {" ".join(f"a:a{n}.spf-many.bad.test" for n in range(1, 12))} -all"'),
        *(f"a{n}.spf-many A {v4(topology.MAIL_BAD)}" for n in range(1, 12)),
        *_mail_domain("spf-syntax", '"v=spf1 ipv4:10.77.0.26 -alll"'),
        *_mail_domain("spf-none", None),
        *_mail_domain("spf-two", '"v=spf1 mx -all"', '"v=spf1 a -all"'),
        *_mail_domain("spf-plusall", '"v=spf1 +all"'),
        *_mail_domain("spf-neutral", '"v=spf1 mx ?all"'),
        *_mail_domain("spf-void", '"v=spf1 a:no1.bad.test a:no2.bad.test a:no3.bad.test -all"'),
        *_mail_domain("spf-include", '"v=spf1 include:nothing.bad.test -all"'),
        '_dmarc.spf-syntax TXT "v=DMARC1; p=oops"',
        '_dmarc.spf-two TXT "v=DMARC1; p=reject"',
        '_dmarc.spf-two TXT "v=DMARC1; p=none"',
        # Names that lead a scanner where it must not go.
        "localhost A 127.0.0.1",
        "localhost AAAA ::1",
        "metadata A 169.254.169.254",
        "unspecified A 0.0.0.0",
        "mapped AAAA ::ffff:127.0.0.1",
        f"multi A {v4(topology.WEB['www.bad.test'])}",
        "multi A 127.0.0.1",
        f"*.wild A {v4(topology.WEB['www.bad.test'])}",
    ]
    return Zone(origin, zone_text(origin, records, nameservers=servers), transfer=True, nameservers=servers)


def _mail_domain(label: str, *spf: str | None) -> list[str]:
    return [f"{label} MX 10 mail.bad.test.", *(f"{label} TXT {text}" for text in spf if text)]


def _lame() -> Zone:
    origin = "lame.test."
    servers = (*SERVERS, "ns3.nic.test.")
    right = zone_text(origin, address_records(origin), nameservers=servers)
    stale = [
        line.replace(v4(topology.WEB["www.lame.test"]), v4(topology.WEB["www.bad.test"]))
        for line in address_records(origin)
    ]
    other = zone_text(origin, stale, nameservers=SERVERS, serial=LAME_OLD_SERIAL)
    return Zone(origin, right, nameservers=servers, extra={"ns2": other})


def many_zone(count: int, generation: int = 0) -> Zone:
    """The zone of the many hosts h001, h002, ...; `generation` raises its serial."""
    origin = "many.test."
    records = [f"{topology.many_name(i)}. A {topology.many_address(i)}" for i in range(1, count + 1)]
    return Zone(origin, zone_text(origin, records, serial=today_serial() + generation))


def parent_zone(children: Iterable[Zone], ds: dict[str, list[str]]) -> Zone:
    """The zone `test.`: delegations of the children with their DS records, and the name servers' addresses.

    Args:
        ds: origin -> DS record data ("tag algorithm type digest") to publish.
    """
    records = address_records("nic.test.")
    records += [f"a.nic A {v4(topology.ROOT)}", f"a.nic AAAA {v6(topology.ROOT)}"]
    records += [f"rebind.nic A {v4(topology.REBIND)}", f"rebind.nic AAAA {v6(topology.REBIND)}"]
    records += ["rebind NS rebind.nic"]
    for child in children:
        records += [f"{child.origin} NS {server}" for server in child.nameservers]
        records += [f"{child.origin} DS {data}" for data in ds.get(child.origin, [])]
    return Zone("test.", zone_text("test.", records, nameservers=("a.nic.test.",)), signed="nsec", ds="none")


def root_zone() -> Zone:
    """An unsigned root that knows `test.` and the two reverse zones, and says NXDOMAIN to everything else."""
    records = [
        "test. NS a.nic.test.",
        *(f"{origin} NS {server}" for origin in (REVERSE_V4, REVERSE_V6) for server in SERVERS),
        f"a.nic.test. A {v4(topology.ROOT)}",
        f"a.nic.test. AAAA {v6(topology.ROOT)}",
    ]
    return Zone(".", zone_text(".", records, nameservers=("a.nic.test.",)))


REVERSE_V4 = "77.10.in-addr.arpa."
REVERSE_V6 = "7.7.d.f.ip6.arpa."


def reverse_zones() -> list[Zone]:
    """PTR records: right ones, one that names another host (ssh.bad.test's), and none for the bad web server."""
    pointers = {
        topology.NS1: "ns1.nic.test.",
        topology.NS2: "ns2.nic.test.",
        topology.NS3: "ns3.nic.test.",
        topology.SSH_GOOD: "ssh.good.test.",
        topology.SSH_BAD: "elsewhere.cloud.test.",
        topology.MAIL_GOOD: "mail.good.test.",
        topology.WEB["www.good.test"]: "www.good.test.",
    }
    four = [f"{number}.0 PTR {name}" for number, name in pointers.items()]
    six = [
        ".".join(reversed(f"{number:0>4}")) + ".0" * 24 + f".{REVERSE_V6} PTR {name}"
        for number, name in pointers.items()
        if number != topology.SSH_BAD
    ]
    return [Zone(REVERSE_V4, zone_text(REVERSE_V4, four)), Zone(REVERSE_V6, zone_text(REVERSE_V6, six))]


def _dkim_rsa(bits: int) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _strings(f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}")


def _dkim_ed25519() -> str:
    raw = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return _strings(f"v=DKIM1; k=ed25519; p={base64.b64encode(raw).decode()}")


def _strings(text: str) -> str:
    """TXT data cut into strings of at most 255 bytes (RFC 1035, section 3.3)."""
    return " ".join(f'"{text[i : i + 255]}"' for i in range(0, len(text), 255))
