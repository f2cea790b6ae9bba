"""Which handshakes to try with a server, one after the other. Opens no socket: see `shared.exchange`."""

from __future__ import annotations

import os
from collections.abc import Generator

from msgspec.structs import replace

from kattegat.plugins.shared.exchange import Exchange, Probe, Step
from kattegat.plugins.tls.attempt import Attempt, read_attempt
from kattegat.plugins.tls.groups import CURVES, KEY_SHARE_GROUPS, TLS13_GROUPS
from kattegat.plugins.tls.reply import ReplyReader
from kattegat.plugins.tls.suites import FALLBACK_SCSV, RENEGOTIATION_SCSV, offer, suites
from kattegat.plugins.tls.wire import (
    SSL3,
    TLS10,
    TLS11,
    TLS12,
    TLS13,
    VERSIONS,
    ClientHello,
    first_flight,
    host_name,
    single,
    ssl2_hello,
    visitor,
)

HTTP = ("h2", "http/1.1")

_SILENCE = 3
"""After so many handshakes in a row without an answer in TLS the server is left alone."""

_Trial = Generator[Step, Exchange, Attempt]


class _Stop(Exception):  # noqa: N818 - it ends the probe early and never leaves it
    pass


class _Run:
    """The handshakes of one probe: counts them, and stops when there are too many or nobody answers."""

    def __init__(self, server_name: str | None, max_handshakes: int) -> None:
        self.name = server_name
        self.left = max_handshakes
        self.silent = 0
        self.found: dict[int, list[int]] = {}

    def count(self, attempt: Attempt) -> Attempt:
        silent = attempt.outcome == "unknown" and attempt.reply.alert is None and not attempt.alive
        self.silent = self.silent + 1 if silent else 0
        if self.silent >= _SILENCE:
            raise _Stop
        return attempt

    def spend(self) -> None:
        # The last one is kept for the handshake that shows whether the server still answers.
        if self.left <= 1:
            raise _Stop
        self.left -= 1

    def try_hello(self, what: str, hello: ClientHello) -> _Trial:
        self.spend()
        sent = first_flight(hello)
        # All that a TLS 1.3 server says in the clear is its ServerHello; below, the key exchange is worth waiting for.
        reader = ReplyReader(sent, hello_only=hello.versions == (TLS13,))
        return self.count(read_attempt((yield Step(what, sent, reader.feed))))

    def try_twice(self, what: str, hello: ClientHello) -> _Trial:
        """Tries again once where the first time proves nothing."""
        attempt = yield from self.try_hello(what, hello)
        if attempt.outcome in ("unknown", "closed") and attempt.exchange.ended != "limit":
            attempt = yield from self.try_hello(what + ", again", replace(hello, random=os.urandom(32)))
        return attempt

    def version(self, version: int) -> Generator[Step, Exchange, None]:
        """Every suite of one version: the one chosen is left out of the next offer until the server refuses."""
        left, found = list(offer(version)), self.found.setdefault(version, [])
        signal = () if version == TLS13 else (RENEGOTIATION_SCSV,)
        while left:
            hello = replace(single(version, os.urandom(32), self.name), suites=(*left, *signal))
            attempt = yield from self.try_twice(f"{VERSIONS[version]}, {len(left)} cipher suites", hello)
            if attempt.outcome != "answered" or attempt.reply.suite not in left:
                break
            found.append(attempt.reply.suite)
            left.remove(attempt.reply.suite)
        if len(found) > 1:
            hello = replace(single(version, os.urandom(32), self.name), suites=(*reversed_offer(found), *signal))
            yield from self.try_twice(f"{VERSIONS[version]}, order of preference", hello)

    def groups(self, version: int) -> Generator[Step, Exchange, None]:
        """The named groups of one version, in the same way."""
        if version == TLS13:
            chosen, left = self.found[version], list(TLS13_GROUPS)
        else:
            chosen, left = group_suites(self.found[version]), list(CURVES)
        while chosen and left:
            hello = single(version, os.urandom(32), self.name)
            offered = reversed_offer(chosen) if len(chosen) > 1 else tuple(chosen)
            hello = replace(hello, suites=offered, groups=tuple(left), shares=())
            attempt = yield from self.try_twice(f"{VERSIONS[version]}, {len(left)} groups", hello)
            if attempt.outcome != "answered" or attempt.reply.group not in left:
                break
            left.remove(attempt.reply.group)

    def extras(self) -> Generator[Step, Exchange, None]:
        """FALLBACK_SCSV with the second highest version, and DEFLATE with the highest that may have it."""
        spoken = [version for version, found in sorted(self.found.items(), reverse=True) if found]
        if len(spoken) > 1:
            hello = single(spoken[1], os.urandom(32), self.name)
            hello = replace(hello, suites=(*self.found[spoken[1]], RENEGOTIATION_SCSV, FALLBACK_SCSV))
            yield from self.try_twice(f"{VERSIONS[spoken[1]]}, as a fallback", hello)
        old = [version for version in spoken if version != TLS13]
        if old:
            hello = single(old[0], os.urandom(32), self.name)
            hello = replace(hello, suites=(*self.found[old[0]], RENEGOTIATION_SCSV), compression=(1, 0))
            yield from self.try_twice(f"{VERSIONS[old[0]]}, with compression", hello)


