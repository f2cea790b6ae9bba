"""SSH probes against a real sshd, and against servers that misbehave."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.plugins.shared.exchange import MAX_REPLY, Conversation, Ended, Exchange, Probe, WireError, decode, encode
from kattegat.plugins.ssh.algorithms import judge, judge_key, terrapin
from kattegat.plugins.ssh.kex import METHODS, prime
from kattegat.plugins.ssh.probe import IDENTIFICATION, analyse, banner_probe, key_families, probe
from kattegat.plugins.ssh.wire import (
    KexInit,
    ServerReader,
    build_kexinit,
    mpint,
    packet,
    read_identification,
    read_kexinit,
)

KEYS = {"rsa": "3072", "ecdsa": "384", "ed25519": ""}
OLD = ["HostKeyAlgorithms ssh-rsa", "KexAlgorithms diffie-hellman-group14-sha1", "Ciphers aes128-cbc", "MACs hmac-sha1"]
SERVER = KexInit(
    bytes(16), ("curve25519-sha256",), ("ssh-ed25519",), ("x",), ("x",), ("y",), ("y",), ("none",), ("none", "zlib")
)


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
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/bin")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{program} is missing; install the package openssh-server")
        pytest.skip(f"{program} is missing")
    return found


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ssh")
    for kind, bits in KEYS.items():
        size = ["-b", bits] if bits else []
        subprocess.run([need("ssh-keygen"), "-q", "-t", kind, *size, "-N", "", "-f", str(folder / kind)], check=True)
    return folder


def fingerprint(keys: Path, kind: str) -> str:
    command = [need("ssh-keygen"), "-l", "-E", "sha256", "-f", str(keys / f"{kind}.pub")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def sshd(keys: Path, *lines: str, kinds: tuple[str, ...] = ("rsa", "ecdsa", "ed25519")) -> Iterator[tuple[str, int]]:
    program = need("sshd")
    if os.geteuid() == 0:
        # Where root starts it, sshd wants its folder for privilege separation.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    configuration = keys / f"sshd.{port}"
    fixed = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "MaxStartups 100",
    ]
    configuration.write_text("\n".join([*fixed, *[f"HostKey {keys / kind}" for kind in kinds], *lines]) + "\n")
    log = keys / f"log.{port}"
    with log.open("wb") as output:
        server = subprocess.Popen([program, "-D", "-e", "-f", str(configuration)], stderr=output)
    try:
        for _ in range(2000):
            if b"Server listening" in log.read_bytes():
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.01)
        else:
            pytest.fail("sshd did not begin to listen")
        yield "127.0.0.1", port
    finally:
        server.terminate()
        server.wait()


@contextmanager
def talker(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A server that gives each connection to `answer`, then waits for the other side to close."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(20)
                answer(connection)
                while connection.recv(65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


# --- a real server ------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("method", [name for name in METHODS if "group15" not in name])  # which OpenSSH lacks
def test_every_key_exchange_yields_every_host_key_with_a_true_signature(keys: Path, method: str) -> None:
    with sshd(keys, f"KexAlgorithms {method}") as address:
        conversation = drive(probe(), address)
    profile = analyse(conversation)
    found = {key.type: (key.bits, key.fingerprint, key.proven) for key in profile.host_keys}
    assert found == {
        "ssh-rsa": (3072, fingerprint(keys, "rsa"), True),
        "ecdsa-sha2-nistp384": (384, fingerprint(keys, "ecdsa"), True),
        "ssh-ed25519": (256, fingerprint(keys, "ed25519"), True),
    }
    assert profile.kex[0] == method
    assert (profile.gex_bits is not None) == ("group-exchange" in method)
    assert (profile.problems, profile.not_measured) == ((), ())
    assert analyse(decode(encode(conversation))) == profile


@pytest.mark.real
def test_the_lists_are_those_that_the_server_is_set_to(keys: Path) -> None:
    with sshd(keys, *OLD, kinds=("rsa",)) as address:
        profile = analyse(drive(probe(), address, chunk=1))
        again = analyse(drive(banner_probe(), address))
    assert profile.protocol == "2.0"
    assert profile.software is not None
    assert profile.software.startswith("OpenSSH_")
    assert profile.host_key_algorithms == ("ssh-rsa",)
    assert profile.ciphers_c2s == profile.ciphers_s2c == ("aes128-cbc",)
    assert profile.macs_c2s == profile.macs_s2c == ("hmac-sha1",)
    assert [(key.signature, key.proven) for key in profile.host_keys] == [("ssh-rsa", True)]
    assert again.ciphers_c2s == profile.ciphers_c2s
    assert [missing.what for missing in again.not_measured] == ["host key ssh-rsa"]


@pytest.mark.real
def test_a_server_with_no_key_exchange_in_common_still_shows_its_lists(keys: Path) -> None:
    with sshd(keys, "KexAlgorithms sntrup761x25519-sha512@openssh.com") as address:
        conversation = drive(probe(), address)
    profile = analyse(conversation)
    assert len(conversation) == 1
    assert profile.kex[0] == "sntrup761x25519-sha512@openssh.com"
    assert profile.host_keys == ()
    assert len(profile.not_measured) == 3


@pytest.mark.real
def test_a_signature_by_another_key_is_not_proven(keys: Path) -> None:
    with sshd(keys, kinds=("ed25519",)) as address:
        conversation = drive(probe(), address)
    first, second = conversation
    at = second.received.index(b"\x00\x00\x00\x53\x00\x00\x00\x0bssh-ed25519") + 40
    forged = second.received[:at] + bytes([second.received[at] ^ 1]) + second.received[at + 1 :]
    profile = analyse((first, Exchange("", True, second.sent, forged, "enough")))
    assert [key.proven for key in profile.host_keys] == [False]
    assert any("wrong" in problem for problem in profile.problems)


# --- servers that misbehave ---------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_or_full_is_said_to_be() -> None:
    conversation = drive(probe(), ("127.0.0.1", free_port()))
    assert [exchange.ended for exchange in conversation] == ["unreachable"]
    assert "no connection" in analyse(conversation).not_measured[0].reason

    def full(connection: socket.socket) -> None:
        connection.sendall(b"Exceeded MaxStartups\r\n")
        connection.recv(100)
        connection.shutdown(socket.SHUT_WR)

    with talker(full) as address:
        profile = analyse(drive(probe(), address))
    assert profile.protocol is None
    assert "Exceeded MaxStartups" in profile.not_measured[0].reason


@pytest.mark.parametrize(
    "way", ["lines", "line", "packet", "padding", "debug", "messages", "silent", "truncated", "ssh1"]
)
def test_endless_enormous_and_slow_servers_are_bounded(way: str) -> None:
    def answer(connection: socket.socket) -> None:
        if way == "lines":
            while True:
                connection.sendall(b"welcome\n" * 1000)
        elif way == "line":
            while True:
                connection.sendall(b"SSH-2.0-" + b"x" * 10000)
        elif way in ("debug", "messages"):
            connection.sendall(b"SSH-2.0-x\r\n")
            message = b"\x04\0\0\0\0\0\0\0\0\0" if way == "debug" else b"\x63"
            while True:
                connection.sendall(packet(message) * 1000)
        elif way == "ssh1":
            connection.sendall(b"SSH-1.5-old\n")
        elif way == "truncated":
            connection.sendall(b"SSH-2.0-x\r\n" + packet(build_kexinit(SERVER))[:50])
        elif way != "silent":
            length = b"\xff\xff\xff\xff\x04" if way == "packet" else b"\0\0\0\x0c\xff"
            connection.sendall(b"SSH-2.0-x\r\n" + length + bytes(100))

    with talker(answer) as address:
        conversation = drive(probe(), address, timeout=1.0)
    assert len(conversation) == 1
    assert len(conversation[0].received) <= MAX_REPLY
    profile = analyse(conversation)
    assert profile.kex == ()
    assert len(profile.not_measured) == 1
    assert profile.protocol == {"lines": None, "line": None, "silent": None, "ssh1": "1.5"}.get(way, "2.0")


def test_an_identification_is_read_with_what_is_wrong_with_it() -> None:
    found = read_identification(b"Welcome\r\n\xff\xfe\r\nSSH-2.0-Open_1.0 some words\r\nrest")
    assert found is not None
    ident, used = found
    assert (ident.protocol, ident.software, ident.comments) == ("2.0", "Open_1.0", "some words")
    assert ident.before == ("Welcome", "\\xff\\xfe")
    assert ident.problems == ()
    assert used == len(b"Welcome\r\n\xff\xfe\r\nSSH-2.0-Open_1.0 some words\r\n")
    for line, word in ((b"SSH-2.0-x\n", "CR LF"), (b"SSH-2.0-\xff\r\n", "ASCII"), (b"SSH-1.99-" + b"x" * 300, "255")):
        read = read_identification(line if line.endswith(b"\n") else line + b"\r\n")
        assert read is not None
        assert word in " ".join(read[0].problems)
    assert read_identification(b"SSH-2.0-half") is None
    for bad in (b"SSH-\r\n", b"x" * 70000, b"\n" * 2000):
        with pytest.raises(WireError, match=r"^These bytes are no valid SSH: .+\.$"):
            read_identification(bad)


def test_a_kexinit_reads_back_as_it_was_built() -> None:
    assert read_kexinit(build_kexinit(SERVER)) == SERVER
    assert len(packet(build_kexinit(SERVER))) % 8 == 0
    assert (mpint(0), mpint(0x80), mpint(0x7F)) == (b"\0\0\0\0", b"\0\0\0\x02\0\x80", b"\0\0\0\x01\x7f")
    with pytest.raises(WireError):
        read_kexinit(build_kexinit(SERVER)[:-6])


def test_the_primes_are_those_of_the_rfcs() -> None:
    # RFC 2409 section 6.2 and RFC 3526 section 3: first and last digits; and each is a safe prime by Fermat's test.
    assert f"{prime(1024):X}".startswith("FFFFFFFFFFFFFFFFC90FDAA22168C234")
    assert f"{prime(1024):X}".endswith("49286651ECE65381FFFFFFFFFFFFFFFF")
    assert f"{prime(2048):X}".endswith("15728E5A8AACAA68FFFFFFFFFFFFFFFF")
    for bits in (1024, 2048, 3072, 4096):
        for number in (prime(bits), prime(bits) // 2):
            assert pow(3, number - 1, number) == 1


def test_algorithms_are_judged_with_a_reason() -> None:
    expected = {
        ("kex", "curve25519-sha256"): "secure",
        ("kex", "mlkem768x25519-sha256"): "secure",
        ("kex", "diffie-hellman-group14-sha256"): "secure",
        ("kex", "diffie-hellman-group14-sha1"): "weak",
        ("kex", "diffie-hellman-group-exchange-sha1"): "weak",
        ("kex", "diffie-hellman-group1-sha1"): "insecure",
        ("kex", "kex-strict-s-v00@openssh.com"): "signal",
        ("host_key", "ssh-rsa"): "weak",
        ("host_key", "ssh-dss"): "insecure",
        ("host_key", "rsa-sha2-512"): "secure",
        ("host_key", "ssh-ed25519"): "secure",
        ("cipher", "arcfour128"): "insecure",
        ("cipher", "aes256-cbc"): "weak",
        ("cipher", "3des-cbc"): "weak",
        ("cipher", "rijndael-cbc@lysator.liu.se"): "weak",
        ("cipher", "aes256-gcm@openssh.com"): "secure",
        ("cipher", "chacha20-poly1305@openssh.com"): "secure",
        ("mac", "hmac-md5-etm@openssh.com"): "insecure",
        ("mac", "hmac-sha1"): "weak",
        ("mac", "umac-64@openssh.com"): "weak",
        ("mac", "hmac-sha2-256-etm@openssh.com"): "secure",
        ("compression", "zlib"): "weak",
        ("mac", "homemade@example.org"): "unknown",
    }
    for (kind, name), strength in expected.items():
        found = judge(kind, name)  # type: ignore[arg-type]
        assert found.strength == strength, name
        assert (found.reason == "") == (strength == "secure")
    assert [judge_key("ssh-rsa", bits).strength for bits in (768, 1024, 2048, None)] == [
        "insecure",
        "weak",
        "secure",
        "unknown",
    ]
    assert terrapin((), ("chacha20-poly1305@openssh.com",), ())
    assert terrapin((), ("aes128-cbc",), ("hmac-sha2-256-etm@openssh.com",))
    assert not terrapin(("kex-strict-s-v00@openssh.com",), ("chacha20-poly1305@openssh.com",), ())
    assert not terrapin((), ("aes128-ctr",), ("hmac-sha2-256-etm@openssh.com",))
    families = key_families(("rsa-sha2-512", "ssh-ed25519-cert-v01@openssh.com", "ssh-rsa", "ssh-ed25519"))
    assert families == (("rsa-sha2-512", "ssh-rsa"), ("ssh-ed25519",))


@pytest.mark.real
def test_every_algorithm_that_openssh_knows_is_judged() -> None:
    kinds = {"kex": "kex", "key-sig": "host_key", "cipher": "cipher", "mac": "mac"}
    for query, kind in kinds.items():
        output = subprocess.run([need("ssh"), "-Q", query], check=True, capture_output=True, text=True).stdout
        assert output.split()
        for name in output.split():
            assert judge(kind, name).strength != "unknown", name  # type: ignore[arg-type]


# --- anything at all ----------------------------------------------------------------------------------------------


@given(st.binary(max_size=400), st.integers(1, 50))
def test_random_bytes_never_raise_anything_but_the_typed_error(tail: bytes, size: int) -> None:
    hello = b"SSH-2.0-x\r\n"
    for data in (tail, hello + tail, hello + packet(build_kexinit(SERVER)[:17] + tail), hello + packet(b"\x01" + tail)):
        reader, whole = ServerReader(), ServerReader()
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
        whole.feed(data)
        assert (str(whole.error), whole.payloads) == (str(reader.error), reader.payloads)
        analyse((Exchange("", False, IDENTIFICATION + b"\r\n", data, "closed"),))
    with suppress(WireError):
        analyse((Exchange("", False, IDENTIFICATION + b"\r\n" + tail, tail, "closed"),))


@pytest.fixture(scope="module")
def recorded(keys: Path) -> list[Conversation]:
    conversations = []
    for method in ("curve25519-sha256", "diffie-hellman-group-exchange-sha256", "ecdh-sha2-nistp256"):
        # A group of 4096 bits takes its time, so there is one key for it only.
        kinds = ("ed25519",) if "group" in method else ("rsa", "ecdsa", "ed25519")
        with sshd(keys, f"KexAlgorithms {method}", kinds=kinds) as address:
            conversations.append(drive(probe(), address))
    return conversations


@pytest.mark.real
@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_changed_reply_never_raises(recorded: list[Conversation], data: st.DataObject) -> None:
    conversation = list(data.draw(st.sampled_from(recorded)))
    at = data.draw(st.integers(0, len(conversation) - 1))
    received = bytearray(conversation[at].received)
    for _ in range(data.draw(st.integers(1, 4))):
        received[data.draw(st.integers(0, len(received) - 1))] = data.draw(st.integers(0, 255))
    del received[data.draw(st.integers(0, len(received)) | st.just(len(received))) :]
    old = conversation[at]
    conversation[at] = Exchange(old.what, old.same_connection, old.sent, bytes(received), "closed")
    profile = analyse(tuple(conversation))
    assert analyse(decode(encode(tuple(conversation)))) == profile
