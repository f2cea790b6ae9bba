"""How the TLS scanners reach a website: its addresses, and a recorded conversation with each of them."""

from __future__ import annotations

import errno
import ipaddress
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from kattegat.plugin import Net, NotReached, Part, Website
from kattegat.plugins.shared.addresses import in_order
from kattegat.plugins.shared.converse import Line, converse, os_error
from kattegat.plugins.shared.exchange import Conversation, Probe, WireError, decode, encode
from kattegat.plugins.tls.facts import NO_IPV6
from kattegat.plugins.tls.wire import host_name

MOST_ADDRESSES = 4
STEP_SECONDS = 20.0
"""For connecting, with the wait for one's turn, and for each step; the runner's own limits are tighter for silence."""

PART = "conversation"


class Talk(NamedTuple):
    """What was said with one address; `problem` is "" or why the last connection did not come about."""

    address: str
    conversation: Conversation
    at: datetime
    problem: str

    def part(self) -> Part:
        """The conversation as a part of evidence; `read` is the inverse."""
        notes = {"address": self.address, "at": self.at.isoformat(), "problem": self.problem}
        return Part(PART, encode(self.conversation), notes)


def read(part: Part) -> Talk:
    """The conversation of a part; raises `WireError` for one that can't be read."""
    try:
        at = datetime.fromisoformat(str(part.notes.get("at", "")))
        ipaddress.ip_address(str(part.notes.get("address", "")))
    except ValueError as error:
        raise WireError("conversation", f"its notes can't be read ({error})") from None
    if at.tzinfo is None:
        raise WireError("conversation", "its time has no zone")
    return Talk(str(part.notes["address"]), decode(part.content), at, str(part.notes.get("problem", "")))


async def addresses(site: Website, net: Net) -> list[str]:
    """Addresses of the site's host in a steady order, IPv4 first, four at most; raises `NotReached` if it has none."""
    try:
        host_name(site.host)
    except WireError as error:
        raise NotReached(f"{site.host} can't be sent as a TLS server name: {error.reason}.") from None
    found = await net.resolve(site.host)
    if not found:
        raise NotReached(f"{site.host} has no address.")
    return in_order(found)[:MOST_ADDRESSES]


def _no_ipv6(address: str, problem: NotReached) -> bool:
    """Whether this machine could not even try, for want of a route or an address of its own for IPv6."""
    error = problem.__context__
    return (
        ":" in address
        and isinstance(error, OSError)
        and error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    )


def bounded(plan: Probe, seconds: float, clock: Callable[[], float] = time.monotonic) -> Probe:
    """The plan, ended before its next step once `seconds` have passed, so that what was learnt is not lost."""
    until = clock() + seconds
    try:
        step = next(plan)
        while True:
            exchange = yield step
            step = plan.send(exchange)
            if clock() >= until:
                return
    except StopIteration:
        return
    finally:
        plan.close()


async def talk(net: Net, address: str, port: int, plan: Probe, *, pause: float = 0.0) -> Talk:
    """Carries out a plan with one address. Raises `NotReached` only where this machine is to blame, and `Blocked`."""
    problems: list[str] = []

    async def connect() -> Line:
        try:
            return Line(await net.connect(address, port))
        except NotReached as problem:
            if _no_ipv6(address, problem):
                problems.append(f"{NO_IPV6}.")
                raise ConnectionError(NO_IPV6) from problem
            problems.append(str(problem))
            raise os_error(problem) from problem

    at = datetime.now(UTC).replace(microsecond=0)
    conversation = await converse(plan, connect, seconds=STEP_SECONDS, pause=pause)
    return Talk(address, conversation, at, problems[-1] if problems else "")
