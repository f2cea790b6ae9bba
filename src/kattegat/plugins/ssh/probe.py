"""What to say to an SSH server to learn its algorithms and host keys, without logging in.

Opens no socket: see `kattegat.plugins.shared.exchange`. `analyse` makes facts of the recorded conversation.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import msgspec
from msgspec.structs import replace

from kattegat.plugins.shared.exchange import (
    HOW_ENDED,
    Conversation,
    Cursor,
    Exchange,
    NotMeasured,
    Probe,
    Step,
    WireError,
)
from kattegat.plugins.ssh import kex
from kattegat.plugins.ssh.kex import METHODS, HostKey
from kattegat.plugins.ssh.wire import (
    KEXINIT,
    NEWKEYS,
    KexInit,
    ServerReader,
    build_kexinit,
    packet,
    read_kexinit,
)

IDENTIFICATION = b"SSH-2.0-Kattegat"

_RSA = ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")

_Dialogue = Generator[Step, Exchange, ServerReader]


class SshProfile(msgspec.Struct, frozen=True):
    """What a conversation shows. None, or an empty tuple, where the server did not get that far: see `not_measured`.

    `protocol`: "2.0", "1.99" or "1.5"; `before`: lines ahead of the identification. The lists of algorithms are the
    server's, in its order; c2s is from client to server. `strict_kex`: whether it has the remedy for CVE-2023-48795.
    """

    protocol: str | None = None
    software: str | None = None
    comments: str | None = None
    before: tuple[str, ...] = ()
    kex: tuple[str, ...] = ()
    host_key_algorithms: tuple[str, ...] = ()
    ciphers_c2s: tuple[str, ...] = ()
    ciphers_s2c: tuple[str, ...] = ()
    macs_c2s: tuple[str, ...] = ()
    macs_s2c: tuple[str, ...] = ()
    compression_c2s: tuple[str, ...] = ()
    compression_s2c: tuple[str, ...] = ()
    strict_kex: bool | None = None
    gex_bits: int | None = None
    host_keys: tuple[HostKey, ...] = ()
    problems: tuple[str, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()


def key_families(host_key_algorithms: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The server's host key algorithms, those that sign with the same key together; certificates are left out."""
    families: dict[str, list[str]] = {}
    for name in host_key_algorithms:
        if "-cert-" not in name and not name.startswith("x509v3-"):
            families.setdefault("rsa" if name in _RSA else name, []).append(name)
    return tuple(tuple(names) for names in families.values())


def _read_kexinit(reader: ServerReader) -> KexInit | None:
    payload = reader.find(KEXINIT)
    try:
        return read_kexinit(payload) if payload is not None else None
    except WireError:
        return None


def _step(what: str, send: bytes, reader: ServerReader, number: int, *, same: bool) -> Step:
    return Step(what, send, lambda data: reader.feed(data) or reader.find(number) is not None, same_connection=same)


def _dialogue(family: tuple[str, ...] | None) -> _Dialogue:
    """One connection up to the host key of `family`; None takes the first one that the server has."""
    reader = ServerReader()
    exchange = yield _step("identification", IDENTIFICATION + b"\r\n", reader, KEXINIT, same=False)
    server = _read_kexinit(reader)
    if server is None or exchange.ended != "enough" or reader.finished:
        return reader
    method = next((name for name in METHODS if name in server.kex), None)
    families = key_families(server.host_keys)
    wanted = family if family in families else None
    if family is None and families:
        wanted = families[0]
    if method is None or wanted is None:
        return reader
    cookie = os.urandom(16)
    # Whatever else the server has is taken over, so that nothing but the host key is left to agree on.
    own = replace(server, cookie=cookie, kex=(method,), host_keys=wanted, guess_follows=False)
    send = packet(build_kexinit(own)) + packet(kex.first_message(method, cookie))
    group = METHODS[method][0] == "gex"
    number = kex.reply_number(method)
    what = f"key exchange for {wanted[0]}"
    exchange = yield _step(what, send, reader, 31 if group else number, same=True)
    if group and exchange.ended == "enough" and (answer := reader.find(31)) is not None:
        try:
            send = packet(kex.second_message(answer, cookie))
        except WireError:
            return reader
        yield _step(f"{what}, in the server's group", send, reader, number, same=True)
    return reader


def probe(*, max_connections: int = 10) -> Probe:
    """One connection for each host key that the server has, each ended before any login."""
    reader = yield from _dialogue(None)
    server = _read_kexinit(reader)
    if server is None or not any(method in METHODS for method in server.kex):
        return
    for family in key_families(server.host_keys)[1:max_connections]:
        reader = yield from _dialogue(family)
        if reader.silent:
            # A server that has begun to turn connections away is left alone.
            return


def banner_probe() -> Probe:
    """One connection, for the identification and the lists of algorithms only."""
    yield _step("identification", IDENTIFICATION + b"\r\n", ServerReader(), KEXINIT, same=False)


