"""Checks of SSH servers. A service that does not speak SSH passes them all: it was measured, and there is none."""

from __future__ import annotations

from collections.abc import Iterable

from kattegat.plugin import (
    Context,
    Facts,
    Item,
    Service,
    Unknown,
    Verdict,
    check,
    translatable,
    verdict,
)
from kattegat.plugins.ssh import regresshion
from kattegat.plugins.ssh.algorithms import Kind, judge, judge_key, terrapin
from kattegat.plugins.ssh.facts import SshAlgorithms, SshHostKey, SshServer
from kattegat.plugins.ssh.scan import may_speak_ssh

__all__ = [
    "host_key_unproven",
    "no_modern_kex",
    "open_to_everybody",
    "protocol_1",
    "regresshion_cve",
    "sha1_signature",
    "terrapin_cve",
    "weak_cipher",
    "weak_host_key",
    "weak_kex",
    "weak_mac",
]

AUTHENTICATED = ("chacha20-poly1305", "aes128-gcm", "aes256-gcm", "AEAD_AES_")
"""How the names of ciphers begin that have authentication built in, so that no MAC is used with them."""
MODERN = ("curve25519-", "curve448-", "ecdh-sha2-", "sntrup", "mlkem", "kyber", "ecmqv-sha2", "gss-curve", "gss-nistp")
MOST_NAMED = 5


def _weak(kind: Kind, names: Iterable[str]) -> Verdict:
    """Fails for each algorithm that is known to be weak; with none, says unknown where one is not known at all."""
    items: list[Item] = []
    strange: list[str] = []
    for name in dict.fromkeys(names):
        judged = judge(kind, name)
        if judged.strength in ("weak", "insecure"):
            items.append(Item(name, translatable("{name}: {reason}"), {"name": name, "reason": judged.reason}))
        elif judged.strength == "unknown":
            strange.append(name)
    more = f" and {len(strange) - MOST_NAMED} more" if len(strange) > MOST_NAMED else ""
    reason = f"it is not known how strong {', '.join(strange[:MOST_NAMED])}{more} is" if strange else None
    return verdict(items, unknown=reason)


@check(
    "ssh-protocol-1",
    about=Service,
    needs=[SshServer],
    severity="high",
    title=translatable("The server speaks SSH 1"),
    risk=translatable("Who sits between client and server can read and change an SSH 1 session."),
    fix=translatable("Switch SSH 1 off; current software does not have it any more."),
    reference="RFC 4253 section 5, CVE-2001-0361",
    applies=may_speak_ssh,
)
def protocol_1(context: Context, servers: Facts[SshServer]) -> Verdict:
    """The version in the identification is 1.99 (SSH 1 and 2) or another that begins with 1."""
    items = {
        fact.protocol: Item(
            fact.protocol,
            translatable("it offers SSH 1 beside SSH 2 (version {version})")
            if fact.protocol == "1.99"
            else translatable("it speaks SSH 1 only (version {version})"),
            {"version": fact.protocol},
        )
        for fact in servers
        if fact.protocol.startswith("1.")
    }
    return verdict(list(items.values()))


@check(
    "ssh-weak-kex",
    about=Service,
    needs=[SshAlgorithms],
    severity="medium",
    title=translatable("The server offers weak key exchanges"),
    risk=translatable("A session that is recorded today can be decrypted once the key exchange is broken."),
    fix=translatable("Take them out of KexAlgorithms; what is left should include curve25519-sha256."),
    reference="RFC 9142 section 4",
    applies=may_speak_ssh,
)
def weak_kex(context: Context, algorithms: Facts[SshAlgorithms]) -> Verdict:
    """A key exchange rests on SHA-1 or on a group or key of 1024 bits."""
    return _weak("kex", (name for fact in algorithms for name in fact.kex))


@check(
    "ssh-weak-cipher",
    about=Service,
    needs=[SshAlgorithms],
    severity="medium",
    title=translatable("The server offers weak ciphers"),
    risk=translatable("Parts of a session can be read by somebody who watches it."),
    fix=translatable("Keep chacha20-poly1305@openssh.com and the AES-GCM and AES-CTR ciphers in Ciphers, no others."),
    reference="RFC 8758, RFC 4253 section 6.3, CVE-2008-5161",
    applies=may_speak_ssh,
)
def weak_cipher(context: Context, algorithms: Facts[SshAlgorithms]) -> Verdict:
    """A cipher of either direction is broken, has short blocks, or runs in CBC mode."""
    return _weak("cipher", (name for fact in algorithms for name in (*fact.ciphers_c2s, *fact.ciphers_s2c)))


