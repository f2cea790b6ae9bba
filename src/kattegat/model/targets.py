"""What a person types as a target, as assets."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from kattegat.errors import KeyFormatError, UsageError
from kattegat.model import keys
from kattegat.model.assets import URL, Asset, Hostname, IPAddress, Network

LARGEST_NETWORK = 4096
"""Addresses; a person who means more says so network by network."""


class TargetError(UsageError):
    """A target that can't be understood or is too large."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        shown = text if len(text) <= 80 else text[:77] + "..."
        super().__init__(f"{shown!r} can't be scanned: {reason}.")


def parse(text: str, *, zone: str = keys.DEFAULT_ZONE) -> Asset:
    """A host name, an address, a network in CIDR form, an origin or a URL; raises `TargetError` that says why not.

    A URL without a path is a website. `host:port` is refused with the URL that was probably meant.
    """
    bare = text.strip()
    if not bare:
        raise TargetError(text, "it is empty")
    try:
        if "://" in bare:
            url = URL(bare)
            # The normal form decides: a fragment or an empty query makes no page of a site's root.
            return url.website if url.url.count("/") == 3 and url.url.endswith("/") else url
        if "/" in bare:
            _refuse_path(text, bare)
            return _network(bare, zone)
        if _is_address(bare):
            return IPAddress(bare, zone)
        if ":" in bare:
            name, _, port = bare.rpartition(":")
            if port.isdigit() and name and (":" not in name or name.endswith("]")):
                scheme = "https" if port in ("443", "8443") else "http"
                raise TargetError(text, f"for a port give a URL, such as {scheme}://{bare}/")
        return Hostname(bare)
    except KeyFormatError as problem:
        raise TargetError(text, problem.reason) from None


def _refuse_path(text: str, bare: str) -> None:
    """Before a slash stands an address; a name or nothing was meant as a URL or as the name of a file."""
    front = bare.partition("/")[0]
    if front and _is_address(front):
        return
    try:
        keys.hostname(front)
    except KeyFormatError:
        raise TargetError(
            text, "it is no network such as 192.0.2.0/24, and there is no file of this name that could be read"
        ) from None
    raise TargetError(
        text, f"for a page give a URL, such as https://{bare}, and there is no file of this name that could be read"
    )


def _is_address(text: str) -> bool:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "%" in bare:
        return ":" in bare
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        # Digits and dots only are meant as an address, so the reason must speak of addresses.
        return bool(bare) and all(part.isdigit() for part in bare.split(".")) and "." in bare
    return True


def _network(text: str, zone: str) -> Asset:
    network = Network(text, zone)
    size = network.network.num_addresses
    if size == 1:
        return IPAddress(str(network.network.network_address), zone)
    if size > LARGEST_NETWORK:
        raise TargetError(
            text,
            f"it has {size:,} addresses and a scan takes networks of at most {LARGEST_NETWORK:,}; give smaller ones",
        )
    return network


def read(lines: Iterable[str], *, zone: str = keys.DEFAULT_ZONE) -> Iterator[Asset]:
    """The targets of a list: one a line, `#` starts a comment; an error names the line."""
    for number, line in enumerate(lines, 1):
        bare = line.partition("#")[0].strip().lstrip("\ufeff")
        if not bare:
            continue
        try:
            yield parse(bare, zone=zone)
        except TargetError as problem:
            raise TargetError(problem.text, f"{problem.reason} (line {number})") from None
