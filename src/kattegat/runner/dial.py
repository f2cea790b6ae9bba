"""The guarded dialer: looks a name up once, drops the addresses that may not be contacted, connects to what is left.

A connection is made to an address that the guard has judged, never to a name, so a name that changes its answer between
two look-ups (DNS rebinding) changes nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress

from kattegat.runner.dns import Client
from kattegat.runner.guard import Guard, Refused, plain
from kattegat.runner.limits import Journal, Rules, Unreached, explain
from kattegat.runner.permits import Held

Permit = Callable[[str], AbstractAsyncContextManager[Held | None]]


def place(address: str, port: int) -> str:
    """How a sentence names an end of a connection."""
    return f"{address} port {port}"


def is_address(host: str) -> bool:
    """Whether a host is an IP address rather than a name."""
    try:
        plain(host)
    except ValueError:
        return False
    return True


class Connection:
    """A connection within limits; implements `plugin.Stream`.

    It ends by itself after `rules.connection_seconds`, also when nobody reads from it.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        rules: Rules,
        journal: Journal,
        local: str,
        peer: str,
        port: int,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._rules, self._journal = rules, journal
        self._where = place(peer, port)
        self.local, self.peer = local, peer
        self.after = AsyncExitStack()
        self._received = 0
        self._ended = self._closed = False
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + rules.connection_seconds
        self._alarm = loop.call_at(self._deadline, self._expire)

    def _expire(self) -> None:
        self._ended = True
        self._writer.transport.abort()
        # Its permit is for others now, also while the scanner still holds on to the stream.
        self._release = asyncio.get_running_loop().create_task(self.after.aclose())

    def cut(self) -> None:
        """Ends it at once: it may not go on."""
        if not self._closed:
            self._alarm.cancel()
            self._expire()

    def _slow(self) -> Unreached:
        return Unreached(
            f"{self._where} was still busy after the {self._rules.connection_seconds:g} seconds that one connection "
            "may last.",
            "timeout",
        )

    async def _within(self, seconds: float) -> float:
        if self._closed:
            raise Unreached(f"The connection to {self._where} was closed already.", "closed")
        left = self._deadline - asyncio.get_running_loop().time()
        if self._ended or left <= 0:
            raise self._slow()
        return min(left, seconds)

    async def read(self, limit: int = 65536) -> bytes:
        """At most `limit` bytes as soon as there are some; b"" at the end. Raises `NotReached` at the limits."""
        seconds = await self._within(self._rules.idle_seconds)
        try:
            async with asyncio.timeout(seconds):
                data = await self._reader.read(limit)
        except TimeoutError:
            if seconds < self._rules.idle_seconds:
                raise self._slow() from None
            raise Unreached(f"{self._where} sent nothing for {seconds:g} seconds.", "timeout") from None
        except (OSError, ssl.SSLError) as error:
            raise self._broken(error) from None
        if self._ended:
            raise self._slow()
        self._received += len(data)
        if self._received > self._rules.connection_bytes:
            raise Unreached(
                f"{self._where} sent more than the {self._rules.connection_bytes} bytes that are read from one "
                "connection.",
                "limit",
            )
        self._journal.count(len(data))
        return data

    async def write(self, data: bytes) -> None:
        """Sends all of it; raises `NotReached`."""
        seconds = await self._within(self._rules.idle_seconds)
        try:
            self._writer.write(data)
            async with asyncio.timeout(seconds):
                await self._writer.drain()
        except TimeoutError:
            raise Unreached(f"{self._where} took in nothing for {seconds:g} seconds.", "timeout") from None
        except (OSError, ssl.SSLError, RuntimeError) as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> Unreached:
        if self._closed:
            return Unreached(f"The connection to {self._where} was closed meanwhile.", "closed")
        if self._ended:
            return self._slow()
        if isinstance(error, ssl.SSLError):
            return Unreached(f"{self._where} broke the rules of TLS: {tls_reason(error)}.", "malformed")
        if isinstance(error, OSError):
            return explain(self._where, error, self._rules.idle_seconds)
        return Unreached(f"{self._where} closed the connection.", "closed")

    async def close(self) -> None:
        """Closes; never raises. What `write` was given has left by then."""
        self._alarm.cancel()
        self._closed = True
        # Not an orderly TLS end, for which an endless or silent server would have to be waited for.
        self._writer.transport.abort()
        with suppress(Exception):
            await self.after.aclose()
        await asyncio.sleep(0)


def tls_reason(error: ssl.SSLError) -> str:
    """OpenSSL's words for what went wrong."""
    return str(error.reason or error.strerror or error).replace("_", " ").lower()