def reversed_offer(found: list[int]) -> tuple[int, ...]:
    """The suites so that the server's first choice comes last.

    ChaCha20 does not come first where that can be avoided: many servers prefer it only if the client does, which
    would look as if they followed the client in everything.
    """
    codes = list(reversed(found))
    first = next((at for at, code in enumerate(codes[:-1]) if "CHACHA20" not in suites()[code].encryption), 0)
    return (codes[first], *codes[:first], *codes[first + 1 :])


def group_suites(found: list[int]) -> list[int]:
    """The suites to ask for groups with: those with an RSA key if there are any.

    An ECDSA suite can be refused because the curve of the certificate's own key is left out (RFC 8422 §5.1).
    """
    known = [suites()[code] for code in found if suites()[code].key_exchange == "ECDHE"]
    rsa = [suite.code for suite in known if suite.authentication == "RSA"]
    return rsa or [suite.code for suite in known]


def _visit(run: _Run, what: str, alpn: tuple[str, ...], *, old: bool = False) -> _Trial:
    hello = visitor(os.urandom(32), run.name, alpn, old=old)
    sent = first_flight(hello)
    exchange = yield Step(what, sent, ReplyReader(sent).feed)
    attempt = read_attempt(exchange)
    reply = attempt.reply
    if reply.retry and exchange.ended == "enough" and (reply.cookie or reply.group not in hello.shares):
        shares = (reply.group,) if reply.group in KEY_SHARE_GROUPS else hello.shares
        again = first_flight(replace(hello, shares=shares, cookie=reply.cookie), retried=True)
        reader = ReplyReader(again, (exchange.sent, exchange.received))
        second = yield Step(f"{what}, after a HelloRetryRequest", again, reader.feed, same_connection=True)
        return read_attempt(second, exchange)
    return attempt


def certificate_probe(server_name: str | None, *, alpn: tuple[str, ...] = HTTP) -> Probe:
    """One handshake as a modern visitor makes it (TLS 1.3 and 1.2), up to the certificate; never sends Finished.

    `server_name`: for server_name (SNI) in ASCII form; None or an address sends none. `alpn`: the protocols to offer;
    a server that has none of them is tried once more without, and one that refuses both versions once more with
    TLS 1.1 and 1.0 offered too. Raises `WireError` for a bad name.
    """
    run = _Run(host_name(server_name), 2)
    attempt = yield from _visit(run, "a visitor's handshake", alpn)
    if alpn and attempt.reply.alert == 120:
        attempt = yield from _visit(run, "a visitor's handshake without ALPN", ())
    if attempt.outcome in ("refused", "closed"):
        yield from _visit(run, "an old visitor's handshake", (), old=True)


def probe(
    server_name: str | None, *, alpn: tuple[str, ...] = HTTP, groups: bool = True, max_handshakes: int = 240
) -> Probe:
    """All that is worth knowing of a server's TLS: versions, suites, preference, groups, fallback, compression.

    About 40 connections with a server of today, more with one that has many suites, `max_handshakes` at most. The
    first and the last are a visitor's, so that a connection closed in between can be told from a server that went
    away. Raises `WireError` for a bad name.
    """
    run = _Run(host_name(server_name), max_handshakes)
    attempt = yield from _visit(run, "a visitor's handshake", alpn)
    if alpn and attempt.reply.alert == 120:
        alpn = ()
        attempt = yield from _visit(run, "a visitor's handshake without ALPN", alpn)
    if attempt.exchange.ended == "unreachable":
        return
    try:
        for version in (TLS13, TLS12, TLS11, TLS10, SSL3):
            yield from run.version(version)
        run.spend()
        sent = ssl2_hello(os.urandom(16))
        run.count(read_attempt((yield Step("SSLv2", sent, ReplyReader(sent).feed))))
        yield from run.extras()
        if groups:
            spoken = [version for version, found in sorted(run.found.items()) if found and version > SSL3]
            for version in sorted({*spoken[-1:], *[v for v in spoken if v != TLS13][-1:]}):
                yield from run.groups(version)
    except _Stop:
        pass
    if run.silent < _SILENCE:
        yield from _visit(run, "a visitor's handshake at the end", alpn)
