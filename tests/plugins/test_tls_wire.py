"""TLS probes against real servers of `openssl s_server`, and against servers that misbehave."""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.plugins.shared.exchange import MAX_REPLY, Conversation, Ended, Exchange, Probe, WireError, decode, encode
from kattegat.plugins.tls.attempt import read_attempt
from kattegat.plugins.tls.groups import GROUPS
from kattegat.plugins.tls.probe import certificate_probe, probe
from kattegat.plugins.tls.profile import analyse, analyse_certificate
from kattegat.plugins.tls.reply import ReplyReader, read_reply
from kattegat.plugins.tls.suites import FALLBACK_SCSV, by_name, offer, suite_name, suites
from kattegat.plugins.tls.wire import (
    TLS10,
    TLS11,
    TLS12,
    TLS13,
    build,
    first_flight,
    handshake_of,
    is_ssl2_hello,
    parse,
    single,
    ssl2_hello,
    visitor,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)


# --- servers and the driver ---------------------------------------------------------------------------------------


def drive(plan: Probe, address: tuple[str, int], *, timeout: float = 20.0, chunk: int = 4096) -> Conversation:
    """Carries out a probe over plain sockets."""
    conversation: list[Exchange] = []
    connection: socket.socket | None = None
    try:
        step = next(plan)
        while True:
            received = b""
            ended: Ended = "unreachable"
            try:
                if not step.same_connection:
                    if connection is not None:
                        connection.close()
                    connection = None
                    connection = socket.create_connection(address, timeout)
                assert connection is not None
                connection.sendall(step.send)
                while ended == "unreachable":
                    data = connection.recv(min(chunk, step.limit - len(received)))
                    received += data
                    if not data:
                        ended = "closed"
                    elif step.enough(data):
                        ended = "enough"
                    elif len(received) >= step.limit:
                        ended = "limit"
            except TimeoutError:
                ended = "timeout" if connection else "unreachable"
            except ConnectionError:
                ended = "reset" if connection else "unreachable"
            conversation.append(Exchange(step.what, step.same_connection, step.send, received, ended))
            step = plan.send(conversation[-1])
    except StopIteration:
        return tuple(conversation)
    finally:
        if connection is not None:
            connection.close()


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{program} is missing; install the package openssl")
        pytest.skip(f"{program} is missing")
    return found


