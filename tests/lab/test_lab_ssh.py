"""The SSH scanner against the laboratory's two real servers, and against what is none."""

from __future__ import annotations

import subprocess

import pytest
from record_ports import MISTAKEN, greeting
from scanning import Target, parsed, scan

from kattegat.plugin import Evidence, Fact, Found
from kattegat.plugins.ssh import SshAlgorithms, SshHostKey, SshServer
from lab import Lab

pytestmark = [pytest.mark.lab]


def target(address: str, port: int = 22) -> Target:
    return ("ssh", "Service", f"internet|{address}|tcp/{port}")


def facts(lab: Lab, address: str) -> list[tuple[str, Fact]]:
    (result,) = scan(lab, [target(address)])
    assert result.detail.contacted == [address]
    found = parsed(target(address), result)
    assert all(isinstance(entry, Found) for entry in found)
    return [(entry.item, entry.fact) for entry in found if isinstance(entry, Found)]


def fingerprint(lab: Lab, key: str) -> str:
    """What ssh-keygen says of a host key of the laboratory."""
    command = ["ssh-keygen", "-l", "-E", "sha256", "-f", str(lab.directory / "ssh" / f"{key}.pub")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]


@pytest.mark.parametrize("address", ["10.77.0.22", "fd77::22"])
def test_the_right_server(lab: Lab, address: str) -> None:
    ciphers = ["chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com"]
    macs = ["hmac-sha2-512-etm@openssh.com", "hmac-sha2-256-etm@openssh.com"]
    (_, server), *rest = facts(lab, address)
    assert isinstance(server, SshServer)
    assert (server.protocol, server.comments, server.problems) == ("2.0", "", [])
    assert server.software.startswith("OpenSSH_")
    assert rest == [
        (
            "",
            SshAlgorithms(
                kex=["sntrup761x25519-sha512@openssh.com", "curve25519-sha256", "kex-strict-s-v00@openssh.com"],
                host_key=["ssh-ed25519"],
                ciphers_c2s=ciphers,
                ciphers_s2c=ciphers,
                macs_c2s=macs,
                macs_s2c=macs,
                compression_c2s=["none", "zlib@openssh.com"],
                compression_s2c=["none", "zlib@openssh.com"],
            ),
        ),
        (
            "ssh-ed25519",
            SshHostKey(type="ssh-ed25519", bits=256, fingerprint=fingerprint(lab, "good_ed25519"), proven=True),
        ),
    ]


def test_the_wrong_server(lab: Lab) -> None:
    (_, server), (_, algorithms), *keys = facts(lab, "10.77.0.23")
    assert isinstance(server, SshServer)
    assert server.comments.startswith(("Debian-", "Ubuntu-"))
    assert isinstance(algorithms, SshAlgorithms)
    assert algorithms.kex == [
        "diffie-hellman-group1-sha1",
        "diffie-hellman-group14-sha1",
        "diffie-hellman-group-exchange-sha1",
        "curve25519-sha256",
        "kex-strict-s-v00@openssh.com",
    ]
    assert algorithms.host_key == ["ssh-rsa", "ssh-ed25519"]
    for ciphers in (algorithms.ciphers_c2s, algorithms.ciphers_s2c):
        assert ciphers == ["3des-cbc", "aes128-cbc", "aes256-cbc", "aes128-ctr"]
    for macs in (algorithms.macs_c2s, algorithms.macs_s2c):
        assert macs == ["hmac-md5", "hmac-md5-96", "hmac-sha1", "hmac-sha1-96", "hmac-sha2-256"]
    assert keys == [
        ("ssh-rsa", SshHostKey(type="ssh-rsa", bits=1024, fingerprint=fingerprint(lab, "bad_rsa"), proven=True)),
        (
            "ssh-ed25519",
            SshHostKey(type="ssh-ed25519", bits=256, fingerprint=fingerprint(lab, "bad_ed25519"), proven=True),
        ),
    ]


def test_other_protocols_have_no_fact_and_strangers_are_not_visited(lab: Lab) -> None:
    targets = [target("10.77.0.88", 21), target("10.77.0.88", 6379), target("10.77.0.88", 9200)]
    ftp, redis, search = scan(lab, targets, known=[greeting(key) for key in MISTAKEN])
    assert parsed(targets[0], ftp) == parsed(targets[1], redis) == []
    assert ftp.detail.contacted == redis.detail.contacted == ["10.77.0.88"]
    # Nothing says that it greets as SSH does.
    assert (search.outcome, search.detail.contacted, Evidence.unpack(search.evidence)) == ("ok", [], Evidence())


def test_servers_that_can_not_be_reached_fail_the_scan(lab: Lab) -> None:
    lab.stop_server("ssh-weak")
    try:
        down, filtered = scan(lab, [target("10.77.0.23"), target("10.77.0.90")])
    finally:
        lab.start_server("ssh-weak")
    assert (down.outcome, down.reason) == ("failed", "10.77.0.23 port 22 refused the connection.")
    assert (filtered.outcome, filtered.reason) == ("failed", "10.77.0.90 port 22 did not answer within 5 seconds.")