class Dialer:
    """Opens connections for one job. `permit(address)` gives the right to hold one."""

    def __init__(
        self, guard: Guard, resolver: Client, rules: Rules, journal: Journal, permit: Permit, tls: ssl.SSLContext
    ) -> None:
        self._guard, self._resolver = guard, resolver
        self._rules, self._journal, self._permit = rules, journal, permit
        self._tls = tls
        self._open: set[Connection] = set()

    def check(self, address: str, host: str = "") -> str:
        """The address in normal form; raises `Refused` and writes it down."""
        try:
            return str(self._guard.check(address))
        except Refused as refused:
            self._journal.refused(refused.reason)
            raise Refused(refused.address, refused.reason, host) from None

    async def resolve(self, host: str) -> list[str]:
        """The addresses of a name, or the address itself, that may be contacted; [] for a name that has none.

        Raises `Refused` when there are addresses and none may be contacted: "has no address" would be untrue.
        """
        allowed, refused = await self._judged(host)
        if refused is not None and not allowed:
            raise refused
        return allowed

    async def _judged(self, host: str) -> tuple[list[str], Refused | None]:
        if is_address(host):
            return [self.check(host)], None
        allowed: list[str] = []
        first: Refused | None = None
        for address in await self._resolver.addresses(host):
            try:
                allowed.append(self.check(address, host))
            except Refused as refused:
                first = first or refused
        return allowed, first

    async def connect(self, host: str, port: int, *, tls: str | None = None) -> Connection:
        """A connection to the first address that answers. Raises `Refused` when every address is refused."""
        if not 1 <= port <= 65535:
            raise Unreached(f"{host} port {port} can't be reached: a port is a number from 1 to 65535.", "unreachable")
        allowed, refused = await self._judged(host)
        if not allowed:
            raise refused or Unreached(f"{host} has no address.", "unreachable")
        failure: Unreached | None = None
        for address in allowed[: self._rules.addresses_per_host]:
            try:
                return await self._dial(address, port, tls)
            except Unreached as problem:
                # What is wrong with this machine, or with the job, no other address mends.
                if problem.how in ("local", "limit"):
                    raise
                failure = failure or problem
        raise failure or Unreached(f"{host} has no address.", "unreachable")

    async def _dial(self, address: str, port: int, tls: str | None) -> Connection:
        async with AsyncExitStack() as stack:
            held = await stack.enter_async_context(self._permit(address))
            sock = await self.socket(address, port, self._rules.connect_seconds)
            local = str(sock.getsockname()[0])
            try:
                reader, writer = await self._streams(sock, tls, place(address, port))
            except BaseException:
                sock.close()
                raise
            connection = Connection(reader, writer, self._rules, self._journal, local, address, port)
            if held is not None:
                held.lost = connection.cut
                if held.over:
                    connection.cut()
            self._open.add(connection)
            stack.callback(self._open.discard, connection)
            connection.after = stack.pop_all()
        return connection

    async def _streams(
        self, sock: socket.socket, tls: str | None, where: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if tls is None:
            reader, writer = await asyncio.open_connection(sock=sock, limit=65536)
            # `drain` then waits until everything has left, so that closing loses nothing.
            writer.transport.set_write_buffer_limits(high=0)
            return reader, writer
        try:
            if "\0" in tls:
                raise ValueError("it contains a NUL character")
            return await asyncio.open_connection(
                sock=sock,
                limit=65536,
                ssl=self._tls,
                server_hostname="" if is_address(tls) else tls,
                ssl_handshake_timeout=self._rules.tls_seconds,
            )
        except ssl.SSLError as error:
            raise Unreached(f"{where} completed no TLS handshake: {tls_reason(error)}.", "malformed") from None
        except OSError as error:
            if isinstance(error, ConnectionAbortedError):  # how asyncio reports its own time-out
                sentence = f"{where} completed no TLS handshake within {self._rules.tls_seconds:g} seconds."
                raise Unreached(sentence, "timeout") from None
            how = explain(where, error, self._rules.tls_seconds).how
            raise Unreached(f"{where} broke off the TLS handshake.", how) from None
        except ValueError as error:  # UnicodeError among them: a name that can't be in a handshake
            raise Unreached(f"{tls!r} can't be sent as a TLS server name: {error}.", "unreachable") from None

    async def socket(self, address: str, port: int, seconds: float) -> socket.socket:
        """A connected socket to an address that `check` has let pass. Raises `Unreached`."""
        loop = asyncio.get_running_loop()
        where = place(address, port)
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            raise explain(where, error, seconds) from None
        try:
            sock.setblocking(False)
            self._journal.contacted(address)
            async with asyncio.timeout(seconds):
                await loop.sock_connect(sock, (address, port))
            self._journal.source(sock.getsockname()[0])
        except OSError as error:
            sock.close()
            raise explain(where, error, seconds) from None
        except BaseException:
            sock.close()
            raise
        return sock

    async def close(self) -> None:
        """Ends every connection that is still open."""
        for connection in list(self._open):
            await connection.close()
