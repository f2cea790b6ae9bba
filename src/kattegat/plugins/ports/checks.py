"""Checks of open ports. A port that is open is a fact of a scan; one that was not asked is nobody's finding."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from kattegat.plugin import (
    Context,
    Facts,
    IPAddress,
    Item,
    Option,
    Service,
    Unknown,
    Verdict,
    check,
    translatable,
    verdict,
)
from kattegat.plugins.ports.facts import Banner, OpenPort, PortScan
from kattegat.plugins.ports.greeting import greets
from kattegat.plugins.ports.numbers import COMMON, DATABASE, EXPOSED, REMOTE_DESKTOP, SYSADMIN, USUAL, compact, spread

__all__ = [
    "banner_version",
    "cleartext_service",
    "open_database_port",
    "open_internal_port",
    "open_remote_desktop_port",
    "open_sysadmin_port",
    "uncommon_open_port",
]

MOST_RANGES = 12
CLEARTEXT = {21: "FTP", 23: "Telnet", 110: "POP3", 143: "IMAP", 512: "rexec", 513: "rlogin", 514: "rsh"}


def _judge(
    ports: Facts[OpenPort],
    scans: Facts[PortScan],
    wanted: Callable[[int], bool],
    among: Iterable[int],
    names: Mapping[int, str] | None = None,
) -> Verdict:
    """Fails for each open port that is wanted; with none, says unknown where one of `among` was never asked."""
    bare, named = translatable("TCP port {port} is open"), translatable("TCP port {port} ({name}) is open")
    items = [
        Item(f"tcp/{port}", bare, {"port": port})
        if names is None
        else Item(f"tcp/{port}", named, {"port": port, "name": names[port]})
        for port in sorted({fact.port for fact in ports if wanted(fact.port)})
    ]
    asked = set().union(*(spread(fact.asked) for fact in scans))
    missing = set(among) - asked
    if missing and not items:
        return Unknown(_not_asked(asked, missing))
    gaps = [reason for reason in ports.unmeasured if (port := _port_of(reason)) is None or wanted(port)]
    return verdict(items, unknown=gaps[0] if gaps else None)


def _port_of(reason: str) -> int | None:
    """The port that a reason of `Facts.unmeasured` is about; None when it is about all of them."""
    item = reason.partition(": ")[0].removeprefix("tcp/")
    return int(item) if item.isdecimal() else None


def _not_asked(asked: set[int], missing: set[int]) -> str:
    if missing.isdisjoint(USUAL):
        return f"TCP ports {_listed(missing)} were not asked (add them to the option usual-ports.more)"
    return f"only TCP ports {_listed(asked)} were asked (usual-ports asks more, and needs clearance 2)"


def _listed(ports: Iterable[int]) -> str:
    ranges = compact(ports).split(",")
    more = f" and {len(ranges) - MOST_RANGES} more ranges" if len(ranges) > MOST_RANGES else ""
    return ",".join(ranges[:MOST_RANGES]) + more


def _ports(option: str, default: Collection[int], doc: str) -> Option:
    return Option(option, tuple(str(port) for port in sorted(default)), doc)


def _set(context: Context, option: str) -> set[int]:
    return {int(port) for port in context.options[option] if str(port).isdecimal() and 0 < int(port) < 65536}


@check(
    "open-sysadmin-port",
    about=IPAddress,
    needs=[OpenPort, PortScan],
    severity="medium",
    title=translatable("A port for administrators is open to everybody"),
    risk=translatable("Anyone can try passwords and known weaknesses there."),
    fix=translatable("Let the port be reached through a VPN or from named addresses only."),
    reference="CIS Controls v8, safeguard 4.4",
    options=[_ports("ports", SYSADMIN - {22}, "TCP ports that are for administrators (SSH has checks of its own).")],
    openkat=["KAT-OPEN-SYSADMIN-PORT"],
)
def open_sysadmin_port(context: Context, ports: Facts[OpenPort], scans: Facts[PortScan]) -> Verdict:
    """One of the ports of the option is open."""
    wanted = _set(context, "ports")
    return _judge(ports, scans, wanted.__contains__, wanted)


@check(
    "open-database-port",
    about=IPAddress,
    needs=[OpenPort, PortScan],
    severity="high",
    title=translatable("A database can be reached by everybody"),
    risk=translatable("Databases are built for use inside a network; many answer without a password."),
    fix=translatable("Let the database listen on an inner address, or filter the port."),
    reference="CIS Controls v8, safeguard 4.4",
    options=[_ports("ports", DATABASE, "TCP ports of databases.")],
    openkat=["KAT-OPEN-DATABASE-PORT"],
)
def open_database_port(context: Context, ports: Facts[OpenPort], scans: Facts[PortScan]) -> Verdict:
    """One of the ports of the option is open."""
    wanted = _set(context, "ports")
    return _judge(ports, scans, wanted.__contains__, wanted)


@check(
    "open-remote-desktop-port",
    about=IPAddress,
    needs=[OpenPort, PortScan],
    severity="medium",
    title=translatable("Remote desktop is open to everybody"),
    risk=translatable("It is a usual way in for ransomware."),
    fix=translatable("Let it be reached through a VPN or a gateway only."),
    reference="CISA AA20-099A",
    options=[_ports("ports", REMOTE_DESKTOP, "TCP ports of remote desktops.")],
    openkat=["KAT-REMOTE-DESKTOP-PORT"],
)
def open_remote_desktop_port(context: Context, ports: Facts[OpenPort], scans: Facts[PortScan]) -> Verdict:
    """One of the ports of the option is open."""
    wanted = _set(context, "ports")
    return _judge(ports, scans, wanted.__contains__, wanted)


@check(
    "open-internal-port",
    about=IPAddress,
    needs=[OpenPort, PortScan],
    severity="high",
    title=translatable("A service that belongs inside a network is open to everybody"),
    risk=translatable("Such services trust whoever reaches them."),
    fix=translatable("Filter the port, or let the service listen on an inner address."),
    reference="CIS Controls v8, safeguard 4.4",
)
def open_internal_port(context: Context, ports: Facts[OpenPort], scans: Facts[PortScan]) -> Verdict:
    """A port of a known internal service is open."""
    return _judge(ports, scans, EXPOSED.__contains__, EXPOSED, EXPOSED)


@check(
    "cleartext-service",
    about=IPAddress,
    needs=[OpenPort, PortScan],
    severity="medium",
    title=translatable("A service that speaks without encryption is open"),
    risk=translatable("Passwords and contents can be read on the way."),
    fix=translatable("Use the encrypted service (SSH, SFTP, IMAPS, POP3S) and close this one, or demand STARTTLS."),
    reference="RFC 8314 section 3, RFC 4217",
)
def cleartext_service(context: Context, ports: Facts[OpenPort], scans: Facts[PortScan]) -> Verdict:
    """The usual port of an unencrypted protocol is open."""
    return _judge(ports, scans, CLEARTEXT.__contains__, CLEARTEXT, CLEARTEXT)


@check(
    "uncommon-open-port",
    about=IPAddress,
    needs=[OpenPort, PortScan],
    severity="low",
    title=translatable("An uncommon port is open"),
    risk=translatable("A forgotten service is one that nobody keeps up to date."),
    fix=translatable("Find out what listens there; close it, or list the port as common for your organisation."),
    reference="CIS Controls v8, safeguard 4.8",
    options=[_ports("common", COMMON | {22}, "TCP ports that are expected to be open.")],
    openkat=["KAT-UNCOMMON-OPEN-PORT"],
)
def uncommon_open_port(context: Context, ports: Facts[OpenPort], scans: Facts[PortScan]) -> Verdict:
    """A port is open that is neither common nor judged by another check of ports."""
    known = _set(context, "common") | SYSADMIN | DATABASE | REMOTE_DESKTOP | set(EXPOSED) | set(CLEARTEXT)
    return _judge(ports, scans, lambda port: port not in known, USUAL)


@check(
    "banner-version",
    about=Service,
    needs=[Banner],
    severity="recommendation",
    title=translatable("A service tells its version to everybody"),
    risk=translatable("Whoever looks for a version with a known weakness finds it faster."),
    fix=translatable("Switch the version off in the greeting, where the software can."),
    reference="CWE-200",
    applies=greets,
)
def banner_version(context: Context, banners: Facts[Banner]) -> Verdict:
    """The greeting names a product and a version. SSH has to (RFC 4253 section 4.2), so it is left out."""
    return verdict(
        [
            Item(
                f"{fact.product} {fact.version}",
                translatable("it says {product} {version}"),
                {"product": fact.product, "version": fact.version},
            )
            for fact in banners
            if fact.product and fact.version and not fact.text.startswith("SSH-")
        ]
    )