@check(
    "ssh-weak-mac",
    about=Service,
    needs=[SshAlgorithms],
    severity="low",
    title=translatable("The server offers weak message authentication codes"),
    risk=translatable("Forged packets are found out less surely."),
    fix=translatable("Keep the hmac-sha2 and umac-128 codes in MACs, those with etm first."),
    reference="RFC 6668, NIST SP 800-131A revision 2",
    applies=may_speak_ssh,
)
def weak_mac(context: Context, algorithms: Facts[SshAlgorithms]) -> Verdict:
    """A code rests on MD5 or SHA-1, or is short. Where every cipher has authentication built in, none is used."""
    pairs = [
        pair for fact in algorithms for pair in ((fact.ciphers_c2s, fact.macs_c2s), (fact.ciphers_s2c, fact.macs_s2c))
    ]
    used = (macs for ciphers, macs in pairs if not all(name.startswith(AUTHENTICATED) for name in ciphers))
    return _weak("mac", (name for macs in used for name in macs))


@check(
    "ssh-weak-host-key",
    about=Service,
    needs=[SshHostKey],
    severity="high",
    title=translatable("The server has a weak host key"),
    risk=translatable("Whoever finds the private key can pose as the server."),
    fix=translatable(
        "Make an Ed25519 key and an RSA key of 3072 bits, and take the weak one out of the configuration."
    ),
    reference="NIST SP 800-131A revision 2, RFC 8332",
    applies=may_speak_ssh,
)
def weak_host_key(context: Context, keys: Facts[SshHostKey]) -> Verdict:
    """A host key is DSA, or RSA with fewer than 2048 bits. A key that could not be read makes it unknown."""
    items: dict[str, Item] = {}
    reasons: list[str] = []
    for fact in keys:
        judged = judge_key(fact.type, fact.bits)
        if judged.strength in ("weak", "insecure"):
            text = translatable("{type} {fingerprint}: {reason}")
            params: dict[str, str | int] = {
                "type": fact.type, "fingerprint": fact.fingerprint, "reason": judged.reason,
            }  # fmt: skip
            items[fact.fingerprint] = Item(fact.fingerprint, text, params)
        elif judged.strength == "unknown":
            reasons.append(f"the key {fact.type} is not judged: {judged.reason}")
    reasons += keys.unmeasured
    return verdict(list(items.values()), unknown=reasons[0] if reasons else None)


@check(
    "ssh-sha1-signature",
    about=Service,
    needs=[SshAlgorithms],
    severity="low",
    title=translatable("The server signs with SHA-1 or DSA"),
    risk=translatable("Signatures over SHA-1 can be forged with a chosen prefix; clients stop accepting them."),
    fix=translatable("Take ssh-rsa and ssh-dss out of HostKeyAlgorithms; the same RSA key signs as rsa-sha2-512."),
    reference="RFC 8332 section 3, RFC 9142 section 1.1",
    applies=may_speak_ssh,
)
def sha1_signature(context: Context, algorithms: Facts[SshAlgorithms]) -> Verdict:
    """A host key algorithm signs with SHA-1: ssh-rsa, ssh-dss, and the certificates of their kind."""
    return _weak("host_key", (name for fact in algorithms for name in fact.host_key))


@check(
    "ssh-host-key-unproven",
    about=Service,
    needs=[SshHostKey],
    severity="high",
    title=translatable("The server shows a host key that it has not got"),
    risk=translatable("The key was copied from another server: what answers is broken, or poses as that one."),
    fix=translatable("Find out which machine answers there, and set up its host keys anew."),
    reference="RFC 4253 section 8",
    applies=may_speak_ssh,
)
def host_key_unproven(context: Context, keys: Facts[SshHostKey]) -> Verdict:
    """The signature over the key exchange does not match the host key. One that can't be verified says nothing."""
    text = translatable("{type} {fingerprint}: the signature is wrong")
    items = {
        fact.fingerprint: Item(fact.fingerprint, text, {"type": fact.type, "fingerprint": fact.fingerprint})
        for fact in keys
        if fact.proven is False
    }
    unproven = [f"the signature with {fact.type} can't be verified" for fact in keys if fact.proven is None]
    reasons = [*unproven, *keys.unmeasured]
    return verdict(list(items.values()), unknown=reasons[0] if reasons else None)


