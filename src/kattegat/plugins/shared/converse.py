"""Carries out a probe over byte streams that someone else opens, and keeps all that was said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from kattegat import plugin
from kattegat.plugin import NotReached
from kattegat.plugins.shared.exchange import MAX_CONVERSATION, Conversation, Ended, Exchange, Probe, Step


class Stream(Protocol):
    """A connection. `read`: at most that many bytes, b"" at the end of the stream, OSError where it broke."""

    async def read(self, limit: int, /) -> bytes: ...

    async def write(self, data: bytes, /) -> None: ...

    async def close(self) -> None: ...


class Line:
    """A connection of the runner whose failures are the `OSError`s that `converse` expects."""

    def __init__(self, stream: plugin.Stream) -> None:
        self._stream = stream

    async def read(self, limit: int, /) -> bytes:
        try:
            return await self._stream.read(limit)
        except NotReached as problem:
            raise os_error(problem) from problem

    async def write(self, data: bytes, /) -> None:
        try:
            await self._stream.write(data)
        except NotReached as problem:
            raise os_error(problem) from problem

    async def close(self) -> None:
        await self._stream.close()


def os_error(problem: NotReached) -> Exception:
    """The failure as `converse` expects it; itself where this machine or the job's share is to blame.

    That says nothing about the server, so it ends the scan.
    """
    if problem.how in ("local", "limit"):
        return problem
    return TimeoutError(str(problem)) if problem.how == "timeout" else ConnectionError(str(problem))


async def _exchange(stream: Stream, step: Step, seconds: float) -> Exchange:
    received = bytearray()
    ended: Ended = "timeout"
    try:
        # One limit for the whole step: a server that sends a byte now and then must not hold the task for ever.
        async with asyncio.timeout(seconds):
            await stream.write(step.send)
            while True:
                data = await stream.read(min(65536, step.limit - len(received)))
                received += data
                if not data:
                    ended = "closed"
                elif step.enough(data):
                    ended = "enough"
                elif len(received) >= step.limit:
                    ended = "limit"
                else:
                    continue
                break
    except TimeoutError:
        ended = "timeout"
    except OSError:
        ended = "reset"
    return Exchange(step.what, step.same_connection, step.send, bytes(received), ended)


async def converse(
    plan: Probe,
    connect: Callable[[], Awaitable[Stream]],
    *,
    seconds: float = 10.0,
    pause: float = 0.0,
) -> Conversation:
    """The conversation that comes of `plan`, to be kept as evidence with `exchange.encode`.

    `connect` opens a connection to the server (and speaks STARTTLS where that comes first); OSError and TimeoutError
    mean that none came about, every other exception ends the conversation and goes on to the caller. `seconds`: for
    connecting, and for each step. `pause`: seconds between connections, to spare the server. Ends early, without the
    rest of the plan, once more than `MAX_CONVERSATION` / 2 bytes were received.
    """
    conversation: list[Exchange] = []
    stream: Stream | None = None
    total = 0
    try:
        step = next(plan)
        while total <= MAX_CONVERSATION // 2:
            if not step.same_connection:
                if stream is not None:
                    await _close(stream)
                    stream = None
                    await asyncio.sleep(pause)
                try:
                    async with asyncio.timeout(seconds):
                        stream = await connect()
                except OSError:
                    stream = None
            if stream is None:
                exchange = Exchange(step.what, step.same_connection, step.send, b"", "unreachable")
            else:
                exchange = await _exchange(stream, step, seconds)
            conversation.append(exchange)
            total += len(exchange.received) + len(exchange.sent)
            step = plan.send(exchange)
    except StopIteration:
        pass
    finally:
        plan.close()
        if stream is not None:
            await _close(stream)
    return tuple(conversation)


async def _close(stream: Stream) -> None:
    try:
        await stream.close()
    except OSError:
        # The other side was faster; nothing is lost.
        return
