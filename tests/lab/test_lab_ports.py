"""The scanners of ports against the laboratory's hosts: which ports are open where, and what greets there."""

from __future__ import annotations

import os
import shutil

import pytest
from record_ports import ODD, ODD_PORTS, open_port
from scanning import Target, parsed, scan

from kattegat.model.work import Result
from kattegat.plugin import Evidence, Found, IPAddress, Link, Network, NotMeasured, Service
from kattegat.plugins.ports import Banner, LiveHosts, NmapService, OpenPort, PortScan
from kattegat.plugins.ports.numbers import USUAL, compact
from lab import Lab

pytestmark = [pytest.mark.lab]

#: address -> its open TCP ports among the usual ones
HOSTS: dict[str, list[int]] = {
    "10.77.0.10": [53],
    "10.77.0.22": [22],
    "10.77.0.23": [22],
    "10.77.0.25": [25, 465, 587],
    "10.77.0.26": [25],
    "10.77.0.53": [53],
    "10.77.0.80": [80, 443],
    "10.77.0.87": [80],
    "10.77.0.88": [21, 23, 3306, 5432, 6379, 8080, 9200],
    "10.77.0.89": [80, 443],
    "fd77::22": [22],
    "fd77::25": [25, 465, 587],
    "fd77::80": [80, 443],
}


def target(scanner: str, address: str) -> Target:
    return (scanner, "IPAddress", f"internet|{address}")


def outcome(scanner: str, address: str, result: Result) -> tuple[list[int], PortScan]:
    """The open ports, each with its link to a service, and what was asked."""
    *found, last = parsed(target(scanner, address), result)
    subject = IPAddress(address)
    numbers: list[int] = []
    for entry in found:
        assert isinstance(entry, Found)
        assert isinstance(entry.fact, OpenPort)
        numbers.append(entry.fact.port)
        assert entry.links == (Link("has_service", subject, Service(subject, "tcp", entry.fact.port)),)
    assert isinstance(last, Found)
    assert isinstance(last.fact, PortScan)
    return numbers, last.fact


def test_the_usual_ports_of_every_host(lab: Lab) -> None:
    results = scan(lab, [target("usual-ports", address) for address in HOSTS], seconds=200)
    for (address, ports), result in zip(HOSTS.items(), results, strict=True):
        asked = PortScan(asked=compact(USUAL), silent="", closed=len(USUAL) - len(ports))
        assert outcome("usual-ports", address, result) == (ports, asked), address
        assert result.detail.contacted == [address]


def test_a_visitor_s_ports_of_every_host(lab: Lab) -> None:
    results = scan(lab, [target("visitor-ports", address) for address in HOSTS])
    for (address, ports), result in zip(HOSTS.items(), results, strict=True):
        seen = [port for port in ports if port in (22, 25, 80, 443)]
        asked = PortScan(asked="22,25,80,443", silent="", closed=4 - len(seen))
        assert outcome("visitor-ports", address, result) == (seen, asked), address


def test_hosts_that_do_not_answer_are_not_measured(lab: Lab) -> None:
    filtered, absent = scan(lab, [target("visitor-ports", address) for address in ("10.77.0.90", "10.77.0.199")])
    assert (filtered.outcome, filtered.evidence) == (absent.outcome, absent.evidence) == ("failed", b"")
    assert "None of 4 ports of 10.77.0.90 gave an answer (no answer)" in filtered.reason
    # What the kernel says of an absent neighbour depends on how long it has been looking.
    assert "None of 4 ports of 10.77.0.199 gave an answer (no " in absent.reason


def test_the_hosts_of_networks(lab: Lab) -> None:
    numbers = {
        "10.77.0.80/28": [80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 91, 92],
        "10.77.0.22/31": [22, 23],
        "fd77::20/123": [22, 23, 25, 26],
    }
    targets: list[Target] = [("network-hosts", "Network", f"internet|{cidr}") for cidr in numbers]
    nobody: Target = ("network-hosts", "Network", "internet|10.77.0.200/30")
    *results, empty = scan(lab, [*targets, nobody])
    for (cidr, wanted), aim, result in zip(numbers.items(), targets, results, strict=True):
        network = Network(cidr)
        hosts = [f"{'fd77::' if ':' in cidr else '10.77.0.'}{number}" for number in wanted]
        assert parsed(aim, result) == [
            Found(
                network,
                LiveHosts(addresses=hosts, asked=network.network.num_addresses),
                "",
                tuple(Link("contains", network, IPAddress(host)) for host in hosts),
            )
        ]
    assert [(entry.kind, entry.item) for entry in parsed(nobody, empty) if isinstance(entry, NotMeasured)] == [
        ("LiveHosts", None)
    ]


def test_greetings(lab: Lab) -> None:
    wanted = {
        "10.77.0.88|tcp/21": ("220 (vsFTPd 2.3.4)\r\n", "vsFTPd", "2.3.4"),
        "10.77.0.88|tcp/6379": None,
        "10.77.0.25|tcp/25": ("220 mail.good.test ESMTP\r\n", "", ""),
        "10.77.0.25|tcp/465": None,
        "fd77::26|tcp/25": ("220 mail.bad.test ESMTP Postfix 3.1.0\r\n", "Postfix", "3.1.0"),
    }
    targets: list[Target] = [("banner", "Service", f"internet|{key}") for key in wanted]
    for aim, expected, result in zip(targets, wanted.values(), scan(lab, targets), strict=True):
        found = [entry.fact for entry in parsed(aim, result) if isinstance(entry, Found)]
        if expected is None:
            assert parsed(aim, result) == []
        else:
            assert found == [Banner(text=expected[0], product=expected[1], version=expected[2])]
    (down,) = scan(lab, [("banner", "Service", "internet|10.77.0.22|tcp/25")])
    assert (down.outcome, down.reason) == ("failed", "10.77.0.22 port 25 refused the connection.")


def test_nmap_says_what_listens(lab: Lab) -> None:
    if shutil.which("nmap") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("nmap is missing; run tests/lab/install-packages")
        pytest.skip("nmap is missing")
    aims = [target("nmap-services", "10.77.0.88"), target("nmap-services", "10.77.0.22")]
    result, nothing = scan(lab, aims, known=[open_port(ODD_PORTS, port) for port in ODD if port != 6379], seconds=200)
    services = {
        entry.asset.port: entry.fact
        for entry in parsed(aims[0], result)
        if isinstance(entry, Found) and isinstance(entry.asset, Service) and isinstance(entry.fact, NmapService)
    }
    assert sorted(services) == [21, 23, 3306, 5432, 8080, 9200]
    assert (services[21].product, services[21].version, services[21].confidence) == ("vsftpd", "2.3.4", 10)
    assert services[8080].product == "nginx"
    assert (result.detail.tool, result.detail.contacted) == ("nmap", ["10.77.0.88"])
    # No port of it is known to be open, so nothing is sent to it.
    assert (nothing.outcome, nothing.detail.contacted) == ("ok", [])
    assert Evidence.unpack(nothing.evidence).first("none") is not None