@check(
    "ssh-terrapin",
    about=Service,
    needs=[SshAlgorithms],
    severity="medium",
    title=translatable("The server is open to the Terrapin attack (CVE-2023-48795)"),
    risk=translatable("Who sits between can cut off the first messages, and so weaken how the user is authenticated."),
    fix=translatable("Update the SSH server; until then, switch chacha20-poly1305 and the CBC ciphers off."),
    reference="CVE-2023-48795",
    applies=may_speak_ssh,
)
def terrapin_cve(context: Context, algorithms: Facts[SshAlgorithms]) -> Verdict:
    """ChaCha20-Poly1305, or CBC with encrypt-then-MAC, is offered without strict key exchange."""
    open_to = any(
        terrapin(tuple(fact.kex), tuple(ciphers), tuple(macs))
        for fact in algorithms
        for ciphers, macs in ((fact.ciphers_c2s, fact.macs_c2s), (fact.ciphers_s2c, fact.macs_s2c))
    )
    text = translatable("it has no strict key exchange, and offers ChaCha20-Poly1305 or CBC with encrypt-then-MAC")
    return verdict([Item("CVE-2023-48795", text)] if open_to else [])


@check(
    "ssh-regresshion",
    about=Service,
    needs=[SshServer],
    severity="high",
    title=translatable("The OpenSSH server can be taken over (regreSSHion, CVE-2024-6387)"),
    risk=translatable("Without logging in, an attacker with patience runs programs as root."),
    fix=translatable(
        "Update OpenSSH to 9.8 or to your distribution's mended build; until then set LoginGraceTime to 0."
    ),
    reference="CVE-2024-6387",
    openkat=["CVE-2024-6387"],
    applies=may_speak_ssh,
)
def regresshion_cve(context: Context, servers: Facts[SshServer]) -> Verdict:
    """The greeting names a build of Debian or Ubuntu from before the fault was mended.

    OpenSSH 8.5 to 9.7 by anybody else is unknown: distributions mend versions without changing them.
    """
    items: list[Item] = []
    reason: str | None = None
    for fact in servers:
        judged = regresshion.judge(fact.software, fact.comments)
        if judged.standing == "affected":
            params: dict[str, str | int] = {"build": f"{fact.software} {fact.comments}", "reason": judged.reason}
            items = [Item("CVE-2024-6387", translatable("{build}: {reason}"), params)]
        elif judged.standing == "unknown":
            reason = reason or judged.reason
    return verdict(items, unknown=reason)


@check(
    "ssh-open-to-everybody",
    about=Service,
    needs=[SshServer],
    severity="recommendation",
    title=translatable("SSH is open to everybody"),
    risk=translatable("Anyone can try passwords, and weaknesses on the day they become known."),
    fix=translatable("Let it be reached through a VPN or from named addresses only, and take keys only."),
    reference="CIS Controls v8, safeguard 4.4",
    openkat=["KAT-OPEN-SYSADMIN-PORT"],
    applies=may_speak_ssh,
)
def open_to_everybody(context: Context, servers: Facts[SshServer]) -> Verdict:
    """The scanner, a stranger to the server, got as far as its identification."""
    if not len(servers):
        return verdict([])
    return verdict([Item("ssh", translatable("{software} answers"), {"software": servers[0].software})])


@check(
    "ssh-no-modern-kex",
    about=Service,
    needs=[SshAlgorithms],
    severity="low",
    title=translatable("The server has no modern key exchange"),
    risk=translatable("Clients have to fall back on slow or weak groups, and will refuse them one day."),
    fix=translatable("Add curve25519-sha256 to KexAlgorithms, and sntrup761x25519-sha512 or mlkem768x25519-sha256."),
    reference="RFC 9142 section 4, RFC 8731",
    applies=may_speak_ssh,
)
def no_modern_kex(context: Context, algorithms: Facts[SshAlgorithms]) -> Verdict:
    """No key exchange uses an elliptic curve or resists quantum computers."""
    if not len(algorithms):
        return verdict([])
    names = [name for fact in algorithms for name in fact.kex if judge("kex", name).strength != "signal"]
    if any(name.startswith(MODERN) for name in names):
        return verdict([])
    if strange := [name for name in names if judge("kex", name).strength == "unknown"]:
        return Unknown(f"it is not known what {strange[0]} is")
    shown = ", ".join(names[:MOST_NAMED]) or "-"
    return verdict([Item("kex", translatable("it has only {names}"), {"names": shown})])