class _Connection:
    """What one recorded connection shows."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self.ended = exchanges[-1].ended
        self.reader = ServerReader()
        for exchange in exchanges:
            self.reader.feed(exchange.received)
        self.offer: tuple[bytes, KexInit] | None = None
        sent = Cursor(b"".join(exchange.sent for exchange in exchanges), "SSH", "what was sent")
        line, _, packets = sent.data.partition(b"\r\n")
        if not line.startswith(b"SSH-"):
            raise WireError("SSH", "what was sent does not begin with an identification")
        self.identification = line
        if packets:
            body = Cursor(Cursor(packets, "SSH", "what was sent").vector(4), "SSH", "what was sent")
            padding = body.uint(1)
            payload = body.take(max(0, body.left() - padding))
            self.offer = (payload, read_kexinit(payload))

    def host_key(self) -> HostKey | None:
        """The host key, None if it did not come; raises `WireError` if it is malformed."""
        server = self.reader.find(KEXINIT)
        if self.offer is None or server is None or self.reader.identification is None:
            return None
        payload, own = self.offer
        method = own.kex[0] if own.kex else ""
        if method not in METHODS:
            raise WireError("SSH", "what was sent has no known key exchange")
        number = kex.reply_number(method)
        reply = self.reader.find(number)
        if reply is None:
            return None
        hello = (self.identification, self.reader.identification.raw, payload, server)
        group = self.reader.find(31) if number == 33 else None
        return kex.read_reply(method, own.cookie, reply, hello, group)

    def gex_bits(self) -> int | None:
        if self.offer is None or not self.offer[1].kex or METHODS.get(self.offer[1].kex[0], ("",))[0] != "gex":
            return None
        group = self.reader.find(31)
        try:
            return kex.read_group(group)[0].bit_length() if group is not None else None
        except WireError:
            return None

    def why(self) -> str:
        """Why it got no further, as half a sentence."""
        if self.reader.error is not None:
            return f"its bytes are malformed ({self.reader.error.reason})"
        if self.reader.disconnect is not None:
            return f"the server took leave: {self.reader.disconnect}"
        if self.reader.identification is None and self.reader.early_text():
            return f"{HOW_ENDED[self.ended]} after {self.reader.early_text()!r}"
        if self.reader.identification is not None and not self.reader.identification.speaks_2:
            return "the server does not speak SSH 2"
        if self.reader.payloads and self.reader.payloads[-1][0] == NEWKEYS:
            return "the server changed keys without sending one"
        return HOW_ENDED[self.ended]


def _connections(conversation: Conversation) -> list[_Connection]:
    groups: list[list[Exchange]] = []
    for exchange in conversation:
        if exchange.same_connection and groups:
            groups[-1].append(exchange)
        else:
            groups.append([exchange])
    return [_Connection(group) for group in groups]


def analyse(conversation: Conversation) -> SshProfile:
    """What `probe` or `banner_probe` found. Pure; what the server sent never raises.

    Raises `WireError` if what was sent is no SSH, so that the conversation cannot be one of ours.
    """
    connections = _connections(conversation)
    if not connections:
        return SshProfile(not_measured=(NotMeasured("identification", "No connection was tried."),))
    first = next((c for c in connections if c.reader.identification is not None), connections[0])
    ident = first.reader.identification
    if ident is None:
        missing = NotMeasured("identification", f"The server's identification was not read, because {first.why()}.")
        return SshProfile(not_measured=(missing,))
    profile = SshProfile(ident.protocol, ident.software, ident.comments, ident.before, problems=ident.problems)
    payload = next((p for c in connections if (p := c.reader.find(KEXINIT)) is not None), None)
    try:
        server = read_kexinit(payload) if payload is not None else None
        reason = first.why()
    except WireError as error:
        server, reason = None, error.reason
    if server is None:
        missing = NotMeasured("algorithms", f"The server's algorithms were not read, because {reason}.")
        return replace(profile, not_measured=(missing,))
    lists = {name: getattr(server, name) for name in KexInit.__struct_fields__[3:9]}
    profile = replace(profile, kex=server.kex, host_key_algorithms=server.host_keys, **lists)
    profile = replace(profile, strict_kex="kex-strict-s-v00@openssh.com" in server.kex)
    return _with_keys(profile, connections, server)


def _with_keys(profile: SshProfile, connections: list[_Connection], server: KexInit) -> SshProfile:
    keys: dict[bytes, HostKey] = {}
    problems, missing = dict.fromkeys(profile.problems), []
    reasons: dict[str, str] = {}
    seen: set[str] = set()
    for connection in connections:
        if connection.offer is None:
            reasons.setdefault("", connection.why())
            continue
        asked = connection.offer[1].host_keys or ("",)
        try:
            key = connection.host_key()
        except WireError as error:
            reasons[asked[0]] = error.reason
            continue
        if key is None:
            reasons[asked[0]] = connection.why()
            continue
        seen.update(asked)
        keys.setdefault(key.blob, key)
        if key.proven is False:
            problems[f"The server's signature with its {key.type} key is wrong."] = None
    tried = any(connection.offer is not None for connection in connections)
    usable = any(method in METHODS for method in server.kex)
    for family in key_families(server.host_keys):
        if seen.isdisjoint(family):
            default = reasons.get("", "it was not asked for") if tried or usable else "no key exchange is in common"
            reason = reasons.get(family[0], default)
            missing.append(NotMeasured(f"host key {family[0]}", f"The host key was not read, because {reason}."))
    return replace(
        profile,
        gex_bits=next((bits for c in connections if (bits := c.gex_bits()) is not None), None),
        host_keys=tuple(keys.values()),
        problems=tuple(problems),
        not_measured=tuple(missing),
    )
