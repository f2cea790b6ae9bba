"""What is typed, looked at before anything is made or started."""

from __future__ import annotations

from collections.abc import Iterable

from kattegat.errors import KeyFormatError, UsageError
from kattegat.model import keys
from kattegat.runner import dns


def check_networks(networks: Iterable[str]) -> None:
    """Raises `UsageError` for an `--allow` that is no network."""
    for network in networks:
        try:
            keys.network(network)
        except KeyFormatError as problem:
            raise UsageError(f"--allow {network!r} is no network: {problem.reason}.") from None


def check_resolver(dns_server: str) -> None:
    """Raises `UsageError` for a resolver that is none; "" is the machine's own."""
    dns.resolvers(dns_server)
