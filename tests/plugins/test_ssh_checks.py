"""Checks of SSH, each by tables of facts: what passes, what fails with which items, what is unknown and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kattegat.plugin import (
    Context,
    Evidence,
    Fact,
    Facts,
    Fail,
    Found,
    IPAddress,
    Known,
    Pass,
    Service,
    Unknown,
    Verdict,
    declared,
)
from kattegat.plugins import ssh
from kattegat.plugins.ssh import SshAlgorithms, SshHostKey, SshScanner, SshServer

SERVICE = Service(IPAddress("192.0.2.1"), "tcp", 22)
NOW = datetime(2026, 11, 1, tzinfo=UTC)
FOLDER = Path(__file__).parent / "recorded" / "ssh"
STRICT = "kex-strict-s-v00@openssh.com"
CHACHA, GCM = "chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com"
SHA1 = "it rests on SHA-1, for which collisions can be made (RFC 9142 section 1.1)"
CBC = "CBC mode with encrypt-and-MAC leaks plaintext (CVE-2008-5161; RFC 4251 section 9.3.1)"
CHECKS = declared(ssh)[1]


def facts(*found: Fact, unmeasured: tuple[str, ...] = ()) -> Facts[Any]:
    return Facts([Known(SERVICE, fact, "", "ssh", "internet", NOW) for fact in found], unmeasured)


def judge(check: Callable[..., Verdict], *found: Fact, unmeasured: tuple[str, ...] = ()) -> list[tuple[str, str]] | str:
    """The items as (key, sentence); "" for pass, the reason for unknown."""
    result = check(Context(SERVICE, NOW), facts(*found, unmeasured=unmeasured))
    if isinstance(result, Fail):
        return [(item.key, str(item)) for item in result.items]
    assert isinstance(result, Pass | Unknown)
    return result.reason if isinstance(result, Unknown) else ""


def server(software: str = "OpenSSH_9.9p1", comments: str = "", protocol: str = "2.0") -> SshServer:
    return SshServer(protocol=protocol, software=software, comments=comments, problems=[])


def offer(
    kex: list[str] | None = None,
    ciphers: list[str] | None = None,
    macs: list[str] | None = None,
    **fields: list[str],
) -> SshAlgorithms:
    ciphers, macs = ciphers or ["aes256-ctr"], macs or ["hmac-sha2-256"]
    right: dict[str, list[str]] = {
        "kex": kex or ["curve25519-sha256", STRICT], "host_key": ["ssh-ed25519"], "ciphers_c2s": ciphers,
        "ciphers_s2c": ciphers, "macs_c2s": macs, "macs_s2c": macs, "compression_c2s": ["none"],
        "compression_s2c": ["none"],
    }  # fmt: skip
    return SshAlgorithms(**(right | fields))


def key(type_: str = "ssh-ed25519", bits: int | None = 256, proven: bool | None = True) -> SshHostKey:
    return SshHostKey(type=type_, bits=bits, fingerprint=f"SHA256:{type_}", proven=proven)


def recorded(case: str) -> dict[str, list[Fact]]:
    evidence = Evidence.unpack((FOLDER / f"ssh--{case}.evidence").read_bytes())
    found: dict[str, list[Fact]] = {}
    for entry in SshScanner().parse(SERVICE, evidence):
        assert isinstance(entry, Found)
        found.setdefault(entry.fact.kind, []).append(entry.fact)
    return found


def verdicts(case: str) -> dict[str, list[str] | str]:
    """Of each check the keys of its items, "" for pass, or the reason for unknown."""
    found = recorded(case)
    result: dict[str, list[str] | str] = {}
    for spec in CHECKS:
        judged = judge(spec.function, *found.get(spec.needs[0].fact.kind, []))
        result[spec.name] = judged if isinstance(judged, str) else [name for name, _ in judged]
    return result


def test_the_right_server() -> None:
    expected: dict[str, list[str] | str] = {spec.name: "" for spec in CHECKS}
    expected["ssh-open-to-everybody"] = ["ssh"]
    expected["ssh-regresshion"] = (
        "OpenSSH_9.2p1 has the fault unless it was built with the patch, which its greeting hides"
    )
    assert verdicts("right") == expected


def test_the_wrong_server() -> None:
    rsa = next(fact for fact in recorded("wrong")["SshHostKey"] if fact.type == "ssh-rsa")  # type: ignore[attr-defined]
    assert verdicts("wrong") == {
        "ssh-host-key-unproven": "",
        "ssh-no-modern-kex": "",
        "ssh-open-to-everybody": ["ssh"],
        "ssh-protocol-1": "",
        "ssh-regresshion": "",
        "ssh-sha1-signature": ["ssh-rsa"],
        "ssh-terrapin": "",
        "ssh-weak-cipher": ["3des-cbc", "aes128-cbc", "aes256-cbc"],
        "ssh-weak-host-key": [rsa.fingerprint],  # type: ignore[attr-defined]
        "ssh-weak-kex": [
            "diffie-hellman-group1-sha1", "diffie-hellman-group14-sha1", "diffie-hellman-group-exchange-sha1",
        ],
        "ssh-weak-mac": ["hmac-md5", "hmac-md5-96", "hmac-sha1", "hmac-sha1-96"],
    }  # fmt: skip


@pytest.mark.parametrize("case", ["ftp", "web", "no-greeting"])
def test_what_is_not_ssh_passes(case: str) -> None:
    assert set(verdicts(case).values()) == {""}


@pytest.mark.parametrize(
    ("protocol", "items"),
    [
        ("2.0", ""),
        ("1.99", [("1.99", "it offers SSH 1 beside SSH 2 (version 1.99)")]),
        ("1.5", [("1.5", "it speaks SSH 1 only (version 1.5)")]),
    ],
)
def test_protocol_1(protocol: str, items: list[tuple[str, str]] | str) -> None:
    assert judge(ssh.protocol_1, server(protocol=protocol)) == items


@pytest.mark.parametrize(
    ("kex", "items"),
    [
        (["curve25519-sha256", "ext-info-s", STRICT], ""),
        (["diffie-hellman-group14-sha1"], [("diffie-hellman-group14-sha1", f"diffie-hellman-group14-sha1: {SHA1}")]),
        (["own-kex@example.org", "curve25519-sha256"], "it is not known how strong own-kex@example.org is"),
        ([f"k{n}" for n in range(7)], "it is not known how strong k0, k1, k2, k3, k4 and 2 more is"),
        # What is known to be weak is said, whatever else is there.
        (
            ["own-kex@example.org", "diffie-hellman-group-exchange-sha1"],
            [("diffie-hellman-group-exchange-sha1", f"diffie-hellman-group-exchange-sha1: {SHA1}")],
        ),
    ],
)
def test_weak_kex(kex: list[str], items: list[tuple[str, str]] | str) -> None:
    assert judge(ssh.weak_kex, offer(kex)) == items


@pytest.mark.parametrize(
    ("c2s", "s2c", "items"),
    [
        ([CHACHA, GCM, "aes128-ctr"], [CHACHA], ""),
        (["aes128-ctr"], ["aes128-cbc"], [("aes128-cbc", f"aes128-cbc: {CBC}")]),  # one direction is enough
        (["aes128-cbc"], ["aes128-cbc"], [("aes128-cbc", f"aes128-cbc: {CBC}")]),  # and both are one item
        (["arcfour128"], [GCM], [("arcfour128", "arcfour128: RC4 is broken and must not be used (RFC 8758)")]),
        (["x@example.org"], [GCM], "it is not known how strong x@example.org is"),
    ],
)
def test_weak_cipher(c2s: list[str], s2c: list[str], items: list[tuple[str, str]] | str) -> None:
    assert judge(ssh.weak_cipher, offer(ciphers_c2s=c2s, ciphers_s2c=s2c)) == items


@pytest.mark.parametrize(
    ("ciphers", "macs", "items"),
    [
        (["aes128-ctr"], ["hmac-sha2-256-etm@openssh.com"], ""),
        (
            ["aes128-ctr", CHACHA],
            ["hmac-md5"],
            [("hmac-md5", "hmac-md5: it rests on MD5, which is broken (RFC 6151)")],
        ),
        ([CHACHA, GCM], ["hmac-md5"], ""),  # never used
    ],
)
def test_weak_mac(ciphers: list[str], macs: list[str], items: list[tuple[str, str]] | str) -> None:
    assert judge(ssh.weak_mac, offer(None, ciphers, macs)) == items


@pytest.mark.parametrize(
    ("keys", "unmeasured", "items"),
    [
        ([key(), key("ssh-rsa", 2048), key("ecdsa-sha2-nistp256")], (), ""),
        (
            [key("ssh-rsa", 2047)],
            (),
            [("SHA256:ssh-rsa", "ssh-rsa SHA256:ssh-rsa: its modulus of 2047 bits is shorter than 2048")],
        ),
        (
            [key("ssh-rsa", 768)],
            (),
            [("SHA256:ssh-rsa", "ssh-rsa SHA256:ssh-rsa: its modulus of 768 bits can be factored")],
        ),
        (
            [key("ssh-dss", 1024)],
            (),
            [("SHA256:ssh-dss", "ssh-dss SHA256:ssh-dss: DSA is limited to 1024 bits and SHA-1")],
        ),
        ([key()], ("ssh-rsa: the server did not answer in time",), "ssh-rsa: the server did not answer in time"),
        ([key("own", None)], (), "the key own is not judged: it is not in the list of known algorithms"),
    ],
)
def test_weak_host_key(keys: list[SshHostKey], unmeasured: tuple[str, ...], items: list[tuple[str, str]] | str) -> None:
    assert judge(ssh.weak_host_key, *keys, unmeasured=unmeasured) == items


def test_signatures_with_sha_1() -> None:
    assert judge(ssh.sha1_signature, offer(host_key=["rsa-sha2-512", "ssh-ed25519"])) == ""
    assert judge(ssh.sha1_signature, offer(host_key=["rsa-sha2-512", "ssh-rsa", "ssh-dss"])) == [
        ("ssh-rsa", "ssh-rsa: it signs with SHA-1 (RFC 8332)"),
        ("ssh-dss", "ssh-dss: DSA is limited to 1024 bits and SHA-1"),
    ]


def test_a_host_key_has_to_be_proven() -> None:
    assert judge(ssh.host_key_unproven, key()) == ""
    assert judge(ssh.host_key_unproven, key(), key("ssh-rsa", 2048, False)) == [
        ("SHA256:ssh-rsa", "ssh-rsa SHA256:ssh-rsa: the signature is wrong")
    ]
    assert judge(ssh.host_key_unproven, key("own", None, None)) == "the signature with own can't be verified"


@pytest.mark.parametrize(
    ("algorithms", "fails"),
    [
        (offer(["curve25519-sha256", STRICT], [CHACHA]), False),
        (offer(["curve25519-sha256"], [CHACHA]), True),
        (offer(["curve25519-sha256"], ["aes128-cbc"], ["hmac-sha2-256-etm@openssh.com"]), True),
        (offer(["curve25519-sha256"], ["aes128-cbc"], ["hmac-sha2-256"]), False),
        (offer(["curve25519-sha256"], ["aes128-ctr", GCM], ["hmac-sha2-256-etm@openssh.com"]), False),
        (offer(["curve25519-sha256"], ciphers_s2c=[CHACHA]), True),
        # CBC in one direction and encrypt-then-MAC in the other don't meet.
        (
            offer(
                ["curve25519-sha256"],
                ciphers_c2s=["aes128-cbc"],
                ciphers_s2c=["aes128-ctr"],
                macs_c2s=["hmac-sha2-256"],
                macs_s2c=["hmac-sha2-256-etm@openssh.com"],
            ),
            False,
        ),
    ],
)
def test_terrapin(algorithms: SshAlgorithms, fails: bool) -> None:
    text = "it has no strict key exchange, and offers ChaCha20-Poly1305 or CBC with encrypt-then-MAC"
    assert judge(ssh.terrapin_cve, algorithms) == ([("CVE-2023-48795", text)] if fails else "")


@pytest.mark.parametrize(
    "greeting",
    [
        "OpenSSH_9.8p1", "OpenSSH_10.0p2 Debian-7", "OpenSSH_8.4p1 Debian-5+deb11u3", "OpenSSH_7.4",
        "OpenSSH_9.2p1 Debian-2+deb12u3", "OpenSSH_9.2p1 Debian-2+deb12u10", "OpenSSH_9.2p1 Raspbian-2+deb12u4",
        "OpenSSH_9.7p1 Debian-7", "OpenSSH_9.7p1 Debian-7~bpo12+1", "OpenSSH_8.2p1 Ubuntu-4ubuntu0.11",
        "OpenSSH_8.9p1 Ubuntu-3ubuntu0.10", "OpenSSH_8.9p1 Ubuntu-3ubuntu0.13", "OpenSSH_9.3p1 Ubuntu-1ubuntu3.6",
        "OpenSSH_9.6p1 Ubuntu-3ubuntu13.3", "OpenSSH_9.6p1 Ubuntu-3ubuntu13.14", "OpenSSH_9.7p1 Ubuntu-7ubuntu4",
        "OpenSSH_for_Windows_9.5", "dropbear_2022.83", "libssh_0.9.6", "",
    ],
)  # fmt: skip
def test_regresshion_is_not_there(greeting: str) -> None:
    software, _, comments = greeting.partition(" ")
    assert judge(ssh.regresshion_cve, server(software, comments)) == ""


@pytest.mark.parametrize(
    "greeting",
    [
        "OpenSSH_9.2p1 Debian-2", "OpenSSH_9.2p1 Debian-2+deb12u2", "OpenSSH_9.6p1 Debian-4", "OpenSSH_9.7p1 Debian-6",
        "OpenSSH_8.9p1 Ubuntu-3", "OpenSSH_8.9p1 Ubuntu-3ubuntu0.7", "OpenSSH_8.9p1 Ubuntu-3ubuntu0.9",
        "OpenSSH_9.0p1 Ubuntu-1ubuntu8.7", "OpenSSH_9.3p1 Ubuntu-1ubuntu3.3", "OpenSSH_9.6p1 Ubuntu-3ubuntu13",
        "OpenSSH_9.6p1 Ubuntu-3ubuntu13.2",
    ],
)  # fmt: skip
def test_regresshion_is_there(greeting: str) -> None:
    software, _, comments = greeting.partition(" ")
    text = f"{greeting}: this build is older than the one that mends it"
    assert judge(ssh.regresshion_cve, server(software, comments)) == [("CVE-2024-6387", text)]


@pytest.mark.parametrize(
    "greeting",
    [
        "OpenSSH_8.7", "OpenSSH_9.2p1", "OpenSSH_9.6 FreeBSD-20240104", "OpenSSH_8.8p1 PKIX", "OpenSSH_9.2p1 Debian-x",
        "OpenSSH_8.9p1 Ubuntu-", "OpenSSH_9.2p1 Debian", "OpenSSH_9.x", "OpenSSH", "OpenSSH_3.9p1", "openssh_9.2p1",
    ],
)  # fmt: skip
def test_regresshion_can_not_be_told(greeting: str) -> None:
    software, _, comments = greeting.partition(" ")
    reason = judge(ssh.regresshion_cve, server(software, comments))
    assert isinstance(reason, str)
    assert software in reason


def test_open_to_everybody() -> None:
    assert judge(ssh.open_to_everybody) == ""
    assert judge(ssh.open_to_everybody, server()) == [("ssh", "OpenSSH_9.9p1 answers")]


@pytest.mark.parametrize(
    ("kex", "items"),
    [
        (["curve25519-sha256@libssh.org"], ""),
        (["mlkem768x25519-sha256"], ""),
        (["ecdh-sha2-nistp384"], ""),
        (
            ["diffie-hellman-group16-sha512", "ext-info-s", STRICT],
            [("kex", "it has only diffie-hellman-group16-sha512")],
        ),
        (["own@example.org", "diffie-hellman-group14-sha1"], "it is not known what own@example.org is"),
    ],
)
def test_no_modern_kex(kex: list[str], items: list[tuple[str, str]] | str) -> None:
    assert judge(ssh.no_modern_kex, offer(kex)) == items


def test_the_severities_and_openkat_s_names() -> None:
    assert {spec.name: spec.severity for spec in CHECKS} == {
        "ssh-host-key-unproven": "high",
        "ssh-no-modern-kex": "low",
        "ssh-open-to-everybody": "recommendation",
        "ssh-protocol-1": "high",
        "ssh-regresshion": "high",
        "ssh-sha1-signature": "low",
        "ssh-terrapin": "medium",
        "ssh-weak-cipher": "medium",
        "ssh-weak-host-key": "high",
        "ssh-weak-kex": "medium",
        "ssh-weak-mac": "low",
    }
    assert {spec.name: spec.openkat for spec in CHECKS if spec.openkat} == {
        "ssh-open-to-everybody": ("KAT-OPEN-SYSADMIN-PORT",),
        "ssh-regresshion": ("CVE-2024-6387",),
    }
