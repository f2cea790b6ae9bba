"""What a scanner reaches the world with: one object per job, put together from the parts that do the work."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

from kattegat.model.work import Limits
from kattegat.plugin import DnsReply, HttpReply, Known, Stream, ToolReply
from kattegat.runner import dns, http, permits
from kattegat.runner import ports as connect_scan
from kattegat.runner.dial import Dialer
from kattegat.runner.guard import Guard, own_addresses
from kattegat.runner.limits import Journal, Permits, Rules, Unreached, lenient_tls
from kattegat.runner.tools import Tools
from kattegat.settings import Settings

RATE_OPTIONS = {"nmap": "--max-rate", "nuclei": "-rate-limit", "masscan": "--max-rate", "zmap": "--rate"}


class Shared:
    """What all jobs of a runner process share. Made inside a running event loop."""

    def __init__(
        self,
        rules: Rules,
        resolvers: Sequence[dns.Server],
        *,
        vantage: str = "internet",
        machine: Sequence[str] | None = None,
    ) -> None:
        self.rules = rules
        self.resolvers = tuple(resolvers)
        self.vantage = vantage
        self.permits = Permits(rules)
        self.tools = Tools(rules)
        self.tls: ssl.SSLContext = lenient_tls()
        self.shared_permits: permits.Client | None = None
        """Set by a runner with a door: permits that count over all runners."""
        self._machine = tuple(machine) if machine is not None else None

    @classmethod
    def of(cls, settings: Settings, vantage: str = "internet") -> Shared:
        """As the install's settings say; raises `UsageError` for a resolver that can't be read."""
        return cls(Rules.of(settings), dns.resolvers(settings.dns_server), vantage=vantage)

    def machine(self) -> frozenset[str]:
        """The addresses of this machine as they are now: they change, with a lease or a container."""
        return frozenset(self._machine) if self._machine is not None else own_addresses()


class GuardedNet:
    """Implements `plugin.Net` for one job."""

    def __init__(
        self,
        shared: Shared,
        limits: Limits,
        *,
        scanner: str = "",
        options: Mapping[str, Any] | None = None,
        known: Mapping[str, tuple[Known[Any], ...]] | None = None,
        lease: tuple[int, int] = (0, 0),
    ) -> None:
        self.vantage = shared.vantage
        self.options: Mapping[str, Any] = dict(options or {})
        self.known: Mapping[str, tuple[Known[Any], ...]] = dict(known or {})
        self.journal = Journal(shared.rules)
        self._shared, self._rules, self._scanner = shared, shared.rules, scanner
        self._limits, self._lease = limits, lease
        guard = Guard(limits, shared.machine())
        self._dns = dns.Client(shared.resolvers, shared.rules, self.journal, self._datagram)
        self._dialer = Dialer(guard, self._dns, shared.rules, self.journal, self._connection, shared.tls)

    @asynccontextmanager
    async def _connection(self, address: str) -> AsyncIterator[permits.Held | None]:
        async with self._shared.permits.connection(address, self._scanner), self._permit(address) as held:
            yield held

    @asynccontextmanager
    async def _attempt(self, address: str) -> AsyncIterator[permits.Held | None]:
        async with self._shared.permits.attempt(address), self._permit(address) as held:
            yield held

    @asynccontextmanager
    async def _datagram(self, address: str) -> AsyncIterator[None]:
        # Questions are small and answered at once: they are counted like attempts, not like connections. The resolver
        # is nobody's target, so only what is asked of others needs a permit.
        async with self._shared.permits.attempt(address):
            if any(address == server.address for server in self._shared.resolvers):
                yield
                return
            async with self._permit(address):
                yield

    @asynccontextmanager
    async def _permit(self, address: str) -> AsyncIterator[permits.Held | None]:
        """The right to one connection that counts over all runners; None where there is no such limit."""
        if not self._limits.permits:
            yield None
            return
        if self._shared.shared_permits is None:
            raise Unreached(
                f"Nothing was sent to {address}: its limits need permits, and there is no door here.", "local"
            )
        async with self._shared.shared_permits.connection(self._lease, address) as held:
            self.journal.going(address)
            yield held

    async def resolve(self, name: str) -> list[str]:
        """The addresses of a name that may be contacted; see `plugin.Net`."""
        return await self._dialer.resolve(name)

    async def dns(self, name: str, rdtype: str, *, server: str | None = None, dnssec: bool = False) -> DnsReply:
        """One question to the resolver, or to a server `ADDRESS[:PORT]`; see `plugin.Net`."""
        target: dns.Server | None = None
        if server is not None:
            asked = dns.server(server)
            target = dns.Server(self._dialer.check(asked.address), asked.port)
        return await self._dns.ask(name, rdtype, target, dnssec=dnssec)

    async def connect(self, host: str, port: int, *, tls: str | None = None) -> Stream:
        """A connection; see `plugin.Net`."""
        return await self._dialer.connect(host, port, tls=tls)

    async def get(self, url: str, *, address: str | None = None, headers: Mapping[str, str] | None = None) -> HttpReply:
        """GET without following redirects; see `plugin.Net`."""
        return await http.get(self._dialer, self._rules, url, address=address, headers=headers)

    async def ports(self, address: str, ports: Sequence[int]) -> AsyncGenerator[tuple[int, str], None]:
        """Tries ports; see `plugin.Net`."""
        checked = self._dialer.check(address)
        scan = connect_scan.scan(self._dialer, self._rules, checked, ports, self._attempt)
        async with aclosing(scan):
            async for result in scan:
                yield result

    def has(self, tool: str) -> bool:
        """Whether an external program is installed here."""
        return self._shared.tools.find(tool) is not None

    async def run(self, tool: str, *arguments: str, stdin: bytes = b"", targets: Sequence[str] = ()) -> ToolReply:
        """Runs an external program; see `plugin.Net`. `targets` are addresses."""
        checked = [self._dialer.check(target) for target in targets]
        self.journal.going("anybody")
        if not self.has(tool):
            raise Unreached(f"{tool} is not installed on this runner.", "local")
        self.journal.tool, self.journal.arguments = tool, list(arguments)
        self.journal.tool_version = await self._shared.tools.version(tool)
        for address in checked:
            self.journal.contacted(address)
        async with AsyncExitStack() as stack:
            held = [await stack.enter_async_context(self._permit(address)) for address in dict.fromkeys(checked)]
            reply = await self._run(tool, self._paced(tool, arguments), stdin, [one for one in held if one is not None])
        self.journal.count(len(reply.stdout) + len(reply.stderr))
        return reply

    def _paced(self, tool: str, arguments: Sequence[str]) -> tuple[str, ...]:
        """The arguments with the rate that the program has to keep to, where it has an option for that."""
        option = RATE_OPTIONS.get(tool)
        if not self._limits.rate or option is None:
            return tuple(arguments)
        paced = (
            option,
            f"{self._limits.rate:g}" if tool == "nmap" else str(max(1, int(self._limits.rate))),
            *arguments,
        )
        self.journal.arguments = list(paced)
        return paced

    async def _run(self, tool: str, arguments: Sequence[str], stdin: bytes, held: Sequence[permits.Held]) -> ToolReply:
        running = asyncio.create_task(self._shared.tools.run(tool, arguments, stdin))
        for permit in held:
            permit.lost = running.cancel
        try:
            return await running
        except asyncio.CancelledError:
            running.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await running
            if any(permit.over for permit in held):
                raise Unreached(f"{tool} was ended: its permit to contact the target was over.", "limit") from None
            raise

    async def close(self) -> None:
        """Ends what the scanner left open, and lets it open nothing more."""
        self.journal.end()
        await self._dialer.close()
