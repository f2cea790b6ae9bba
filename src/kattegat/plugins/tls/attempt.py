"""One handshake that was tried: what was offered, what came back, and what that proves.

Proof that something is absent is the server's own word: an alert that means refusal, or a ServerHello with a lower
version. Silence, a reset, a broken reply, or an alert about something else prove nothing. A connection that the server
closes in order without a word, or with an alert that need not mean refusal, counts only beside handshakes that the
server did answer before and after: `settle` decides that over the whole conversation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kattegat.plugins.shared.exchange import HOW_ENDED, Exchange, WireError
from kattegat.plugins.tls.reply import ALERTS, Reply, ReplyReader
from kattegat.plugins.tls.wire import SSL2, VERSIONS, ClientHello, handshake_of, is_ssl2_hello, parse

Outcome = Literal["answered", "refused", "closed", "unknown"]

_REFUSALS = {40, 70, 71}
"""handshake_failure, protocol_version, insufficient_security (RFC 8446 §6.2)."""

_LIKELY_REFUSALS = {0, 10, 47, 50, 80, 109, 110}
"""close_notify, unexpected_message, illegal_parameter, decode_error, internal_error, missing_extension,
unsupported_extension: what servers of various makes answer to a version that they do not speak (OpenSSL 3 says
internal_error where its security level rules the version out), but also to other things."""

_INAPPROPRIATE_FALLBACK = 86


@dataclass
class Attempt:
    """One handshake. `hello` is None for SSL 2.0; `reason`, half a sentence, says why it was not "answered"."""

    hello: ClientHello | None
    reply: Reply
    error: WireError | None
    exchange: Exchange
    outcome: Outcome
    reason: str

    @property
    def wanted(self) -> int | None:
        """The one version that was offered, None if there were several."""
        if self.hello is None:
            return SSL2
        return self.hello.versions[0] if len(self.hello.versions) == 1 else None

    @property
    def alive(self) -> bool:
        """Whether the server showed that it takes part in handshakes, by answering with a hello of its own."""
        return self.reply.version is not None or self.reply.ssl2_ciphers is not None

    @property
    def fallback_refused(self) -> bool:
        """Whether the server turned down a fallback as RFC 7507 asks."""
        return self.reply.alert == _INAPPROPRIATE_FALLBACK


def _judge(hello: ClientHello | None, reply: Reply, reader: ReplyReader, exchange: Exchange) -> tuple[Outcome, str]:
    if reply.ssl2_ciphers is not None:
        return "answered", ""
    if reply.version is not None and hello is not None:
        if reply.version not in hello.versions and len(hello.versions) == 1:
            if reply.version < hello.versions[0]:
                return "refused", f"the server chose {VERSIONS[reply.version]} instead"
            return "unknown", f"the server chose {VERSIONS[reply.version]}, which was not offered"
        if reply.suite not in hello.real_suites:
            return "unknown", f"the server chose cipher suite 0x{reply.suite or 0:04X}, which was not offered"
        return "answered", ""
    if reply.version is not None:
        return "refused", f"the server answered with {VERSIONS[reply.version]}"
    if reply.alert is not None:
        reason = f"the server answered with the alert {ALERTS.get(reply.alert, reply.alert)}"
        if reply.alert in _REFUSALS or (reply.alert == _INAPPROPRIATE_FALLBACK and hello and hello.fallback):
            return "refused", reason
        return ("closed" if reply.alert in _LIKELY_REFUSALS else "unknown"), reason
    if reader.error is not None:
        return "unknown", f"the server's answer is malformed ({reader.error.reason})"
    if exchange.ended == "closed":
        if reader.untouched:
            return "closed", HOW_ENDED["closed"]
        return "unknown", "the server closed the connection in the middle of its answer"
    return "unknown", HOW_ENDED[exchange.ended]


def read_attempt(exchange: Exchange, before: Exchange | None = None) -> Attempt:
    """The attempt of one exchange; `before` is the first half where this one answers a HelloRetryRequest.

    Raises `WireError` if what was sent is no ClientHello; what was received never raises.
    """
    hello = None if is_ssl2_hello(exchange.sent) else parse(handshake_of(exchange.sent))
    reader = ReplyReader(exchange.sent, (before.sent, before.received) if before else None)
    reader.feed(exchange.received)
    outcome, reason = _judge(hello, reader.reply, reader, exchange)
    return Attempt(hello, reader.reply, reader.error, exchange, outcome, reason)


def read_attempts(conversation: Iterable[Exchange]) -> list[Attempt]:
    """The attempts of a conversation in order; raises `WireError` if something that was sent is no ClientHello."""
    attempts: list[Attempt] = []
    for exchange in conversation:
        before = attempts[-1].exchange if exchange.same_connection and attempts else None
        attempts.append(read_attempt(exchange, before))
    return attempts


def _closes_at_random(attempts: list[Attempt]) -> bool:
    """Whether the server closed on an offer of the very things that it chose another time, as a rate limit does."""
    chosen = {(a.wanted, a.reply.suite, a.reply.group) for a in attempts if a.outcome == "answered"}
    for attempt in attempts:
        hello = attempt.hello
        if attempt.outcome != "closed" or attempt.reply.alert or hello is None:
            continue
        if hello.fallback or hello.compression != (0,):
            continue
        for wanted, suite, group in chosen:
            if wanted == attempt.wanted and suite in hello.suites and (group is None or group in hello.groups):
                return True
    return False


def settle(attempts: list[Attempt]) -> None:
    """Makes every "closed" outcome "refused" or "unknown", by the answers before and after it."""
    answered = [at for at, attempt in enumerate(attempts) if attempt.alive]
    random = _closes_at_random(attempts)
    for at, attempt in enumerate(attempts):
        if attempt.outcome != "closed":
            continue
        if random and not attempt.reply.alert:
            attempt.outcome = "unknown"
            attempt.reason += ", as it also did where it had answered the same offer"
        elif answered and answered[0] < at < answered[-1]:
            attempt.outcome = "refused"
        else:
            attempt.outcome = "unknown"
            attempt.reason += ", and no other handshake before and after shows that this meant refusal"
