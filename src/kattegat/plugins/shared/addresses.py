"""The addresses of a host, as scanners go through them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


def in_order(addresses: Iterable[str]) -> list[str]:
    """The addresses, each once, IPv4 first and then by number.

    Resolvers turn the order round. Where a scanner visits the first few, others each day would look like changes.
    """
    parsed = {ipaddress.ip_address(address) for address in addresses}
    return [str(address) for address in sorted(parsed, key=lambda one: (one.version, int(one)))]
