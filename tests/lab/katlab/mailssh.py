"""The mail host (Postfix) and the SSH host (OpenSSH): a right and a wrong address each."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from .certs import Pair
from .command import run
from .server import Server, tcp
from .topology import MAIL_BAD, MAIL_GOOD, SSH_BAD, SSH_GOOD, Host, v4, v6


def postfix(directory: Path, host: Host, pair: Pair) -> Server:
    """One Postfix for both mail addresses; nothing it accepts ever leaves its queue.

    mail.good.test: STARTTLS on 25 and 587, TLS on 465, no relaying. mail.bad.test: port 25 without STARTTLS, version
    in the banner, relays for anyone, VRFY on.
    """
    directory.mkdir(parents=True)
    config, queue, data = directory / "etc", directory / "spool", directory / "data"
    for path in (config, queue, data):
        path.mkdir()
    run(["chown", "postfix", str(data)])
    (config / "main.cf").write_text(f"""compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
maillog_file_prefixes = /dev, {directory}
maillog_file = {directory}/mail.log
myhostname = mail.good.test
mydestination = good.test, mail.good.test
mynetworks = 127.0.0.0/8
inet_interfaces = all
inet_protocols = all
local_recipient_maps =
local_transport = hold:
default_transport = hold:
relay_transport = hold:
defer_transports = hold
alias_maps =
alias_database =
smtpd_banner = $myhostname ESMTP
disable_vrfy_command = yes
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_cert_file = {pair.cert}
smtpd_tls_key_file = {pair.key}
smtpd_tls_protocols = >=TLSv1.2
smtpd_tls_mandatory_protocols = >=TLSv1.2
smtpd_tls_loglevel = 1
smtpd_sasl_auth_enable = no
smtpd_peername_lookup = no
""")
    good4, good6, bad4, bad6 = v4(MAIL_GOOD), f"[{v6(MAIL_GOOD)}]", v4(MAIL_BAD), f"[{v6(MAIL_BAD)}]"
    weak = (
        "\n  -o smtpd_tls_security_level=none"
        "\n  -o disable_vrfy_command=no"
        "\n  -o mynetworks=0.0.0.0/0,[::]/0"
        "\n  -o myhostname=mail.bad.test"
        "\n  -o { smtpd_banner=$myhostname ESMTP Postfix 3.1.0 }"
    )
    strict = "\n  -o smtpd_tls_security_level=encrypt"
    wrapped = "\n  -o smtpd_tls_wrappermode=yes"
    lines = [f"{address}:25 inet n - n - - smtpd" for address in (good4, good6)]
    lines += [f"{address}:587 inet n - n - - smtpd{strict}" for address in (good4, good6)]
    lines += [f"{address}:465 inet n - n - - smtpd{wrapped}" for address in (good4, good6)]
    lines += [f"{address}:25 inet n - n - - smtpd{weak}" for address in (bad4, bad6)]
    lines += [
        "postlog unix-dgram n - n - 1 postlogd",
        "pickup unix n - n 60 1 pickup",
        "cleanup unix n - n - 0 cleanup",
        "qmgr unix n - n 300 1 qmgr",
        "tlsmgr unix - - n 1000? 1 tlsmgr",
        "rewrite unix - - n - - trivial-rewrite",
        "bounce unix - - n - 0 bounce",
        "defer unix - - n - 0 bounce",
        "trace unix - - n - 0 bounce",
        "verify unix - - n - 1 verify",
        "flush unix n - n 1000? 0 flush",
        "proxymap unix - - n - - proxymap",
        "error unix - - n - - error",
        "retry unix - - n - - error",
        "hold unix - - n - - error",
        "anvil unix - - n - 1 anvil",
        "scache unix - - n - 1 scache",
    ]
    (config / "master.cf").write_text("\n".join(lines) + "\n")
    listens = [
        *(entry for port in (25, 465, 587) for entry in tcp(port, v4(MAIL_GOOD), v6(MAIL_GOOD))),
        *tcp(25, v4(MAIL_BAD), v6(MAIL_BAD)),
    ]
    return Server("mail", host, ["postfix", "-c", str(config), "start-fg"], listens, directory / "mail.out")


class Ssh:
    """Host keys and configuration of the two sshd; `sshfp` are the SSHFP data of ssh.good.test (RFC 4255)."""

    def __init__(self, directory: Path, host: Host) -> None:
        self.directory = directory
        self.host = host
        directory.mkdir(parents=True)
        self.good_keys = [_host_key(directory / "good_ed25519", "ed25519")]
        self.bad_keys = [
            _host_key(directory / "bad_rsa", "rsa", 1024),
            _host_key(directory / "bad_ed25519", "ed25519"),
        ]
        blob = base64.b64decode((directory / "good_ed25519.pub").read_text().split()[1])
        # Algorithm 4 is Ed25519 (RFC 7479), fingerprint type 2 is SHA-256 (RFC 6594).
        self.sshfp = [f"4 2 {hashlib.sha256(blob).hexdigest()}"]

    def write(self) -> list[Server]:
        """Write the configurations; the servers are not yet started."""
        # sshd wants this directory at this very place; Debian's own service makes it the same way.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        good = """KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256
HostKeyAlgorithms ssh-ed25519
PubkeyAcceptedAlgorithms ssh-ed25519
Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com
MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
DebianBanner no
"""
        # One current algorithm of each kind stays, so that every client gets as far as the authentication methods.
        old_kex = "diffie-hellman-group1-sha1,diffie-hellman-group14-sha1,diffie-hellman-group-exchange-sha1"
        bad = f"""KexAlgorithms {old_kex},curve25519-sha256
HostKeyAlgorithms ssh-rsa,ssh-ed25519
RequiredRSASize 1024
Ciphers 3des-cbc,aes128-cbc,aes256-cbc,aes128-ctr
MACs hmac-md5,hmac-md5-96,hmac-sha1,hmac-sha1-96,hmac-sha2-256
PasswordAuthentication yes
PermitRootLogin yes
"""
        return [
            self._server("ssh", SSH_GOOD, good, self.good_keys),
            self._server("ssh-weak", SSH_BAD, bad, self.bad_keys),
        ]

    def _server(self, name: str, number: int, policy: str, keys: list[Path]) -> Server:
        config = self.directory / f"{name}.conf"
        hostkeys = "".join(f"HostKey {key}\n" for key in keys)
        config.write_text(
            f"Port 22\nListenAddress {v4(number)}\nListenAddress {v6(number)}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile none\n{hostkeys}{policy}"
        )
        return Server(
            name,
            self.host,
            ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)],
            tcp(22, v4(number), v6(number)),
            self.directory / f"{name}.log",
        )


def _host_key(path: Path, kind: str, bits: int | None = None) -> Path:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "lab", "-f", str(path)]
    run(command + (["-b", str(bits)] if bits else []))
    return path
