"""What is known of the ports of an address, of the hosts of a network, and of what a service says."""

from __future__ import annotations

from kattegat.plugin import Fact, IPAddress, Network, Service

__all__ = ["Banner", "LiveHosts", "NmapService", "OpenPort", "PortScan"]


class OpenPort(Fact, about=IPAddress):
    """A TCP port that accepts connections. Item: `tcp/PORT`."""

    protocol: str
    port: int


class PortScan(Fact, about=IPAddress):
    """What a connect scan asked, as ranges such as `22,80,8000-8010`.

    `silent`: the ports of it that gave no answer, or were answered for by a router (a firewall drops or rejects them).
    `closed`: how many of it refused the connection.
    """

    asked: str
    silent: str
    closed: int


class LiveHosts(Fact, about=Network):
    """The addresses of a network that answered on a port that a visitor may try, and how many were asked."""

    addresses: list[str]
    asked: int


class Banner(Fact, about=Service):
    """What a service says by itself when somebody connects, as far as it stays the same from visit to visit.

    `text`: at most 1,024 bytes; what is neither printable nor a line end is shown as U+FFFD, a date as `<date>`, and
    the greeting of MySQL ends after its version (random bytes follow). `product` and `version` are "" when not said.
    """

    text: str
    product: str
    version: str


class NmapService(Fact, about=Service):
    """What nmap takes a service for. `confidence` is nmap's, 0 to 10."""

    name: str
    product: str
    version: str
    extra: str
    tunnel: str
    cpes: list[str]
    confidence: int
