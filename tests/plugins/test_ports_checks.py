"""Checks of open ports: what passes, what fails with which items, and what is unknown since nobody asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kattegat.plugin import (
    Context,
    Evidence,
    Fact,
    Facts,
    Fail,
    Found,
    IPAddress,
    Known,
    Pass,
    Service,
    Unknown,
    Verdict,
    declared,
)
from kattegat.plugins import ports
from kattegat.plugins.ports import Banner, OpenPort, PortScan, UsualPortsScanner, VisitorPortsScanner
from kattegat.plugins.ports.numbers import COMMON, USUAL, VISITOR, compact

ADDRESS = IPAddress("192.0.2.1")
NOW = datetime(2026, 11, 1, tzinfo=UTC)
FOLDER = Path(__file__).parent / "recorded" / "ports"
CHECKS = {spec.name: spec for spec in declared(ports)[1]}
OF_PORTS = [name for name, spec in CHECKS.items() if spec.about is IPAddress]
VISITED = "only TCP ports 22,25,80,443 were asked (usual-ports asks more, and needs clearance 2)"


def source(scanner: str, open_ports: list[int], asked: str) -> tuple[list[Known[Any]], list[Known[Any]]]:
    """The facts that a scan says: open ports, and what it asked."""
    return (
        [
            Known(ADDRESS, OpenPort(protocol="tcp", port=port), f"tcp/{port}", scanner, "internet", NOW)
            for port in open_ports
        ],
        [Known(ADDRESS, PortScan(asked=asked, silent="", closed=0), "", scanner, "internet", NOW)],
    )


def judge(
    name: str,
    *sources: tuple[list[Known[Any]], list[Known[Any]]],
    unmeasured: tuple[str, ...] = (),
    **options: tuple[str, ...],
) -> list[tuple[str, str]] | str:
    """The items as (key, sentence); "" for pass, the reason for unknown."""
    spec = CHECKS[name]
    defaults: dict[str, Any] = {option.name: option.default for option in spec.options}
    known = Facts([entry for found, _ in sources for entry in found], unmeasured)
    scans = Facts([entry for _, scan in sources for entry in scan])
    return said(spec.function(Context(ADDRESS, NOW, defaults | options), known, scans))


def said(result: Verdict) -> list[tuple[str, str]] | str:
    if isinstance(result, Fail):
        return [(item.key, str(item)) for item in result.items]
    assert isinstance(result, Pass | Unknown)
    return result.reason if isinstance(result, Unknown) else ""


def usual(*open_ports: int) -> tuple[list[Known[Any]], list[Known[Any]]]:
    return source("usual-ports", list(open_ports), compact(USUAL))


def visitor(*open_ports: int) -> tuple[list[Known[Any]], list[Known[Any]]]:
    return source("visitor-ports", list(open_ports), compact(VISITOR))


def item(port: int, name: str = "") -> tuple[str, str]:
    return f"tcp/{port}", f"TCP port {port} ({name}) is open" if name else f"TCP port {port} is open"


@pytest.mark.parametrize(
    ("name", "open_ports", "items"),
    [
        ("open-sysadmin-port", [22, 80], ""),  # SSH has checks of its own
        ("open-sysadmin-port", [23, 21, 5900], [item(21), item(23), item(5900)]),
        ("open-database-port", [3306, 80, 6379], [item(3306), item(6379)]),
        ("open-database-port", [80, 7001], ""),
        ("open-remote-desktop-port", [3389], [item(3389)]),
        ("open-remote-desktop-port", [443], ""),
        ("open-internal-port", [445, 2375], [item(445, "SMB"), item(2375, "Docker without TLS")]),
        ("open-internal-port", [22, 80, 443], ""),
        ("cleartext-service", [21, 143, 993], [item(21, "FTP"), item(143, "IMAP")]),
        ("cleartext-service", [995], ""),
        ("uncommon-open-port", [4444, 8080, 22, 443], [item(4444), item(8080)]),
        ("uncommon-open-port", [22, 25, 53, 80, 443, 993], ""),
        ("uncommon-open-port", [23, 3306, 3389, 445, 110], ""),  # other checks judge these
    ],
)
def test_open_ports(name: str, open_ports: list[int], items: list[tuple[str, str]] | str) -> None:
    assert judge(name, usual(*open_ports)) == items


@pytest.mark.parametrize("name", OF_PORTS)
def test_four_ports_are_not_enough_to_pass(name: str) -> None:
    assert judge(name, visitor(80, 443)) == VISITED


@pytest.mark.parametrize("name", OF_PORTS)
def test_both_scans_together_pass(name: str) -> None:
    assert judge(name, visitor(80, 443), usual(80, 443)) == ""


def test_a_port_found_twice_is_one_item() -> None:
    assert judge("open-database-port", usual(3306), source("third-party", [3306], "3306")) == [item(3306)]


def test_a_port_that_only_the_larger_scan_asks_stays() -> None:
    assert judge("open-database-port", visitor(80), usual(80, 5432)) == [item(5432)]


def test_what_is_open_is_said_whatever_was_not_asked() -> None:
    assert judge("open-database-port", source("third-party", [5432], "5432")) == [item(5432)]


def test_a_port_that_could_not_be_measured_is_unknown_where_it_matters() -> None:
    gap = "tcp/3306: 192.0.2.1 port 3306 can't be reached: a firewall on this machine forbids it."
    assert judge("open-database-port", usual(80), unmeasured=(gap,)) == gap
    assert judge("open-remote-desktop-port", usual(80), unmeasured=(gap,)) == ""
    assert judge("open-database-port", usual(5432), unmeasured=(gap,)) == [item(5432)]
    assert judge("open-remote-desktop-port", usual(80), unmeasured=("the evidence can't be read",)) == (
        "the evidence can't be read"
    )


def test_the_lists_are_the_organisation_s() -> None:
    assert judge("open-sysadmin-port", usual(21, 22, 23), ports=("22", "x", "99999")) == [item(22)]
    assert judge("open-database-port", usual(3306, 8080), ports=("8080",)) == [item(8080)]
    assert judge("open-remote-desktop-port", usual(3389), ports=()) == ""
    common = tuple(str(port) for port in COMMON | {22, 8080})
    assert judge("uncommon-open-port", usual(22, 8080, 8081), common=common) == [item(8081)]


def test_a_port_of_one_s_own_that_no_scan_asks_is_named() -> None:
    assert judge("open-sysadmin-port", usual(80), ports=("61234", "22")) == (
        "TCP ports 61234 were not asked (add them to the option usual-ports.more)"
    )


def test_a_long_reason_is_shortened() -> None:
    asked = compact(range(1, 100, 2))
    reason = judge("open-remote-desktop-port", source("usual-ports", [], asked))
    assert reason == (
        "only TCP ports 1,3,5,7,9,11,13,15,17,19,21,23 and 38 more ranges were asked"
        " (usual-ports asks more, and needs clearance 2)"
    )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            "odd",
            {
                "open-sysadmin-port": ["tcp/21", "tcp/23"],
                "open-database-port": ["tcp/3306", "tcp/5432", "tcp/6379", "tcp/9200"],
                "open-remote-desktop-port": "",
                "open-internal-port": "",
                "cleartext-service": ["tcp/21", "tcp/23"],
                "uncommon-open-port": ["tcp/8080"],
            },
        ),
        ("mail", dict.fromkeys(OF_PORTS, "")),
    ],
)
def test_real_hosts(case: str, expected: dict[str, list[str] | str]) -> None:
    evidence = Evidence.unpack((FOLDER / f"usual-ports--{case}.evidence").read_bytes())
    found: dict[type[Fact], list[Known[Any]]] = {OpenPort: [], PortScan: []}
    for entry in UsualPortsScanner().parse(ADDRESS, evidence):
        assert isinstance(entry, Found)
        found[type(entry.fact)].append(Known(ADDRESS, entry.fact, entry.item, "usual-ports", "internet", NOW))
    verdicts = {name: judge(name, (found[OpenPort], found[PortScan])) for name in OF_PORTS}
    assert {
        name: result if isinstance(result, str) else [key for key, _ in result] for name, result in verdicts.items()
    } == expected


def test_a_visit_of_a_real_host_alone_is_not_enough() -> None:
    evidence = Evidence.unpack((FOLDER / "visitor-ports--web.evidence").read_bytes())
    facts = [entry.fact for entry in VisitorPortsScanner().parse(ADDRESS, evidence) if isinstance(entry, Found)]
    open_ports = [fact.port for fact in facts if isinstance(fact, OpenPort)]
    (asked,) = [fact.asked for fact in facts if isinstance(fact, PortScan)]
    assert judge("open-database-port", source("visitor-ports", open_ports, asked)) == VISITED


@pytest.mark.parametrize(
    ("banners", "items"),
    [
        ([("220 (vsFTPd 2.3.4)", "vsFTPd", "2.3.4")], [("vsFTPd 2.3.4", "it says vsFTPd 2.3.4")]),
        ([("220 mx ESMTP Postfix", "Postfix", "")], ""),
        ([("login: ", "", "")], ""),
        ([], ""),
        ([("SSH-2.0-OpenSSH_9.2p1", "OpenSSH", "9.2p1")], ""),  # SSH has to say it, on whatever port
    ],
)
def test_versions_in_greetings(banners: list[tuple[str, str, str]], items: list[tuple[str, str]] | str) -> None:
    service = Service(ADDRESS, "tcp", 2121)
    known = [
        Known(service, Banner(text=text, product=product, version=version), "", "banner", "internet", NOW)
        for text, product, version in banners
    ]
    function: Callable[..., Verdict] = CHECKS["banner-version"].function
    assert said(function(Context(service, NOW), Facts(known))) == items


def test_openkat_s_names() -> None:
    assert {spec.name: (spec.severity, *spec.openkat) for spec in CHECKS.values()} == {
        "banner-version": ("recommendation",),
        "cleartext-service": ("medium",),
        "open-database-port": ("high", "KAT-OPEN-DATABASE-PORT"),
        "open-internal-port": ("high",),
        "open-remote-desktop-port": ("medium", "KAT-REMOTE-DESKTOP-PORT"),
        "open-sysadmin-port": ("medium", "KAT-OPEN-SYSADMIN-PORT"),
        "uncommon-open-port": ("low", "KAT-UNCOMMON-OPEN-PORT"),
    }