@contextmanager
def s_server(folder: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    program = need("openssl")
    names = [argument for argument in arguments if argument in ("-cert", "-nocert")]
    pair = [] if names else ["-cert", str(folder / "rsa.pem"), "-key", str(folder / "rsa.key")]
    output = folder / f"s_server.{time.monotonic_ns()}"
    with output.open("wb") as log:
        server = subprocess.Popen(
            [program, "s_server", "-accept", "127.0.0.1:0", "-naccept", "1000", *pair, *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(3000):
            found = re.search(rb"ACCEPT 127\.0\.0\.1:(\d+)", output.read_bytes())
            if found:
                break
            assert server.poll() is None, output.read_text(errors="replace")
            time.sleep(0.01)
        else:
            pytest.fail("openssl s_server did not begin to listen")
        yield "127.0.0.1", int(found[1])
    finally:
        server.kill()
        server.wait()
        if server.stdin:
            server.stdin.close()


@contextmanager
def talker(answer: Callable[[socket.socket, bytes], None]) -> Iterator[tuple[str, int]]:
    """A server that gives each connection to `answer` with the first bytes that came."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    answer(connection, connection.recv(65536))
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        # Only shutting the listener down wakes a thread that waits in accept().
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def forward(address: tuple[str, int], connection: socket.socket, data: bytes) -> None:
    with socket.create_connection(address, 20) as behind:
        behind.sendall(data)
        behind.settimeout(20)
        while True:
            received = behind.recv(65536)
            if not received:
                return
            connection.sendall(received)
            # Every answer to a ClientHello comes in one piece here; the client's end closes the loop.
            connection.settimeout(20)
            if not connection.recv(1):
                return


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def issue(
    name: str, key: object, issuer: tuple[x509.Certificate, object] | None = None, *, ca: bool = False
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0].subject if issuer else subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())  # type: ignore[attr-defined]
    builder = builder.not_valid_before(NOW - timedelta(days=30)).not_valid_after(NOW + timedelta(days=3650))
    builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256())  # type: ignore[arg-type]


def pem_key(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls")
    root_key, middle_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = issue("Root", root_key, ca=True)
    middle = issue("Middle", middle_key, (root, root_key), ca=True)
    rsa_key, ec_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    for stem, key in (("rsa", rsa_key), ("ec", ec_key)):
        leaf = issue("server.example", key, (middle, middle_key))
        (path / f"{stem}.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
        (path / f"{stem}.der").write_bytes(leaf.public_bytes(Encoding.DER))
        (path / f"{stem}.key").write_bytes(pem_key(key))
        builder = ocsp.OCSPResponseBuilder().add_response(
            leaf, middle, hashes.SHA1(), ocsp.OCSPCertStatus.GOOD, NOW, NOW + timedelta(days=3650), None, None
        )
        response = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, middle).sign(middle_key, hashes.SHA256())
        (path / f"{stem}.ocsp").write_bytes(response.public_bytes(Encoding.DER))
    (path / "middle.pem").write_bytes(middle.public_bytes(Encoding.PEM))
    (path / "middle.der").write_bytes(middle.public_bytes(Encoding.DER))
    return path


# --- real servers -------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_every_version_and_suite_of_a_server_is_found_in_its_order(folder: Path) -> None:
    ciphers = "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-SHA256:AES256-SHA:ECDHE-RSA-AES128-SHA:@SECLEVEL=0"
    thirteen = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_8_SHA256:TLS_AES_256_GCM_SHA384"
    with s_server(folder, "-cipher", ciphers, "-ciphersuites", thirteen, "-serverpref") as address:
        conversation = drive(probe("server.example"), address)
    profile = analyse(conversation)
    found = {version.version: version.suites for version in profile.versions}
    assert found == {
        "TLSv1.3": tuple(thirteen.split(":")),
        "TLSv1.2": (
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256",
            "TLS_RSA_WITH_AES_256_CBC_SHA",
            "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        ),
        "TLSv1.1": ("TLS_RSA_WITH_AES_256_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
        "TLSv1.0": ("TLS_RSA_WITH_AES_256_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    }
    assert {version.preference for version in profile.versions} == {"server"}
    assert profile.refused == ("SSLv3", "SSLv2")
    assert profile.fallback_scsv is True
    assert profile.compression is False
    assert profile.secure_renegotiation is True
    assert profile.dh_bits
    assert profile.not_measured == ()
    assert profile.problems == ()
    # What is kept is enough: the analysis of the encoded conversation is the same.
    assert analyse(decode(encode(conversation))) == profile


@pytest.mark.real
def test_a_server_that_follows_the_client_is_told_apart_and_old_versions_are_absent(folder: Path) -> None:
    with s_server(folder, "-groups", "P-256:X25519") as address:
        profile = analyse(drive(probe("server.example"), address))
    assert [version.version for version in profile.versions] == ["TLSv1.3", "TLSv1.2"]
    assert {version.preference for version in profile.versions} == {"client"}
    # In a HelloRetryRequest OpenSSL follows its own order of groups, below TLS 1.3 the client's.
    assert [version.groups for version in profile.versions] == [("secp256r1", "x25519"), ("x25519", "secp256r1")]
    # Its security level rules TLS 1.0 and 1.1 out, which it tells with internal_error.
    assert profile.refused == ("TLSv1.1", "TLSv1.0", "SSLv3", "SSLv2")
    assert profile.not_measured == ()


@pytest.mark.real
@pytest.mark.parametrize("suite", ["AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256"])
@pytest.mark.parametrize("group", ["X25519", "P-256", "P-384", "P-521", "X448"])
def test_the_chain_of_a_server_of_tls_13_only_is_decrypted(folder: Path, suite: str, group: str) -> None:
    arguments = (
        "-tls1_3",
        "-ciphersuites",
        f"TLS_{suite}",
        "-groups",
        group,
        "-cert_chain",
        str(folder / "middle.pem"),
    )
    with s_server(folder, *arguments) as address:
        conversation = drive(certificate_probe("server.example"), address)
    found = analyse_certificate(conversation)
    assert (found.version, found.suite) == ("TLSv1.3", f"TLS_{suite}")
    assert found.chain_der == ((folder / "rsa.der").read_bytes(), (folder / "middle.der").read_bytes())
    assert found.group in {group.lower(), group.replace("P-", "secp") + "r1"}
    assert found.problems == ()
    assert len(conversation) == (2 if group in ("P-384", "P-521", "X448") else 1)
    assert analyse_certificate(decode(encode(conversation))) == found


@pytest.mark.real
@pytest.mark.parametrize("suite", ["AES_128_CCM_SHA256", "AES_128_CCM_8_SHA256"])
def test_ccm_is_decrypted_too(folder: Path, suite: str) -> None:
    with s_server(folder, "-tls1_3", "-ciphersuites", f"TLS_{suite}") as address:
        found = analyse_certificate(drive(certificate_probe("server.example"), address, chunk=1))
    assert (found.suite, found.chain_der) == (f"TLS_{suite}", ((folder / "rsa.der").read_bytes(),))


@pytest.mark.real
@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_stapled_ocsp_and_alpn_are_seen(folder: Path, version: str) -> None:
    arguments = (f"-{version}", "-status_file", str(folder / "rsa.ocsp"), "-alpn", "http/1.1")
    with s_server(folder, *arguments) as address:
        found = analyse_certificate(drive(certificate_probe("server.example"), address))
    assert (found.ocsp_stapled, found.alpn) == (True, "http/1.1")
    with s_server(folder, f"-{version}") as address:
        found = analyse_certificate(drive(certificate_probe("server.example"), address))
    assert (found.ocsp_stapled, found.alpn) == (False, None)


@pytest.mark.real
def test_a_server_without_our_alpn_is_asked_again_without(folder: Path) -> None:
    with s_server(folder, "-alpn", "imap") as address:
        conversation = drive(certificate_probe("server.example"), address)
    assert len(conversation) == 2
    assert analyse_certificate(conversation).chain_der == ((folder / "rsa.der").read_bytes(),)


@pytest.mark.real
def test_the_certificate_of_a_server_of_tls_10_only_is_read(folder: Path) -> None:
    with s_server(folder, "-tls1", "-cipher", "ALL:@SECLEVEL=0") as address:
        found = analyse_certificate(drive(certificate_probe("server.example"), address))
        profile = analyse(drive(probe("server.example", groups=False), address))
    assert (found.version, found.chain_der) == ("TLSv1.0", ((folder / "rsa.der").read_bytes(),))
    assert [version.version for version in profile.versions] == ["TLSv1.0"]
    assert profile.refused == ("TLSv1.3", "TLSv1.2", "TLSv1.1", "SSLv3", "SSLv2")
    assert profile.chain_der == found.chain_der


@pytest.mark.real
def test_a_short_prime_and_anonymous_suites_are_seen(folder: Path) -> None:
    # By itself OpenSSL takes a prime as strong as the certificate's key, and one of 1024 bits where there is no key.
    arguments = ("-tls1_2", "-cipher", "DHE-RSA-AES128-SHA:ADH-AES128-SHA:@SECLEVEL=0")
    with s_server(folder, *arguments) as address:
        profile = analyse(drive(probe("server.example"), address))
    assert profile.dh_bits == (1024, 2048)
    names = profile.versions[0].suites
    assert set(names) == {"TLS_DHE_RSA_WITH_AES_128_CBC_SHA", "TLS_DH_anon_WITH_AES_128_CBC_SHA"}
    assert {by_name()[name].strength for name in names} == {"weak", "insecure"}


@pytest.mark.real
def test_an_ecdsa_server_and_an_rsa_server_in_one_show_both_chains(folder: Path) -> None:
    pair = ("-cert", str(folder / "rsa.pem"), "-key", str(folder / "rsa.key"))
    both = (*pair, "-dcert", str(folder / "ec.pem"), "-dkey", str(folder / "ec.key"), "-tls1_2")
    with s_server(folder, *both) as address:
        profile = analyse(drive(probe("server.example", groups=False), address))
    wanted = {((folder / "rsa.der").read_bytes(),), ((folder / "ec.der").read_bytes(),)}
    assert set(profile.chains_der) == wanted


@pytest.mark.real
def test_a_name_that_the_server_does_not_know_proves_nothing(folder: Path) -> None:
    second = ("-cert2", str(folder / "ec.pem"), "-key2", str(folder / "ec.key"))
    with s_server(folder, "-servername", "server.example", "-servername_fatal", *second) as address:
        profile = analyse(drive(probe("other.example"), address))
    assert profile.versions == ()
    assert "TLSv1.3" not in profile.refused
    assert any("unrecognized_name" in missing.reason for missing in profile.not_measured)


# --- what proves absence and what does not ------------------------------------------------------------------------


def only(version: int) -> Callable[[bytes], bool]:
    def fits(sent: bytes) -> bool:
        return not is_ssl2_hello(sent) and parse(handshake_of(sent)).versions == (version,)

    return fits


@pytest.mark.real
@pytest.mark.parametrize("way", ["close", "reset", "silence", "garbage", "half"])
def test_only_an_orderly_close_between_answers_counts_as_refusal(folder: Path, way: str) -> None:
    fits = only(TLS12)
    with s_server(folder, "-no_tls1_1", "-no_tls1") as behind:

        def answer(connection: socket.socket, data: bytes) -> None:
            if not fits(data):
                forward(behind, connection, data)
            elif way == "reset":
                reset(connection)
            elif way == "silence":
                connection.settimeout(20)
                connection.recv(1)
            elif way == "garbage":
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            elif way == "half":
                connection.sendall(b"\x16\x03\x03\x00\x50\x02")

        with talker(answer) as address:
            conversation = drive(probe("server.example", groups=False), address, timeout=1.0)
    profile = analyse(conversation)
    assert [version.version for version in profile.versions] == ["TLSv1.3"]
    missing = [entry.what for entry in profile.not_measured]
    if way == "close":
        assert "TLSv1.2" in profile.refused
        assert missing == []
    else:
        assert "TLSv1.2" not in profile.refused
        assert missing == ["TLSv1.2"]
    # Without the answers that came later, the close proves nothing.
    cut = [at for at, exchange in enumerate(conversation) if fits(exchange.sent)][-1]
    assert "TLSv1.2" not in analyse(conversation[: cut + 1]).refused


@pytest.mark.real
def test_closes_of_a_server_that_closes_at_random_prove_nothing(folder: Path) -> None:
    seen: list[bytes] = []
    with s_server(folder, "-no_tls1_1", "-no_tls1") as behind:

        def answer(connection: socket.socket, data: bytes) -> None:
            # As a rate limit would: a while of closes, which begins amid the suites of TLS 1.2.
            seen.append(data)
            if not 20 <= len(seen) < 30:
                forward(behind, connection, data)

        with talker(answer) as address:
            conversation = drive(probe("server.example", groups=False), address)
    assert conversation[-1].ended == "enough"
    profile = analyse(conversation)
    assert [version.version for version in profile.versions] == ["TLSv1.3", "TLSv1.2"]
    whats = {missing.what for missing in profile.not_measured}
    assert {"cipher suites of TLSv1.2", "TLSv1.1", "TLSv1.0"} <= whats
    assert not {"TLSv1.1", "TLSv1.0"} & set(profile.refused)


def test_a_server_that_is_not_there_is_asked_once() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    listener.close()
    conversation = drive(probe("server.example"), address)
    assert [exchange.ended for exchange in conversation] == ["unreachable"]
    profile = analyse(conversation)
    assert (profile.versions, profile.refused) == ((), ())
    assert len(profile.not_measured) == 7


@pytest.mark.parametrize("way", ["endless", "enormous", "warnings", "http", "ssh"])
def test_a_server_that_talks_nonsense_is_left_alone(way: str) -> None:
    def answer(connection: socket.socket, _data: bytes) -> None:
        if way == "endless":
            while True:
                connection.sendall(b"\x16\x03\x03\x40\x00" + b"\x0b\xff\xff\xff" + bytes(16380))
        elif way == "enormous":
            hello = b"\x03\x03" + bytes(32) + b"\0\xc0\x2f\0"
            connection.sendall(b"\x16\x03\x03\x00\x2a" + b"\x02\0\0\x26" + hello)
            while True:
                connection.sendall(b"\x16\x03\x03\x00\x00" * 1000)
        elif way == "warnings":
            while True:
                connection.sendall(b"\x15\x03\x03\x00\x02\x01\x70" * 1000)
        else:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" if way == "http" else b"SSH-2.0-x\r\n")

    with talker(answer) as address:
        conversation = drive(probe("server.example"), address)
    assert len(conversation) < 12
    assert all(len(exchange.received) <= MAX_REPLY for exchange in conversation)
    profile = analyse(conversation)
    assert profile.not_measured
    assert way == "warnings" or profile.problems
    if way != "enormous":
        assert (profile.versions, profile.refused) == ((), ())


@pytest.mark.real
def test_the_number_of_handshakes_is_bounded_and_what_is_missing_is_said(folder: Path) -> None:
    with s_server(folder) as address:
        conversation = drive(probe("server.example", max_handshakes=8), address)
    assert len(conversation) <= 9
    profile = analyse(conversation)
    whats = [missing.what for missing in profile.not_measured]
    assert "TLSv1.0" in whats
    assert "cipher suites of TLSv1.2" in whats
    assert profile.refused == ()


# --- bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0x0300, TLS10, TLS11, TLS12, TLS13])
def test_a_hello_reads_back_as_it_was_built(version: int) -> None:
    hello = single(version, bytes(range(32)), "server.example")
    again = parse(build(hello))
    if version == 0x0300:
        assert (again.versions, again.suites, again.server_name) == ((version,), hello.suites, None)
    else:
        assert again == hello
    assert not 256 <= len(build(visitor(bytes(32), "a.example"))) < 512


def test_a_server_hello_of_ssl2_is_read() -> None:
    certificate, specs = b"certificate", b"\x01\0\x80\x07\0\xc0"
    body = b"\x04\0\x01\0\x02" + struct.pack(">HHH", len(certificate), len(specs), 16) + certificate + specs + bytes(16)
    received = struct.pack(">H", 0x8000 | len(body)) + body
    sent = ssl2_hello(bytes(16))
    reply = read_reply(sent, received)
    assert reply.ssl2_ciphers == (0x010080, 0x0700C0)
    profile = analyse((Exchange("", False, sent, received, "enough"),))
    assert profile.versions[0].suites == ("SSL_CK_RC4_128_WITH_MD5", "SSL_CK_DES_192_EDE3_CBC_WITH_MD5")


def test_choices_that_were_not_offered_are_problems() -> None:
    hello = b"\x03\x03" + bytes(32) + b"\0" + b"\x00\x8c" + b"\0"
    received = b"\x16\x03\x03" + struct.pack(">H", len(hello) + 4) + b"\x02\0\0" + bytes([len(hello)]) + hello
    attempt = read_attempt(Exchange("", False, first_flight(single(TLS12, bytes(32))), received, "timeout"))
    assert attempt.outcome == "unknown"
    assert "0x008C" in attempt.reason
    attempt = read_attempt(Exchange("", False, first_flight(single(TLS11, bytes(32))), received, "timeout"))
    assert attempt.outcome == "unknown"


@pytest.mark.parametrize("name", ["bücher.example", "a" * 300, ""])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(WireError, match="host name"):
        next(probe(name))


def test_an_address_is_never_sent_as_a_name() -> None:
    for name in ("192.0.2.1", "2001:db8::1", None):
        assert parse(handshake_of(next(certificate_probe(name)).send)).server_name is None


@pytest.mark.real
def test_the_table_of_suites_agrees_with_openssl() -> None:
    command = [need("openssl"), "ciphers", "-V", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    checked = 0
    for line in lines:
        code, _, name, *_ = line.split()
        if "PSK" in name or "SRP" in name:
            continue
        high, low = (int(part, 16) for part in code.split(","))
        suite = suites()[high << 8 | low]
        assert suite.name == name
        enc = re.search(r"Enc=\w+\((\d+)\)", line)
        if enc and "CHACHA" not in name:
            assert suite.bits == int(enc[1]), name
        assert ("Mac=AEAD" in line) == (suite.mac == "AEAD"), name
        checked += 1
    assert checked > 80


def test_every_suite_is_judged_with_a_reason_unless_it_is_secure() -> None:
    for suite in suites().values():
        assert (suite.strength == "secure") == (suite.reason == "")
    strengths = {name: by_name()[name].strength for name in by_name()}
    assert strengths["TLS_AES_128_GCM_SHA256"] == "secure"
    assert strengths["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"] == "secure"
    assert strengths["TLS_RSA_WITH_AES_128_GCM_SHA256"] == "weak"
    assert strengths["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"] == "weak"
    for name in ("RSA_WITH_RC4_128_SHA", "RSA_EXPORT_WITH_RC4_40_MD5", "DH_anon_WITH_AES_128_GCM_SHA256"):
        assert strengths[f"TLS_{name}"] == "insecure"
    assert strengths["TLS_SHA256_SHA256"] == "insecure"
    assert FALLBACK_SCSV not in suites()
    assert set(offer(TLS10)) < set(offer(TLS12))
    assert suite_name(0x0A0A) == "0x0A0A"
    assert GROUPS[29] == "x25519"
    assert GROUPS[24] == "secp384r1"


# --- anything at all ----------------------------------------------------------------------------------------------

SENT = st.sampled_from([first_flight(single(v, bytes(32), "a.example")) for v in (TLS10, TLS12, TLS13)])


@given(SENT, st.binary(max_size=600), st.integers(1, 50))
def test_random_bytes_never_raise_anything_but_the_typed_error(sent: bytes, received: bytes, size: int) -> None:
    for prefix in (b"", b"\x16\x03\x03\x00\x40\x02\0\0\x3c\x03\x03", b"\x15\x03\x03", b"\x80\x20\x04"):
        data = prefix + received
        reader = ReplyReader(sent)
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
        whole = ReplyReader(sent)
        whole.feed(data)
        assert str(whole.error) == str(reader.error)
        for opening in (sent, ssl2_hello(bytes(16))):
            analyse((Exchange("", False, opening, data, "closed"),))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_conversation_of_ours_give_the_typed_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(b"\x91" + data)
    # A hello of ours that was changed may be one still, or not: nothing else than the typed error may come of it.
    with suppress(WireError):
        analyse((Exchange("", False, b"\x16\x03\x01\x00\x40\x01" + data, data, "closed"),))


@pytest.fixture(scope="module")
def recorded(folder: Path) -> Conversation:
    """Handshakes of TLS 1.2 and of 1.3 with a HelloRetryRequest."""
    conversation: list[Exchange] = []
    for arguments in (("-tls1_2",), ("-tls1_3", "-groups", "P-384")):
        with s_server(folder, *arguments, "-status_file", str(folder / "rsa.ocsp")) as address:
            conversation += drive(certificate_probe("server.example"), address)
    return tuple(conversation)


@pytest.mark.real
@given(data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_changed_reply_never_raises(recorded: Conversation, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(recorded) - 1))
    received = bytearray(recorded[at].received)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(received) - 1, 200)) | st.integers(0, len(received) - 1))
        received[place] = data.draw(st.integers(0, 255))
    del received[data.draw(st.integers(0, len(received)) | st.just(len(received))) :]
    old = recorded[at]
    changed = Exchange(old.what, old.same_connection, old.sent, bytes(received), "closed")
    conversation = (*recorded[:at], changed, *recorded[at + 1 :])
    assert analyse(conversation) == analyse(decode(encode(conversation)))
