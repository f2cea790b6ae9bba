"""Which addresses a scan may contact.

The standard library's `is_global` is not enough: it changes between releases of Python, calls multicast and site-local
addresses global, and says nothing of an IPv4 address inside an IPv6 one. So the ranges stand here, from the IANA
special-purpose address registries (RFC 6890), and an IPv6 address is public only inside 2000::/3 (RFC 4291).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable

from kattegat.model.work import Limits
from kattegat.plugin import Blocked

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Range = ipaddress.IPv4Network | ipaddress.IPv6Network

_NEVER: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "an unspecified address"),
    ("224.0.0.0/4", "a multicast address"),
    ("255.255.255.255/32", "the broadcast address"),
    ("::/128", "the unspecified address"),
    ("ff00::/8", "a multicast address"),
)
"""Nothing there can be scanned, whoever declares it; and on Linux a connection to 0.0.0.0 reaches this machine."""

_METADATA: tuple[str, ...] = (
    "169.254.169.254",  # AWS, Azure, Google, OpenStack, Oracle and others
    "169.254.170.2",  # AWS, credentials of container tasks
    "169.254.170.23",  # AWS, identities of pods
    "169.254.169.253",  # AWS, the resolver of a private network
    "100.100.100.200",  # Alibaba
    "168.63.129.16",  # Azure, the host's agent
    "192.0.0.192",  # Oracle, classic
    "fd00:ec2::254",  # AWS over IPv6
    "fd00:ec2::23",  # AWS, identities of pods over IPv6
    "fd20:ce::254",  # Google over IPv6
)
"""Services that give a machine its secrets: only declaring the single address allows them, a range does not."""

_SPECIAL: tuple[tuple[str, str], ...] = (
    ("10.0.0.0/8", "a private address"),
    ("172.16.0.0/12", "a private address"),
    ("192.168.0.0/16", "a private address"),
    ("127.0.0.0/8", "a loopback address"),
    ("169.254.0.0/16", "a link-local address"),
    ("100.64.0.0/10", "an address inside a provider's network (RFC 6598)"),
    ("192.0.0.0/24", "not a public address (RFC 6890)"),
    ("192.0.2.0/24", "not a public address (for documentation, RFC 5737)"),
    ("198.51.100.0/24", "not a public address (for documentation, RFC 5737)"),
    ("203.0.113.0/24", "not a public address (for documentation, RFC 5737)"),
    ("198.18.0.0/15", "not a public address (for benchmarks, RFC 2544)"),
    ("192.88.99.0/24", "not a public address (former 6to4 relays, RFC 7526)"),
    ("240.0.0.0/4", "a reserved address"),
    ("::1/128", "a loopback address"),
    ("::/96", "an IPv4-compatible address (deprecated, RFC 4291)"),
    ("64:ff9b:1::/48", "a private address (local NAT64, RFC 8215)"),
    ("100::/64", "not a public address (discarded, RFC 6666)"),
    ("2001::/32", "a Teredo address (RFC 4380)"),
    ("2001::/23", "not a public address (IETF protocol assignments, RFC 2928)"),
    ("2001:db8::/32", "not a public address (for documentation, RFC 3849)"),
    ("3fff::/20", "not a public address (for documentation, RFC 9637)"),
    ("5f00::/16", "not a public address (segment routing, RFC 9602)"),
    ("fc00::/7", "a private address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a private address (site-local, RFC 3879)"),
)

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")


def _ranges(table: Iterable[tuple[str, str]]) -> tuple[tuple[Range, str], ...]:
    return tuple((ipaddress.ip_network(cidr), text) for cidr, text in table)


NEVER = _ranges(_NEVER)
SPECIAL = _ranges(_SPECIAL)
METADATA = frozenset(ipaddress.ip_address(text) for text in _METADATA)


LONGEST = 1000


def printable(text: str) -> str:
    """A sentence that can be shown and stored: what a target put into it shows as escapes, cut at `LONGEST`.

    Half of a surrogate pair, NUL and terminal escapes are what hostile names are made of.
    """
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:LONGEST])
    return shown if len(text) <= LONGEST else f"{shown}..."


class Refused(Blocked):
    """An address that a scan may not contact. `address` is its text, `reason` the sentence without its full stop."""

    def __init__(self, address: str, reason: str, host: str = "") -> None:
        self.address = address
        self.reason = printable(reason)
        self.host = host
        super().__init__(printable(f"{host} resolves to {address}, but {reason}." if host else f"{reason}."))


class Guard:
    """Judges addresses for one job.

    `own_addresses` are those of this machine's interfaces (`own_addresses()`). Raises ValueError for a network in
    `limits` that is none.
    """

    def __init__(self, limits: Limits, own_addresses: Iterable[str] = ()) -> None:
        self._own = tuple(ipaddress.ip_network(cidr) for cidr in limits.own_networks)
        self._refused = tuple((ipaddress.ip_network(cidr), reason) for cidr, reason in limits.refused)
        self._only = tuple(ipaddress.ip_network(cidr) for cidr in limits.only)
        self._machine = frozenset(plain(text) for text in own_addresses)

    def check(self, address: str) -> Address:
        """The address in the form to connect to; raises `Refused`, also for a text that is no address."""
        try:
            number = plain(address)
        except ValueError:
            raise Refused(address, f"{address!r} is no IP address") from None
        reason = self._reason(number)
        if reason is not None:
            raise Refused(str(number), reason)
        return number

    def reason(self, address: str) -> str | None:
        """Why the address may not be contacted, as a sentence without its full stop; None when it may."""
        try:
            self.check(address)
        except Refused as refused:
            return refused.reason
        return None

    def _reason(self, number: Address) -> str | None:
        inner = [four for four in embedded(number) if four != number]
        for candidate in (number, *inner):
            for network, why in self._refused:
                if candidate in network:
                    return f"{number} is in {network}, which is not scanned: {why.rstrip('.')}"
        if self._only and not any(number in network for network in self._only):
            return f"{number} is in no network that this runner may serve"
        for network, what in NEVER:
            if number in network:
                return f"{number} is {what} and can't be scanned"
        if number in METADATA:
            if any(network.num_addresses == 1 and number in network for network in self._own):
                return None
            single = ipaddress.ip_network(number)
            return (
                f"{number} is a cloud metadata address, which gives away a machine's secrets, and the organisation "
                f"has not declared it as its own: --allow {single} declares it"
            )
        declared = any(number in network for network in self._own)
        if not declared:
            special = self._special(number)
            if special is not None:
                return special
        for four in inner:
            why_inner = self._reason(four)
            # A declared IPv6 network is the organisation's own whatever IPv4 its addresses look like, but not a way
            # to secrets or around what is refused.
            if why_inner is not None and (not declared or four in METADATA):
                return f"{number} leads to an IPv4 address that is refused: {why_inner}"
        return None

    def _special(self, number: Address) -> str | None:
        if number in self._machine and not number.is_loopback:
            return (
                f"{number} is an address of this machine itself that the organisation has not declared as its own: "
                f"--allow {ipaddress.ip_network(number)} declares it"
            )
        for network, what in SPECIAL:
            if number in network:
                return (
                    f"{number} is {what} that the organisation has not declared as its own: "
                    f"--allow {_proposal(number, network)} declares it"
                )
        if isinstance(number, ipaddress.IPv6Address) and number not in _PUBLIC_6 and number not in _NAT64:
            return (
                f"{number} is a reserved address that the organisation has not declared as its own: "
                f"--allow {_proposal(number, None)} declares it"
            )
        return None


def plain(text: str) -> Address:
    """The address as a number, an IPv4-mapped one (RFC 4291 section 2.5.5.2) as the IPv4 address that it stands for.

    Raises ValueError, also for an address with an interface (`fe80::1%eth0`), which means something else elsewhere.
    """
    number = ipaddress.ip_address(text)
    if isinstance(number, ipaddress.IPv6Address):
        if number.scope_id:
            raise ValueError(f"{text!r} has an interface")
        if number.ipv4_mapped is not None:
            return number.ipv4_mapped
    return number


def embedded(number: Address) -> list[ipaddress.IPv4Address]:
    """Every IPv4 address that packets to this IPv6 address may end up at: NAT64, 6to4, Teredo, ISATAP, compatible."""
    if isinstance(number, ipaddress.IPv4Address):
        return []
    inner: list[ipaddress.IPv4Address] = []
    packed = number.packed
    if number in _NAT64 or number in _COMPATIBLE:
        inner.append(ipaddress.IPv4Address(packed[12:]))
    if number.sixtofour is not None:
        inner.append(number.sixtofour)
    if number.teredo is not None:
        inner.extend(number.teredo)
    if packed[8:12] in _ISATAP:
        inner.append(ipaddress.IPv4Address(packed[12:]))
    return inner


def _proposal(number: Address, network: Range | None) -> Range:
    """The network to propose: the whole range for IPv4, what one site has for IPv6."""
    if isinstance(number, ipaddress.IPv4Address) and network is not None:
        return network
    if network is not None and network.prefixlen > 48:
        return network
    return ipaddress.ip_network((number, 48), strict=False)


_RTM_GETADDR, _RTM_NEWADDR, _NLMSG_DONE, _NLMSG_ERROR = 22, 20, 3, 2
_NLM_F_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


def own_addresses() -> frozenset[str]:
    """The addresses of this machine's interfaces (Linux: rtnetlink, RFC 3549), without interface suffixes."""
    found: set[str] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(5)
        netlink.send(struct.pack("=LHHLLB3x", 20, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0, socket.AF_UNSPEC))
        while True:
            data = netlink.recv(1 << 16)
            at = 0
            while at + 16 <= len(data):
                length, kind = struct.unpack_from("=LH", data, at)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < 16:
                    return frozenset(found)
                if kind == _RTM_NEWADDR:
                    found.update(_addresses(data[at + 16 : at + length]))
                at += (length + 3) & ~3


def _addresses(body: bytes) -> Iterable[str]:
    at = 8
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            return
        # On a point-to-point link IFA_ADDRESS is the other end and IFA_LOCAL this one; both are better left alone.
        if kind in (_IFA_ADDRESS, _IFA_LOCAL) and length in (8, 20):
            yield str(ipaddress.ip_address(body[at + 4 : at + length]))
        at += (length + 3) & ~3
