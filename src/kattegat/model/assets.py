"""Types of assets. Identity is (organisation, type, key); an asset of a type unknown to this release is an `Other`."""

from __future__ import annotations

import ipaddress
from typing import ClassVar, Self

import msgspec
from packageurl import PackageURL

from kattegat.errors import KeyFormatError
from kattegat.model import keys


class Asset(msgspec.Struct, frozen=True, order=True):
    """A thing watched. `parse(key)` and `key` are inverse: `parse(asset.key) == asset`."""

    type: ClassVar[str] = ""

    @property
    def key(self) -> str:
        """The natural key, in the one normal form of the type."""
        raise NotImplementedError(type(self))

    @classmethod
    def parse(cls, key: str) -> Self:
        """The asset with this key; raises `KeyFormatError`."""
        raise NotImplementedError(cls)

    def __str__(self) -> str:
        return f"{self.type} {self.key}"


class Hostname(Asset, frozen=True, order=True):
    """A DNS name: A-label, lower case, no trailing dot."""

    type: ClassVar[str] = "Hostname"
    name: str

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "name", keys.hostname(self.name))

    @property
    def key(self) -> str:
        return self.name

    @classmethod
    def parse(cls, key: str) -> Self:
        return cls(key)


class IPAddress(Asset, frozen=True, order=True):
    """An address inside a zone: `zone|address`."""

    type: ClassVar[str] = "IPAddress"
    address: str
    zone: str = keys.DEFAULT_ZONE

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "address", keys.address(self.address))
        msgspec.structs.force_setattr(self, "zone", keys.zone(self.zone))

    @property
    def key(self) -> str:
        return f"{self.zone}|{self.address}"

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """The address as a number."""
        return ipaddress.ip_address(self.address)

    @classmethod
    def parse(cls, key: str) -> Self:
        zone, bar, address = key.rpartition("|")
        return cls(address, zone if bar else keys.DEFAULT_ZONE)


class Network(Asset, frozen=True, order=True):
    """A network inside a zone: `zone|CIDR`."""

    type: ClassVar[str] = "Network"
    cidr: str
    zone: str = keys.DEFAULT_ZONE

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "cidr", keys.network(self.cidr))
        msgspec.structs.force_setattr(self, "zone", keys.zone(self.zone))

    @property
    def key(self) -> str:
        return f"{self.zone}|{self.cidr}"

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The network as numbers."""
        return ipaddress.ip_network(self.cidr)

    @classmethod
    def parse(cls, key: str) -> Self:
        zone, bar, cidr = key.rpartition("|")
        return cls(cidr, zone if bar else keys.DEFAULT_ZONE)


class Service(Asset, frozen=True, order=True):
    """A port of an address that answers: `zone|address|tcp/443`."""

    type: ClassVar[str] = "Service"
    address: IPAddress
    protocol: str
    port: int

    def __post_init__(self) -> None:
        if self.protocol not in keys.PROTOCOLS:
            raise KeyFormatError("Service", self.protocol, f"the protocol is one of {', '.join(keys.PROTOCOLS)}")
        keys.port(self.port)

    @property
    def key(self) -> str:
        return f"{self.address.key}|{self.protocol}/{self.port}"

    @classmethod
    def parse(cls, key: str) -> Self:
        address, bar, end = key.rpartition("|")
        protocol, slash, port = end.partition("/")
        if not bar or not slash:
            raise KeyFormatError("Service", key, "it is not like internet|192.0.2.1|tcp/443")
        return cls(IPAddress.parse(address), protocol.lower(), keys.port(port))


class Website(Asset, frozen=True, order=True):
    """An origin: `scheme://host:port`, the port always written."""

    type: ClassVar[str] = "Website"
    origin: str

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "origin", keys.origin(self.origin))

    @property
    def key(self) -> str:
        return self.origin

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return self.origin.partition("://")[0]

    @property
    def host(self) -> str:
        """The host without brackets: a name or an address."""
        return self.origin.partition("://")[2].rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port, always known."""
        return int(self.origin.rpartition(":")[2])

    @property
    def url(self) -> str:
        """The URL of the site's root, in normal form."""
        return keys.url(self.origin)

    @classmethod
    def parse(cls, key: str) -> Self:
        return cls(key)


class URL(Asset, frozen=True, order=True):
    """A URL in normal form."""

    type: ClassVar[str] = "URL"
    url: str

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "url", keys.url(self.url))

    @property
    def key(self) -> str:
        return self.url

    @property
    def website(self) -> Website:
        """The origin that the URL lies in."""
        scheme, _, rest = self.url.partition("://")
        return Website(f"{scheme}://{rest.partition('/')[0].partition('?')[0]}")

    @classmethod
    def parse(cls, key: str) -> Self:
        return cls(key)


class Certificate(Asset, frozen=True, order=True):
    """An X.509 certificate, known by the SHA-256 of its DER form."""

    type: ClassVar[str] = "Certificate"
    sha256: str

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "sha256", keys.sha256(self.sha256))

    @property
    def key(self) -> str:
        return self.sha256

    @classmethod
    def parse(cls, key: str) -> Self:
        return cls(key)


class Software(Asset, frozen=True, order=True):
    """A piece of software, known by its package URL (purl)."""

    type: ClassVar[str] = "Software"
    purl: str

    def __post_init__(self) -> None:
        try:
            msgspec.structs.force_setattr(self, "purl", PackageURL.from_string(self.purl).to_string())
        except ValueError as problem:
            raise KeyFormatError("Software", self.purl, f"it is no package URL ({problem})") from None

    @property
    def key(self) -> str:
        return self.purl

    @classmethod
    def parse(cls, key: str) -> Self:
        return cls(key)


class Other(Asset, frozen=True, order=True):
    """An asset of a type that this release doesn't know: kept and shown as it is."""

    name: str
    text: str

    @property
    def key(self) -> str:
        return self.text

    def __str__(self) -> str:
        return f"{self.name} {self.text}"


TYPES: dict[str, type[Asset]] = {
    kind.type: kind for kind in (Hostname, IPAddress, Network, Service, Website, URL, Certificate, Software)
}


def type_of(asset: Asset) -> str:
    """The name of the asset's type, also for a type unknown here."""
    return asset.name if isinstance(asset, Other) else asset.type


def parse(type_: str, key: str) -> Asset:
    """The asset of a type by name; an unknown type gives an `Other`. Raises `KeyFormatError`."""
    known = TYPES.get(type_)
    return known.parse(key) if known is not None else Other(type_, key)
