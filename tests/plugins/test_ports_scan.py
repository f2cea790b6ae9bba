"""The ports plugin's parsers on recorded evidence of real hosts, and its scanners on listeners of this machine."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.model import assets
from kattegat.model.work import Job, Limits, Result
from kattegat.plugin import Blocked, Evidence, Found, IPAddress, Link, Network, NotMeasured, NotReached, Part, Service
from kattegat.plugins import ports
from kattegat.plugins.ports import (
    Banner,
    LiveHosts,
    NetworkHostsScanner,
    NmapService,
    OpenPort,
    PortScan,
    UsualPortsScanner,
    VisitorPortsScanner,
)
from kattegat.plugins.ports.greeting import banner
from kattegat.plugins.ports.numbers import USUAL, compact, spread
from kattegat.registry import Plugin, Registry
from kattegat.runner.job import run_job
from kattegat.settings import load

FOLDER = Path(__file__).parent / "recorded" / "ports"
FILES = sorted(FOLDER.glob("*.evidence"))
ADDRESS = IPAddress("10.77.0.88")
NETWORK = Network("10.77.0.80/28")
SUBJECTS: dict[str, Any] = {
    "visitor-ports": ADDRESS,
    "usual-ports": ADDRESS,
    "nmap-services": ADDRESS,
    "network-hosts": NETWORK,
    "banner": Service(ADDRESS, "tcp", 21),
}
# Two negotiations of options (RFC 854) come before the words.
TELNET = "\ufffd" * 5 + " lab-router login: "
REGISTRY = Registry([Plugin("ports", ports)])


def recorded(scanner: str, case: str) -> Evidence:
    return Evidence.unpack((FOLDER / f"{scanner}--{case}.evidence").read_bytes())


def parse(scanner: str, evidence: Evidence, asset: Any = None) -> list[Found | NotMeasured]:
    implementation = REGISTRY.scanner(scanner).implementation()
    # As the worker reads it: packed and read back.
    found = list(implementation.parse(asset or SUBJECTS[scanner], Evidence.unpack(evidence.pack())))
    assert all(isinstance(entry, Found | NotMeasured) for entry in found)
    return found


def answers(results: dict[int, str]) -> Evidence:
    return Evidence((Part("ports", json.dumps(results).encode()),))


# --- ports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "host"), [("web", "10.77.0.80"), ("web-ipv6", "fd77::80")])
def test_a_visitor_finds_the_web(case: str, host: str) -> None:
    address = IPAddress(host)
    assert parse("visitor-ports", recorded("visitor-ports", case), address) == [
        *(
            Found(
                address,
                OpenPort(protocol="tcp", port=port),
                f"tcp/{port}",
                (Link("has_service", address, Service(address, "tcp", port)),),
            )
            for port in (80, 443)
        ),
        Found(address, PortScan(asked="22,25,80,443", silent="", closed=2)),
    ]


def test_nothing_open_is_a_result() -> None:
    assert parse("visitor-ports", recorded("visitor-ports", "none-open")) == [
        Found(ADDRESS, PortScan(asked="22,25,80,443", silent="", closed=4))
    ]


@pytest.mark.parametrize(
    ("case", "expected"), [("odd", [21, 23, 3306, 5432, 6379, 8080, 9200]), ("mail", [25, 465, 587])]
)
def test_the_usual_ports(case: str, expected: list[int]) -> None:
    *found, scan = parse("usual-ports", recorded("usual-ports", case))
    assert [entry.fact.port for entry in found] == expected  # type: ignore[union-attr]
    assert scan == Found(ADDRESS, PortScan(asked=compact(USUAL), silent="", closed=len(USUAL) - len(expected)))


def test_silent_and_rejected_ports_are_measured_and_not_open() -> None:
    reject = "10.77.0.88 port 25 can't be reached: no route to the host (it is down, or a firewall rejects)."
    odd = "10.77.0.88 port 80 can't be reached: a firewall on this machine forbids it."
    assert parse("visitor-ports", answers({22: "no answer", 25: reject, 80: odd, 443: "closed"})) == [
        NotMeasured("OpenPort", odd, "tcp/80"),
        Found(ADDRESS, PortScan(asked="22,25,80,443", silent="22,25", closed=1)),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b'{"x": "open"}',
        b'{"0": "open"}',
        b'{"65536": "open"}',
        b"[" * 100_000,
        b"\xff",
        b"{}",
    ],
)
@pytest.mark.parametrize("scanner", ["visitor-ports", "usual-ports"])
def test_damaged_ports_are_not_measured(scanner: str, content: bytes) -> None:
    reason = "the evidence can't be read"
    expected = [NotMeasured("OpenPort", reason), NotMeasured("PortScan", reason)]
    assert parse(scanner, Evidence((Part("ports", content),))) == expected


class Answers:
    """A `Net` that answers for ports as told: each call of `ports` takes the next table."""

    def __init__(self, *tables: dict[int, str], **options: Any) -> None:
        self.tables = list(tables)
        self.asked: list[list[int]] = []
        self.options = options

    async def ports(self, address: str, wanted: Sequence[int]) -> AsyncIterator[tuple[int, str]]:
        self.asked.append(list(wanted))
        table = self.tables.pop(0)
        for port in wanted:
            yield port, table.get(port, "closed")


def fetch(scanner: Any, asset: Any, net: Any) -> Evidence:
    found = asyncio.run(scanner().fetch(asset, net))
    assert isinstance(found, Evidence)
    return found


def test_a_host_of_which_every_port_is_silent_is_not_reached() -> None:
    net = Answers(dict.fromkeys((22, 25, 80, 443), "no answer"))
    with pytest.raises(NotReached, match=r"None of 4 ports of 10\.77\.0\.88 gave an answer"):
        fetch(VisitorPortsScanner, ADDRESS, net)
    assert len(net.asked) == 1


def test_a_host_that_shuts_the_scanner_out_midway_is_not_read_as_closed() -> None:
    table = {22: "open"} | {port: "no answer" for port in USUAL if port > 600}
    net = Answers(table, {22: "no answer"})
    with pytest.raises(NotReached, match="stopped answering during the scan"):
        fetch(UsualPortsScanner, ADDRESS, net)
    assert net.asked[1] == [22]


def test_silent_ports_of_a_host_that_goes_on_answering_stand() -> None:
    net = Answers({22: "open", 25: "no answer", 80: "closed", 443: "no answer"}, {22: "open"})
    assert parse("visitor-ports", fetch(VisitorPortsScanner, ADDRESS, net))[-1] == Found(
        ADDRESS, PortScan(asked="22,25,80,443", silent="25,443", closed=1)
    )


def test_more_ports_can_be_asked() -> None:
    net = Answers({}, more=("61234", "22", "no port", "70000", "0"))
    fetch(UsualPortsScanner, ADDRESS, net)
    assert net.asked == [[*USUAL, 61234]]


# --- hosts of a network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "network", "numbers"),
    [
        ("web", NETWORK, [80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 91, 92]),
        ("web-ipv6", Network("fd77::80/124"), [80, 81, 82, 83, 84, 85, 86, 87, 88, 89]),
    ],
)
def test_the_hosts_of_a_network(case: str, network: Network, numbers: list[int]) -> None:
    (found,) = parse("network-hosts", recorded("network-hosts", case), network)
    start = "fd77::" if "ipv6" in case else "10.77.0."
    hosts = [f"{start}{number}" for number in numbers]
    assert isinstance(found, Found)
    assert found.fact == LiveHosts(addresses=hosts, asked=16)
    assert found.links == tuple(Link("contains", network, IPAddress(host)) for host in hosts)


def test_a_network_of_which_nobody_answers_is_not_measured() -> None:
    reason = "none of 4 addresses of 10.77.0.200/30 gave an answer on a visitor's port"
    network = Network("10.77.0.200/30")
    assert parse("network-hosts", recorded("network-hosts", "nobody"), network) == [NotMeasured("LiveHosts", reason)]


def test_too_large_a_network_is_refused() -> None:
    with pytest.raises(Blocked, match="8,192 addresses, more than 4,096"):
        fetch(NetworkHostsScanner, Network("10.64.0.0/19"), Answers())


def test_a_machine_that_can_not_go_on_fails_the_scan_of_a_network() -> None:
    class Broken(Answers):
        async def ports(self, address: str, wanted: Sequence[int]) -> AsyncIterator[tuple[int, str]]:
            self.asked.append(list(wanted))
            raise NotReached("This machine could not open a connection.")
            yield 0, ""

    net = Broken()
    with pytest.raises(NotReached, match="could not open"):
        fetch(NetworkHostsScanner, Network("10.64.0.0/24"), net)
    assert len(net.asked) == 1


def test_refused_addresses_are_left_out_and_counted() -> None:
    class Guarded(Answers):
        async def ports(self, address: str, wanted: Sequence[int]) -> AsyncIterator[tuple[int, str]]:
            if address != "10.64.0.2":
                raise Blocked(f"{address} may not be contacted.")
            for port in wanted:
                yield port, "closed"

    evidence = fetch(NetworkHostsScanner, Network("10.64.0.0/30"), Guarded())
    assert evidence.parts[0].notes == {"asked": 1, "refused": 3}
    (found,) = parse("network-hosts", evidence, Network("10.64.0.0/30"))
    assert isinstance(found, Found)
    assert found.fact == LiveHosts(addresses=["10.64.0.2"], asked=1)


@pytest.mark.parametrize(
    "content", [b"", b"1", b'{"x": {}}', b'{"192.0.2.1": {}}', b'{"fd77::1": {}}', b"[" * 100_000, b"\xff"]
)
def test_damaged_hosts_are_not_measured(content: bytes) -> None:
    expected = [NotMeasured("LiveHosts", "the evidence can't be read")]
    assert parse("network-hosts", Evidence((Part("hosts", content),))) == expected


# --- greetings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("ftp", ("220 (vsFTPd 2.3.4)\r\n", "vsFTPd", "2.3.4")),
        ("telnet", (TELNET, "", "")),
        ("mysql", ("N\ufffd\ufffd\ufffd\n5.5.20", "MySQL", "5.5.20")),
        ("postfix", ("220 mail.bad.test ESMTP Postfix 3.1.0\r\n", "Postfix", "3.1.0")),
        ("ssh", ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10\r\n", "OpenSSH", "9.2p1")),
    ],
)
def test_greetings(case: str, expected: tuple[str, str, str]) -> None:
    (found,) = parse("banner", recorded("banner", case))
    assert isinstance(found, Found)
    text, product, version = expected
    assert found.fact == Banner(text=text, product=product, version=version)


def test_a_service_that_waits_for_its_client_has_no_greeting() -> None:
    assert parse("banner", recorded("banner", "silent")) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b"220 mx.example.org ESMTP Exim 4.96 Sun, 22 Nov 2026 13:45:07 +0000\r\n",
            ("220 mx.example.org ESMTP Exim 4.96 <date>\r\n", "Exim", "4.96"),
        ),
        (b"220 ESMTP Sendmail; Sun, 1 Nov 2026 03:05:07 GMT\r\n", ("220 ESMTP Sendmail; <date>\r\n", "Sendmail", "")),
        (b"220 ProFTPD 1.3.5e. Server\r\n", ("220 ProFTPD 1.3.5e. Server\r\n", "ProFTPD", "1.3.5")),
        (b"* OK [IMAP4rev1] Dovecot ready.\r\n", ("* OK [IMAP4rev1] Dovecot ready.\r\n", "Dovecot", "")),
        (
            b"Z\x00\x00\x00\n5.5.5-10.6.12-MariaDB-0+deb12u1\x00\x07\x00\x00\x00salt",
            ("Z\ufffd\ufffd\ufffd\n5.5.5-10.6.12-MariaDB", "MariaDB", "10.6.12"),
        ),
        (b"\x1b[2Jhello\x00\x9b", ("\ufffd[2Jhello\ufffd\ufffd", "", "")),
        (b"x" * 5000, ("x" * 1024, "", "")),
    ],
)  # fmt: skip
def test_what_a_greeting_tells(content: bytes, expected: tuple[str, str, str]) -> None:
    found = banner(content)
    text, product, version = expected
    assert (found.product, found.version) == (product, version)
    assert found.text == text


def test_a_greeting_is_the_same_at_every_visit() -> None:
    first = b"J\x00\x00\x00\n8.0.36\x00\x0b\x00\x00\x00kL9!x7$a\x00\xff\xf7"
    second = b"J\x00\x00\x00\n8.0.36\x00\x57\x02\x00\x00Qw3&bb_z\x00\xff\xf7"
    assert banner(first) == banner(second)
    assert banner(b"220 a Sun, 22 Nov 2026 13:45:07 +0000") == banner(b"220 a Mon, 23 Nov 2026 03:00:00 +0100")


@contextmanager
def listener(answer: bytes, reset: bool = False) -> Iterator[int]:
    """Says `answer` to each visitor and closes, or resets the connection."""
    opened = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = opened.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.sendall(answer)
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(opened.getsockname()[1])
    finally:
        opened.shutdown(socket.SHUT_RDWR)
        opened.close()
        thread.join()


def scan(scanner: str, asset: assets.Asset) -> Result:
    job = Job(
        task_id=1,
        lease_token=1,
        organisation="test",
        scanner=scanner,
        scanner_version=REGISTRY.scanner(scanner).version,
        asset_type=asset.type,
        asset_key=asset.key,
        clearance=2,
        limits=Limits("internet", own_networks=["127.0.0.0/8"]),
    )
    return asyncio.run(run_job(job, REGISTRY, load({"KAT_DNS_SERVER": "127.0.0.1:9"})))


def greeted(answer: bytes, reset: bool = False) -> Result:
    with listener(answer, reset) as port:
        return scan("banner", Service(IPAddress("127.0.0.1"), "tcp", port))


def test_a_real_greeting_is_read() -> None:
    result = greeted(b"220 (vsFTPd 3.0.5)\r\nmore")
    (found,) = parse("banner", Evidence.unpack(result.evidence))
    assert isinstance(found, Found)
    assert (found.fact.product, found.fact.version) == ("vsFTPd", "3.0.5")  # type: ignore[attr-defined]


def test_a_connection_that_is_closed_at_once_says_nothing_about_the_greeting() -> None:
    result = greeted(b"")
    assert parse("banner", Evidence.unpack(result.evidence)) == [
        NotMeasured("Banner", "it closed the connection without a word")
    ]


def test_a_connection_that_is_reset_fails_the_scan() -> None:
    result = greeted(b"", reset=True)
    assert (result.outcome, result.evidence) == ("failed", b"")
    assert "broke off" in result.reason


def test_a_real_scan_of_ports() -> None:
    result = scan("visitor-ports", IPAddress("127.0.0.1"))
    assert result.outcome == "ok"
    scanned = parse("visitor-ports", Evidence.unpack(result.evidence), IPAddress("127.0.0.1"))[-1]
    assert isinstance(scanned, Found)
    assert isinstance(scanned.fact, PortScan)
    assert spread(scanned.fact.asked) == {22, 25, 80, 443}
    assert result.detail.contacted == ["127.0.0.1"]


# --- nmap ------------------------------------------------------------------------------------------------------------


def nmap(case: str) -> dict[int, NmapService]:
    found = parse("nmap-services", recorded("nmap-services", case))
    services: dict[int, NmapService] = {}
    for entry in found:
        assert isinstance(entry, Found)
        assert isinstance(entry.asset, Service)
        assert isinstance(entry.fact, NmapService)
        assert entry.links == (Link("has_service", ADDRESS, entry.asset),)
        services[entry.asset.port] = entry.fact
    return services


def test_what_nmap_says() -> None:
    services = nmap("odd")
    assert {port: (fact.name, fact.product, fact.version, fact.confidence) for port, fact in services.items()} == {
        21: ("ftp", "vsftpd", "2.3.4", 10),
        23: ("telnet", "", "", 10),
        3306: ("mysql", "MySQL", "5.5.20-log", 10),
        5432: ("postgresql", "", "", 3),
        6379: ("redis", "", "", 3),
        8080: ("http", "nginx", "1.22.1", 10),
        9200: ("http", "nginx", "", 10),
    }
    assert services[21].cpes == ["cpe:/a:vsftpd:vsftpd:2.3.4"]
    assert nmap("ssh-ipv6")[22].extra == "protocol 2.0"


def test_nmap_is_not_asked_when_no_port_is_known() -> None:
    assert parse("nmap-services", recorded("nmap-services", "nothing-known")) == []


def test_a_port_that_keeps_silent_for_nmap_is_not_measured() -> None:
    xml = (
        b'<nmaprun><host><ports><port protocol="tcp" portid="21"><state state="filtered"/></port>'
        b'<port protocol="tcp" portid="23"><state state="closed"/></port>'
        b'<port protocol="udp" portid="53"><state state="open"/><service name="domain"/></port>'
        b'<port protocol="tcp" portid="99999"><state state="open"/><service name="x"/></port></ports></host></nmaprun>'
    )
    assert parse("nmap-services", Evidence((Part("nmap", xml),))) == [
        NotMeasured("NmapService", "nmap got no answer from port 21", about=Service(ADDRESS, "tcp", 21))
    ]


def test_what_came_before_the_cut_stands() -> None:
    whole = recorded("nmap-services", "odd").parts[0].content
    cut = whole[: whole.index(b'portid="3306"')]
    found = parse("nmap-services", Evidence((Part("nmap", cut),)))
    assert isinstance(found[0], NotMeasured)
    assert found[0].item is None
    assert [entry.asset.port for entry in found[1:]] == [21, 23]  # type: ignore[union-attr]


def test_xml_with_entities_is_not_read() -> None:
    xml = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><nmaprun>&b;</nmaprun>'
    (found,) = parse("nmap-services", Evidence((Part("nmap", xml),)))
    assert isinstance(found, NotMeasured)


# --- damaged evidence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scanner", sorted(SUBJECTS))
def test_evidence_without_parts_is_not_measured(scanner: str) -> None:
    found = parse(scanner, Evidence())
    assert found
    assert all(isinstance(entry, NotMeasured) for entry in found)


@given(st.data())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_parsers_never_raise_on_mutated_evidence(data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(FILES))
    part = Evidence.unpack(file.read_bytes()).parts[0]
    content = bytearray(part.content)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(max_size=8))
        elif content:
            content[at] = data.draw(st.integers(0, 255))
    notes = data.draw(st.sampled_from([dict(part.notes), {}, {"asked": "x", "ended": 1}]))
    name = data.draw(st.sampled_from([part.name, part.name, "ports", "hosts", "banner", "nmap", "none"]))
    parse(file.name.partition("--")[0], Evidence((Part(name, bytes(content), notes),)))


@pytest.mark.parametrize(
    ("ports_", "text"), [([], ""), ([80], "80"), ([1, 2, 3, 80, 82, 81], "1-3,80-82"), ([443, 443, 442], "442-443")]
)
def test_ports_as_ranges(ports_: list[int], text: str) -> None:
    assert compact(ports_) == text
    assert spread(text) == set(ports_)


@pytest.mark.parametrize("text", ["x", "1-", "-", "0", "65536", "1-99999999", "5-3", "²", "1--2", ","])
def test_what_is_no_range_is_left_out(text: str) -> None:
    assert len(spread(text)) <= 1
