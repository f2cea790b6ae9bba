"""One GET over a guarded connection: HTTP/1.1 (RFC 9110, RFC 9112) with h11, redirects never followed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from urllib.parse import urlsplit

import h11
import msgspec

from kattegat.errors import KeyFormatError
from kattegat.model import keys
from kattegat.plugin import HttpReply
from kattegat.runner.dial import Connection, Dialer
from kattegat.runner.limits import Rules, Unreached

MOST_INTERIM = 10


class Target(msgspec.Struct, frozen=True):
    """A URL taken apart: what to connect to, and what to ask for."""

    url: str
    host: str
    port: int
    tls: bool
    authority: str
    path: str


def target(url: str) -> Target:
    """Reads a URL; raises `NotReached` for one that can't be visited."""
    try:
        normal = keys.url(url)
        parts = urlsplit(normal)
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or keys.DEFAULT_PORTS[parts.scheme]
    except (KeyFormatError, ValueError, KeyError) as problem:
        raise Unreached(f"{url[:200]!r} can't be visited: {str(problem).rstrip('.')}.", "unreachable") from None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(normal, host, port, parts.scheme == "https", parts.netloc, path)


def user_agent() -> str:
    """How the runner names itself to those it visits."""
    return f"Kattegat/{version('kattegat')} (+security scan; on behalf of those who answer for this host)"


async def get(
    dialer: Dialer, rules: Rules, url: str, *, address: str | None = None, headers: Mapping[str, str] | None = None
) -> HttpReply:
    """The response to GET; `address` pins which address is contacted. Raises `NotReached` and `Blocked`."""
    wanted = target(url)
    name = wanted.host if wanted.tls else None
    host = wanted.host if address is None else dialer.check(address)
    stream = await dialer.connect(host, wanted.port, tls=name)
    try:
        return await _exchange(stream, rules, wanted, url, headers or {})
    except h11.RemoteProtocolError as problem:
        reason = " ".join(str(problem).split())[:200].rstrip(".")
        raise Unreached(
            f"{stream.peer} port {wanted.port} answered with malformed HTTP: {reason}.", "malformed"
        ) from None
    finally:
        await stream.close()


async def _exchange(stream: Connection, rules: Rules, wanted: Target, url: str, extra: Mapping[str, str]) -> HttpReply:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=rules.header_bytes)
    sent = {
        "Host": wanted.authority,
        "User-Agent": user_agent(),
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    for name, value in extra.items():
        sent = {key: text for key, text in sent.items() if key.lower() != name.lower()}
        sent[name] = value
    request = h11.Request(method="GET", target=wanted.path, headers=list(sent.items()))
    await stream.write(client.send(request) + client.send(h11.EndOfMessage()))
    response: h11.Response | None = None
    body = bytearray()
    interim = received = 0
    cut = False
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            if response is None and received > rules.header_bytes + 65536:
                raise h11.RemoteProtocolError(f"its headers are larger than {rules.header_bytes} bytes")
            data = await stream.read()
            received += len(data)
            client.receive_data(data)
        elif isinstance(event, h11.InformationalResponse):
            interim += 1
            if interim > MOST_INTERIM:
                raise h11.RemoteProtocolError(f"more than {MOST_INTERIM} interim responses")
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > rules.body_bytes:
                del body[rules.body_bytes :]
                cut = True
                break
        else:  # the end of the message, or of the connection before any
            break
    if response is None:
        raise h11.RemoteProtocolError("the connection ended before a response")
    return HttpReply(
        url=url,
        address=stream.peer,
        status=response.status_code,
        headers=tuple((bytes(name), bytes(value)) for name, value in response.headers.raw_items()),
        body=bytes(body),
        cut=cut,
        version=response.http_version.decode("ascii", "replace"),
    )
