"""What scans may use: time-outs, sizes, and the permits for connections that all jobs of a process share."""

from __future__ import annotations

import asyncio
import errno
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import msgspec

from kattegat.model.work import Detail
from kattegat.plugin import NotReached
from kattegat.runner.guard import printable
from kattegat.settings import Settings

MEBIBYTE = 1024 * 1024
REMEMBERED = 1000


class Unreached(NotReached):
    """A `NotReached` of the runner, with `how` set."""

    def __init__(self, sentence: str, how: str) -> None:
        self.how = how
        super().__init__(printable(sentence))


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The limits on one job's connections. Seconds, bytes and counts."""

    connect_seconds: float = 5.0
    tls_seconds: float = 10.0
    idle_seconds: float = 10.0
    """How long one read or write may bring nothing."""
    connection_seconds: float = 60.0
    """How long one connection may last, however busy it is."""
    connection_bytes: int = 8 * MEBIBYTE
    job_bytes: int = 32 * MEBIBYTE
    """What one job may receive over all its connections."""
    body_bytes: int = MEBIBYTE
    header_bytes: int = 64 * 1024
    addresses_per_host: int = 4
    """How many addresses of a name are tried before giving up."""
    dns_seconds: float = 3.0
    dns_tries: int = 3
    port_seconds: float = 2.0
    port_tries: int = 2
    tool_seconds: float = 280.0
    tool_bytes: int = 16 * MEBIBYTE
    connections_per_address: int = 8
    attempts_per_address: int = 64
    """Attempts to connect of a port scan that one address has not answered yet."""
    connections_per_scanner: int = 100
    connections: int = 400

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """The rules that the install's settings give."""
        return cls(
            connect_seconds=float(settings.connect_seconds),
            port_seconds=min(cls().port_seconds, float(settings.connect_seconds)),
            connections_per_address=max(1, settings.connections_per_address),
            tool_seconds=max(1.0, settings.scan_seconds - 20.0),
        )


class Permits:
    """Permits to hold a connection, per target address, per scanner and in all. One object per process.

    Taken in a fixed order, the scarcest first, so that nobody waits with one that others need.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._all = asyncio.Semaphore(rules.connections)
        self._scanners: dict[str, asyncio.Semaphore] = {}
        # An address is forgotten when nobody holds or awaits its permits.
        self._addresses: weakref.WeakValueDictionary[tuple[str, str], asyncio.Semaphore] = weakref.WeakValueDictionary()

    def _address(self, kind: str, address: str, most: int) -> asyncio.Semaphore:
        semaphore = self._addresses.get((kind, address))
        if semaphore is None:
            self._addresses[kind, address] = semaphore = asyncio.Semaphore(most)
        return semaphore

    @asynccontextmanager
    async def connection(self, address: str, scanner: str) -> AsyncIterator[None]:
        """The right to hold one connection to an address."""
        own = self._address("connection", address, self._rules.connections_per_address)
        per_scanner = self._scanners.setdefault(scanner, asyncio.Semaphore(self._rules.connections_per_scanner))
        async with own, per_scanner, self._all:
            yield

    @asynccontextmanager
    async def attempt(self, address: str) -> AsyncIterator[None]:
        """The right to try one port of an address."""
        async with self._address("attempt", address, self._rules.attempts_per_address), self._all:
            yield


class Journal:
    """What one job did on the network, and how many bytes it has received."""

    def __init__(self, rules: Rules) -> None:
        self.received = 0
        self._ended = False
        self._most = rules.job_bytes
        self._contacted: dict[str, None] = {}
        self._sources: dict[str, None] = {}
        self._refused: dict[str, None] = {}
        self.tool = ""
        self.tool_version = ""
        self.arguments: list[str] = []

    def end(self) -> None:
        """The job is over: what a scanner left running in the background contacts nobody any more."""
        self._ended = True

    def contacted(self, address: str) -> None:
        """An address that something is about to be sent to; raises `NotReached` after the end of the job."""
        self.going(address)
        _remember(self._contacted, address)

    def going(self, address: str) -> None:
        """Raises `NotReached` after the end of the job."""
        if self._ended:
            raise Unreached(f"Nothing was sent to {address}: the scan is over.", "local")

    def source(self, address: str) -> None:
        """An address of this machine that was sent from."""
        _remember(self._sources, address)

    def refused(self, reason: str) -> None:
        """A contact that the guard refused."""
        _remember(self._refused, reason)

    def count(self, size: int) -> None:
        """Bytes that came in; raises `NotReached` when the job has had its share."""
        self.received += size
        if self.received > self._most:
            raise Unreached(f"This scan received more than the {self._most} bytes that one scan may.", "limit")

    def detail(self) -> Detail:
        """The account that is kept with the evidence."""
        return Detail(
            contacted=list(self._contacted),
            sources=list(self._sources),
            refused=list(self._refused),
            tool=self.tool,
            tool_version=self.tool_version,
            arguments=list(self.arguments),
            runner_release=version("kattegat"),
        )


def _remember(entries: dict[str, None], entry: str) -> None:
    if len(entries) < REMEMBERED:
        entries.setdefault(entry)


_LOCAL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_UNREACHABLE = {
    errno.ENETUNREACH: "there is no route to it",
    errno.EHOSTUNREACH: "no route to the host (it is down, or a firewall rejects)",
    errno.ENETDOWN: "the network is down",
    errno.EHOSTDOWN: "it is down",
    errno.EACCES: "a firewall on this machine or on the way forbids it",
    errno.EPERM: "a firewall on this machine forbids it",
    errno.EAFNOSUPPORT: "this machine doesn't speak its kind of address",
}


def explain(where: str, error: OSError, seconds: float) -> Unreached:
    """The sentence for an error of a socket call; `where` is like `192.0.2.1 port 443`."""
    if isinstance(error, TimeoutError):
        return Unreached(f"{where} did not answer within {seconds:g} seconds.", "timeout")
    if isinstance(error, ConnectionRefusedError):
        return Unreached(f"{where} refused the connection.", "refused")
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return Unreached(f"{where} broke off the connection.", "reset")
    if error.errno in _LOCAL:
        return Unreached(f"This machine could not open a connection ({error.strerror}); try again later.", "local")
    if error.errno in _UNREACHABLE:
        return Unreached(f"{where} can't be reached: {_UNREACHABLE[error.errno]}.", "unreachable")
    return Unreached(f"{where} can't be reached: {error.strerror or error}.", "unreachable")


def lenient_tls() -> ssl.SSLContext:
    """A TLS client that accepts every certificate and old protocol: it visits servers to look, and trusts nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    # Servers without secure renegotiation (RFC 5746), and ones that leave without a close_notify alert.
    context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 1 << 7)
    return context
