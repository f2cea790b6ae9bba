"""Who lives where in the laboratory: hosts, their addresses, and which DNS name leads to which address.

The number of a host is the last part of both its addresses (``10.77.0.80`` and ``fd77::80``), so a log line in either
family is read at a glance. Everything lies in one on-link network, ``10.77.0.0/16`` and ``fd77::/64``: there is no
route out of it, so nothing a scanner does in here can reach another machine.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX_V4 = 16
PREFIX_V6 = 64

#: Numbers of the servers of the ``dns`` host.
ROOT, NS1, NS2, NS3, REBIND, RESOLVER = 9, 10, 11, 12, 13, 53
#: Number of the address the runner scans from.
SCANNER = 2
#: ``many(n)`` gives out addresses of this network, answered by the ``many`` host as a whole.
MANY_NETWORK = "10.77.8.0/21"
MANY_MAX = 2000

#: Zones that each show one fault of the DNS; their web site is right, so that nothing else is found.
ZONES_AT_FAULT = ("broken", "tampered", "expired", "insecure", "lame")
#: Web sites by name: number of the address. Sites that share a number share a TLS configuration, since OpenSSL takes
#: the protocol versions from the address and not from the server name.
WEB = {
    "www.good.test": 80,
    "good.test": 80,
    "mta-sts.good.test": 80,
    "www.bad.test": 81,
    "bad.test": 81,
    "expired.bad.test": 82,
    "soon.bad.test": 83,
    "weakkey.bad.test": 84,
    "chain.bad.test": 85,
    "redirect.bad.test": 86,
    "to-loopback.bad.test": 86,
    "to-metadata.bad.test": 86,
    "to-private.bad.test": 86,
    "to-rebind.bad.test": 86,
    "plain.good.test": 87,
    "ports.bad.test": 88,
    "silent.bad.test": 89,
    "old.bad.test": 91,
    **{f"{label}{zone}.test": 92 for zone in ZONES_AT_FAULT for label in ("", "www.")},
}
#: An address that swallows every packet: a firewall that drops, so that connections time out.
FILTERED = 90
#: An address that nobody has: connections fail at once with "no route to host" after the neighbour look-up.
ABSENT = 199
MAIL_GOOD, MAIL_BAD = 25, 26
SSH_GOOD, SSH_BAD = 22, 23

#: host -> the numbers it carries
HOSTS: dict[str, tuple[int, ...]] = {
    "scanner": (SCANNER,),
    "dns": (ROOT, NS1, NS2, NS3, REBIND, RESOLVER),
    "web": tuple(sorted(set(WEB.values()))),
    "mail": (MAIL_GOOD, MAIL_BAD),
    "ssh": (SSH_GOOD, SSH_BAD),
    "many": (100,),
}

#: Names published with both A and AAAA; the other web names have an A record only.
DUAL_STACK = ("www.good.test", "good.test", "mta-sts.good.test", "plain.good.test")


def v4(number: int) -> str:
    """IPv4 address of a number: ``80`` -> ``10.77.0.80``."""
    return f"10.77.0.{number}"


def v6(number: int) -> str:
    """IPv6 address of a number, the decimal digits read as hexadecimal: ``80`` -> ``fd77::80``."""
    return f"fd77::{number}"


def many_address(index: int) -> str:
    """IPv4 address of the ``index``-th (from 1) of the many hosts, inside `MANY_NETWORK`."""
    return f"10.77.{8 + index // 256}.{index % 256}"


def many_name(index: int) -> str:
    """DNS name of the ``index``-th (from 1) of the many hosts: ``h001.many.test``."""
    return f"h{index:03d}.many.test"


@dataclass(frozen=True)
class Host:
    """A machine of the laboratory: its name, its network namespace, its addresses."""

    name: str
    netns: str
    ipv4: tuple[str, ...]
    ipv6: tuple[str, ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses, IPv4 first."""
        return self.ipv4 + self.ipv6


def published_names() -> dict[str, tuple[str, ...]]:
    """DNS names that lead to a host of the laboratory, with the addresses published for each (A first)."""
    names: dict[str, tuple[str, ...]] = {
        name: (v4(number), v6(number)) if name in DUAL_STACK else (v4(number),) for name, number in sorted(WEB.items())
    }
    names["v6only.good.test"] = (v6(WEB["www.good.test"]),)
    names["filtered.bad.test"] = (v4(FILTERED),)
    names["absent.bad.test"] = (v4(ABSENT),)
    names["mail.good.test"] = (v4(MAIL_GOOD), v6(MAIL_GOOD))
    names["mail.bad.test"] = (v4(MAIL_BAD),)
    names["ssh.good.test"] = (v4(SSH_GOOD), v6(SSH_GOOD))
    names["ssh.bad.test"] = (v4(SSH_BAD),)
    for label, number in {"ns1": NS1, "ns2": NS2, "ns3": NS3}.items():
        names[f"{label}.nic.test"] = (v4(number), v6(number))
    return names
