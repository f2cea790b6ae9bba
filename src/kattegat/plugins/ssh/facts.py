"""What is known of an SSH server."""

from __future__ import annotations

from kattegat.plugin import Fact, Service

__all__ = ["SshAlgorithms", "SshHostKey", "SshServer"]


class SshServer(Fact, about=Service):
    """An SSH server's identification (RFC 4253 section 4.2). A service that does not speak SSH has no such fact.

    `protocol` is "2.0", "1.99" (SSH 1 and 2) or "1.5" (SSH 1 only); `software` like "OpenSSH_9.2p1"; `comments` is what
    comes after it, "" when nothing does. `problems`: sentences about what breaks the protocol's rules.
    """

    protocol: str
    software: str
    comments: str
    problems: list[str]


class SshAlgorithms(Fact, about=Service):
    """The algorithms that the server offers, in its order (RFC 4253 section 7.1); c2s is from client to server.

    `kex` has the marks of extensions too, such as kex-strict-s-v00@openssh.com.
    """

    kex: list[str]
    host_key: list[str]
    ciphers_c2s: list[str]
    ciphers_s2c: list[str]
    macs_c2s: list[str]
    macs_s2c: list[str]
    compression_c2s: list[str]
    compression_s2c: list[str]


class SshHostKey(Fact, about=Service):
    """A host key. Item: its type, such as `ssh-ed25519`; a second key of one type has its fingerprint behind it.

    `bits`: the size of the modulus or curve, None when it is not known. `fingerprint`: "SHA256:" and base64, as
    `ssh-keygen -l` prints it. `proven`: whether the server showed that it has the private half, None if that can't be
    told.
    """

    type: str
    bits: int | None
    fingerprint: str
    proven: bool | None
