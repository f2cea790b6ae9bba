"""The laboratory shows what its README promises: each test asks a real server, with a tool that isn't ours."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from katlab import netns, topology
from katlab.server import listening

from lab import PROGRAMS, Lab, LabError, NotPossibleError

# One worker of a parallel run has the laboratory.
pytestmark = [pytest.mark.lab]

RUN = Path(__file__).with_name("run.py")


def dig(lab: Lab, *args: str) -> str:
    return lab.run(["dig", "+tries=2", "+time=5", *args]).stdout


def status(answer: str) -> str:
    found = re.search(r"status: (\w+)", answer)
    return found[1] if found else "no answer"


def flags(answer: str) -> set[str]:
    found = re.search(r"^;; flags: ([a-z ]+);", answer, re.MULTILINE)
    return set(found[1].split()) if found else set()


def short(lab: Lab, *args: str) -> list[str]:
    return dig(lab, "+short", *args).splitlines()


# --- DNS ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected", "authentic"),
    [
        ("www.good.test", "NOERROR", True),
        ("x.wild.good.test", "NOERROR", True),
        ("none.good.test", "NXDOMAIN", True),
        ("www.insecure.test", "NOERROR", False),
        ("www.bad.test", "NOERROR", False),
        ("tampered.test", "NOERROR", True),
        ("www.tampered.test", "SERVFAIL", False),
        ("broken.test", "SERVFAIL", False),
        ("expired.test", "SERVFAIL", False),
        ("nowhere.example", "NXDOMAIN", False),
    ],
)
def test_resolver_validates(lab: Lab, name: str, expected: str, authentic: bool) -> None:
    answer = dig(lab, "+dnssec", name)
    assert status(answer) == expected
    assert ("ad" in flags(answer)) is authentic


@pytest.mark.parametrize("name", ["www.tampered.test", "broken.test", "expired.test"])
def test_checking_disabled_shows_what_validation_hides(lab: Lab, name: str) -> None:
    answer = dig(lab, "+cdflag", "+dnssec", name)
    assert status(answer) == "NOERROR"
    assert "RRSIG" in answer


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("www.good.test", "; fully validated$"),
        ("www.insecure.test", "; unsigned answer"),
        ("www.tampered.test", "no valid signature found"),
        ("www.broken.test", "broken trust chain"),
        ("www.expired.test", "RRSIG has expired"),
    ],
)
def test_delv_agrees_with_the_trust_anchor_file(lab: Lab, name: str, verdict: str) -> None:
    done = lab.run(
        ["delv", "-a", str(lab.bind_anchor), "+cdflag", "+root=test", f"@{lab.resolver.split(':')[0]}", name]
    )
    assert re.search(verdict, done.stdout + done.stderr, re.MULTILINE), done.stdout + done.stderr


def test_drill_takes_the_anchor_as_a_record(lab: Lab) -> None:
    done = lab.run(["drill", "-k", str(lab.trust_anchor), "-S", "www.good.test", f"@{topology.v4(topology.RESOLVER)}"])
    assert "DNSSEC" in done.stdout or ";; Chasing: www.good.test. A" in done.stdout
    assert "BOGUS" not in done.stdout


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (["alias.good.test"], ["alias2.good.test.", "www.good.test.", "10.77.0.80"]),
        (["www.good.test", "AAAA"], ["fd77::80"]),
        (["good.test", "MX"], ["10 mail.good.test."]),
        (["nomail.good.test", "MX"], ["0 ."]),
        (["good.test", "TXT"], ['"v=spf1 mx -all"']),
        (["_submissions._tcp.good.test", "SRV"], ["10 5 465 mail.good.test."]),
        (["_underscore.good.test", "TXT"], ['"a name with an underscore"']),
        (["_mta-sts.good.test", "TXT"], ['"v=STSv1; id=20260101000000"']),
        (["bad.test", "TXT"], ['"v=spf1 +all"']),
        (["spf-none.bad.test", "TXT"], []),
        (["dangling.bad.test"], ["gone.bad.test."]),
        (["takeover.bad.test"], ["abandoned.cloud.test."]),
        (["localhost.bad.test"], ["127.0.0.1"]),
        (["metadata.bad.test"], ["169.254.169.254"]),
        (["-x", "10.77.0.80"], ["www.good.test."]),
        (["-x", "fd77::80"], ["www.good.test."]),
        (["-x", "10.77.0.23"], ["elsewhere.cloud.test."]),
        (["-x", "10.77.0.81"], []),
    ],
    ids=lambda value: " ".join(value),
)
def test_records(lab: Lab, question: list[str], expected: list[str]) -> None:
    assert short(lab, *question) == expected


def test_more_records(lab: Lab) -> None:
    assert len(short(lab, "good.test", "CAA")) == 3
    assert len(short(lab, "spf-two.bad.test", "TXT")) == 2
    assert short(lab, "_dmarc.good.test", "TXT")[0].startswith('"v=DMARC1; p=reject')
    assert len("".join(short(lab, "s1._domainkey.good.test", "TXT"))) > 390
    assert status(dig(lab, "loop1.bad.test")) == "SERVFAIL"
    assert status(dig(lab, "dangling.bad.test")) == "NXDOMAIN"


def test_every_published_name_resolves_to_its_addresses(lab: Lab) -> None:
    wrong = {}
    for name, addresses in lab.names.items():
        found = short(lab, "+cdflag", name, "A", name, "AAAA")
        # The altered and the diverging zone answer otherwise on purpose.
        if sorted({line for line in found if not line.startswith(";")}) != sorted(addresses):
            wrong[name] = found
    assert set(wrong) <= {"www.tampered.test", "lame.test", "www.lame.test"}


def test_lame_zone_has_a_refusing_and_a_diverging_server(lab: Lab) -> None:
    right, stale, lame = (dig(lab, "+norecurse", f"@ns{n}.nic.test", "lame.test", "SOA") for n in (1, 2, 3))
    assert status(lame) == "REFUSED"
    serials = [re.search(r"hostmaster\.nic\.test\. (\d+)", answer) for answer in (right, stale)]
    assert serials[0]
    assert serials[1]
    assert serials[0][1] > serials[1][1]
    assert short(lab, "+norecurse", "@ns1.nic.test", "www.lame.test") == ["10.77.0.92"]
    assert short(lab, "+norecurse", "@ns2.nic.test", "www.lame.test") == ["10.77.0.81"]


def test_rebinding_name_alternates(lab: Lab) -> None:
    answers = [short(lab, "www.rebind.test") for _ in range(4)]
    assert answers[0] != answers[1]
    assert answers[:2] == answers[2:]
    assert sorted(answers[:2]) == [["10.77.0.81"], ["127.0.0.1"]]


def test_zone_transfer_is_open_for_the_bad_zone_only(lab: Lab) -> None:
    assert "spf-many.bad.test." in dig(lab, "@ns1.nic.test", "bad.test", "AXFR")
    assert "Transfer failed" in dig(lab, "@ns1.nic.test", "good.test", "AXFR")


# --- web ---------------------------------------------------------------------------------------------------------


def s_client(lab: Lab, name: str, *args: str, port: int = 443) -> str:
    """Output of openssl s_client with the laboratory's root certificate, at security level 0."""
    command = ["openssl", "s_client", "-connect", f"{name}:{port}", "-servername", name, "-CAfile", str(lab.ca)]
    command += ["-verify_hostname", name, "-cipher", "ALL:COMPLEMENTOFALL:@SECLEVEL=0", *args]
    done = lab.run(command)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("www.good.test", "Verify return code: 0 (ok)"),
        ("good.test", "Verify return code: 0 (ok)"),
        ("mta-sts.good.test", "Verify return code: 0 (ok)"),
        ("v6only.good.test", "Verify return code: 0 (ok)"),
        ("www.insecure.test", "Verify return code: 0 (ok)"),
        ("redirect.bad.test", "Verify return code: 0 (ok)"),
        ("soon.bad.test", "Verify return code: 0 (ok)"),
        ("expired.bad.test", "certificate has expired"),
        ("chain.bad.test", "unable to verify the first certificate"),
        ("www.bad.test", "self-signed certificate"),
        ("www.bad.test", "hostname mismatch"),
    ],
)
def test_certificates(lab: Lab, name: str, verdict: str) -> None:
    assert verdict in s_client(lab, name)


@pytest.mark.parametrize(
    ("name", "version", "spoken"),
    [
        ("www.good.test", "-tls1_3", True),
        ("www.good.test", "-tls1_2", True),
        ("www.good.test", "-tls1_1", False),
        ("www.good.test", "-tls1", False),
        ("www.bad.test", "-tls1", True),
        ("www.bad.test", "-tls1_1", True),
        ("www.bad.test", "-tls1_2", True),
        ("www.bad.test", "-tls1_3", False),
        ("old.bad.test", "-tls1", True),
        ("old.bad.test", "-tls1_2", False),
    ],
)
def test_protocol_versions(lab: Lab, name: str, version: str, spoken: bool) -> None:
    assert ("Cipher is (NONE)" not in s_client(lab, name, version)) is spoken


@pytest.mark.parametrize("cipher", ["NULL-SHA256", "AECDH-AES128-SHA", "AES128-SHA"])
def test_bad_site_takes_weak_ciphers_and_good_site_does_not(lab: Lab, cipher: str) -> None:
    weak = ["-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0"]
    assert f"Cipher is {cipher}" in s_client(lab, "www.bad.test", *weak)
    assert "Cipher is (NONE)" in s_client(lab, "www.good.test", *weak)


def test_bad_site_takes_a_short_diffie_hellman_group(lab: Lab) -> None:
    shown = s_client(lab, "www.bad.test", "-tls1_2", "-cipher", "DHE:@SECLEVEL=0")
    assert "Server Temp Key: DH, 1024 bits" in shown
    assert "Cipher is (NONE)" in s_client(lab, "www.good.test", "-tls1_2", "-cipher", "DHE:@SECLEVEL=0")


def leaf(lab: Lab, name: str) -> str:
    command = ["openssl", "x509", "-noout", "-text"]
    return lab.run(command, input=s_client(lab, name)).stdout


def test_weak_certificate_has_a_short_key_and_sha1(lab: Lab) -> None:
    text = leaf(lab, "weakkey.bad.test")
    assert "Public-Key: (1024 bit)" in text
    assert "ecdsa-with-SHA1" in text


def test_soon_expiring_certificate_lasts_seven_days(lab: Lab) -> None:
    pem = s_client(lab, "soon.bad.test")
    day = 24 * 3600
    assert lab.run(["openssl", "x509", "-noout", "-checkend", str(7 * day)], input=pem).returncode == 0
    assert lab.run(["openssl", "x509", "-noout", "-checkend", str(8 * day)], input=pem).returncode == 1


def curl(lab: Lab, url: str, *args: str) -> str:
    return lab.run(["curl", "-sS", "-i", "--max-time", "10", "--cacert", str(lab.ca), *args, url]).stdout


def headers(response: str) -> dict[str, str]:
    head = response.partition("\r\n\r\n")[0].splitlines()[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head)}


def test_good_site_has_every_header(lab: Lab) -> None:
    first = headers(curl(lab, "http://www.good.test/"))
    assert first["location"] == "https://www.good.test/"
    found = headers(curl(lab, "https://www.good.test/"))
    assert found.keys() >= {
        "strict-transport-security",
        "content-security-policy",
        "x-content-type-options",
        "referrer-policy",
    }
    assert found["server"] == "nginx"
    assert {"Secure", "HttpOnly", "SameSite=Strict"} <= {part.strip() for part in found["set-cookie"].split(";")}


@pytest.mark.parametrize(
    # Not www.lame.test: which site that is depends on the name server that the resolver happens to ask.
    "name",
    ["expired.bad.test", "soon.bad.test", "chain.bad.test", "weakkey.bad.test", "old.bad.test", "www.insecure.test"],
)
def test_sites_with_one_fault_are_right_otherwise(lab: Lab, name: str) -> None:
    assert headers(curl(lab, f"http://{name}/"))["location"] == f"https://{name}/"
    weak = ["--insecure", "--ciphers", "DEFAULT:@SECLEVEL=0", "--resolve", f"{name}:443:{lab.names[name][0]}"]
    weak += ["--tls-max", "1.1", "--tlsv1.0"] if name.startswith("old.") else []
    found = headers(curl(lab, f"https://{name}/", *weak))
    assert found.keys() >= {"strict-transport-security", "content-security-policy", "x-content-type-options"}
    assert found["server"] == "nginx"
    assert "Expires: 20" in curl(lab, f"https://{name}/.well-known/security.txt", *weak)


def test_bad_site_has_none(lab: Lab) -> None:
    for url in ("http://www.bad.test/", "https://www.bad.test/"):
        response = curl(lab, url, "--insecure", "--tls-max", "1.2", "--ciphers", "ALL:@SECLEVEL=0")
        assert response.startswith("HTTP/1.1 200")
        found = headers(response)
        assert not {"strict-transport-security", "content-security-policy", "x-content-type-options"} & found.keys()
        assert re.fullmatch(r"nginx/[\d.]+", found["server"])
        assert found["set-cookie"] == "session=lab; Path=/"
    assert curl(lab, "http://www.bad.test/.well-known/security.txt").startswith("HTTP/1.1 404")
    assert "[core]" in curl(lab, "http://www.bad.test/.git/config")
    assert "backup.sql" in curl(lab, "http://www.bad.test/files/")


def test_policy_files(lab: Lab) -> None:
    security = curl(lab, "https://www.good.test/.well-known/security.txt")
    assert headers(security)["content-type"] == "text/plain; charset=utf-8"
    assert re.search(r"^Expires: 20\d\d-\d\d-\d\dT", security, re.MULTILINE)
    assert "mode: enforce" in curl(lab, "https://mta-sts.good.test/.well-known/mta-sts.txt")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("redirect.bad.test", "http://redirect.bad.test/"),
        ("to-loopback.bad.test", "http://127.0.0.1/"),
        ("to-metadata.bad.test", "http://169.254.169.254/latest/meta-data/"),
        ("to-private.bad.test", "http://10.0.0.1/"),
        ("to-rebind.bad.test", "http://www.rebind.test/"),
    ],
)
def test_redirects(lab: Lab, name: str, target: str) -> None:
    assert headers(curl(lab, f"http://{name}/"))["location"] == target


@pytest.mark.parametrize(
    ("name", "exit_status"),
    [("filtered.bad.test", 28), ("silent.bad.test", 28), ("absent.bad.test", 7)],
)
def test_addresses_that_do_not_answer(lab: Lab, name: str, exit_status: int) -> None:
    # 28: timed out (connecting, reading), 7: could not connect. The neighbour look-up of `absent` takes three seconds.
    patience = "8" if exit_status == 7 else "1"
    assert lab.run(["curl", "-sS", "--max-time", patience, f"http://{name}/"]).returncode == exit_status


def test_open_ports_speak(lab: Lab) -> None:
    script = (
        "import socket, sys\n"
        "with socket.create_connection(('ports.bad.test', int(sys.argv[1])), 10) as s:\n"
        "    s.sendall(sys.argv[2].encode()); print(s.recv(100))\n"
    )

    def said(port: int, request: str = "") -> str:
        return lab.run([sys.executable, "-c", script, str(port), request]).stdout

    assert "vsFTPd" in said(21)
    assert "login:" in said(23)
    assert "5.5.20-log" in said(3306)
    assert "+PONG" in said(6379, "PING\r\n")
    assert "nginx/" in curl(lab, "http://ports.bad.test:8080/")
    assert "cluster_name" in curl(lab, "http://ports.bad.test:9200/")


# --- mail, ssh ---------------------------------------------------------------------------------------------------


def smtp(lab: Lab, name: str, *commands: str) -> str:
    """What a mail server says to some commands, all sent after its greeting."""
    script = (
        "import smtplib, sys\n"
        "s = smtplib.SMTP(sys.argv[1], 25, 'probe.good.test', 10)\n"
        "print(s.ehlo()[1].decode())\n"
        "for command in sys.argv[2:]: print(*s.docmd(command))\n"
        "s.quit()\n"
    )
    done = lab.run([sys.executable, "-c", script, name, *commands])
    assert not done.returncode, done.stderr
    return done.stdout


def test_good_mail_server(lab: Lab) -> None:
    said = smtp(lab, "mail.good.test", "MAIL FROM:<a@cloud.test>", "RCPT TO:<b@cloud.test>")
    assert "STARTTLS" in said
    assert "VRFY" not in said
    assert "554" in said
    for args, port in ((["-starttls", "smtp"], 25), (["-starttls", "smtp"], 587), ([], 465)):
        assert "Verify return code: 0 (ok)" in s_client(lab, "mail.good.test", *args, port=port)


def test_bad_mail_server_relays_without_tls(lab: Lab) -> None:
    said = smtp(lab, "mail.bad.test", "MAIL FROM:<a@cloud.test>", "RCPT TO:<b@cloud.test>")
    assert "STARTTLS" not in said
    assert "VRFY" in said
    assert "250 b'2.1.5 Ok'" in said


def test_tlsa_matches_the_mail_certificate(lab: Lab) -> None:
    pem = s_client(lab, "mail.good.test", "-starttls", "smtp", port=25)
    spki = lab.run(["openssl", "x509", "-noout", "-pubkey"], input=pem).stdout
    pin = lab.run(["sh", "-c", "openssl pkey -pubin -outform DER | openssl dgst -sha256 -r"], input=spki).stdout
    fields = short(lab, "_25._tcp.mail.good.test", "TLSA")[0].split()
    assert fields[:3] == ["3", "1", "1"]
    assert "".join(fields[3:]).lower() == pin.split()[0]


def ssh_algorithms(lab: Lab, name: str) -> str:
    done = lab.run(["ssh", "-vv", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
                    "-o", "UserKnownHostsFile=/dev/null", f"probe@{name}", "true"])  # fmt: skip
    return done.stderr.partition("peer server KEXINIT proposal")[2]


def test_ssh_servers(lab: Lab) -> None:
    good, bad = ssh_algorithms(lab, "ssh.good.test"), ssh_algorithms(lab, "ssh.bad.test")
    for weak in ("diffie-hellman-group1-sha1", "3des-cbc", "hmac-md5", "ssh-rsa"):
        assert weak in bad.partition("kex: algorithm")[0]
        assert weak not in good.partition("kex: algorithm")[0]
    assert "Authentications that can continue: publickey,password" in bad
    assert re.search(r"Authentications that can continue: publickey\s", good)


def test_ssh_host_keys(lab: Lab) -> None:
    good = lab.run(["ssh-keyscan", "-T", "10", "ssh.good.test"]).stdout
    assert {line.split()[1] for line in good.splitlines()} == {"ssh-ed25519"}
    bad = lab.run(["ssh-keyscan", "-T", "10", "-t", "rsa,ed25519", "ssh.bad.test"]).stdout
    assert {line.split()[1] for line in bad.splitlines()} == {"ssh-ed25519", "ssh-rsa"}
    shown = lab.run(["ssh-keygen", "-l", "-f", "-"], input=bad).stdout
    assert re.search(r"^1024 .*\(RSA\)$", shown, re.MULTILINE)


def test_sshfp_matches(lab: Lab) -> None:
    answer = short(lab, "ssh.good.test", "SSHFP")[0].split()
    shown = lab.run(["ssh-keyscan", "-D", "-T", "10", "-t", "ed25519", "ssh.good.test"]).stdout
    assert "".join(answer[2:]).lower() in shown


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("www.good.test", {80, 443}),
        ("www.bad.test", {80, 443}),
        ("old.bad.test", {80, 443}),
        ("expired.bad.test", {80, 443}),
        ("plain.good.test", {80}),
        ("ports.bad.test", {21, 23, 3306, 5432, 6379, 8080, 9200}),
        ("silent.bad.test", {80, 443}),
        ("filtered.bad.test", set()),
        ("mail.good.test", {25, 465, 587}),
        ("mail.bad.test", {25}),
        ("ssh.good.test", {22}),
        ("ssh.bad.test", {22}),
        ("ns1.nic.test", {53}),
    ],
)
def test_open_ports_are_those_of_the_table(lab: Lab, name: str, ports: set[int]) -> None:
    address = lab.names[name][0]
    hosts = [host.netns for host in lab.hosts.values() if address in host.ipv4]
    found = {port for netns_name in hosts for kind, at, port in listening(netns_name) if (kind, at) == ("tcp", address)}
    assert found == ports
    everywhere = {port for netns_name in hosts for _, at, port in listening(netns_name) if at in ("0.0.0.0", "*", "::")}
    assert not everywhere


def test_the_table_knows_every_name() -> None:
    table = RUN.with_name("README.md").read_text()
    for name in topology.published_names():
        label, _, zone = name.partition(".")
        assert f"`{name}`" in table or (f"`{label}`" in table and f"`{zone}`" in table) or zone in ("nic.test",), name


# --- the laboratory itself ---------------------------------------------------------------------------------------


def test_no_way_out(lab: Lab) -> None:
    for name in lab.hosts:
        routes = lab.run(["ip", "route"], ns=name).stdout + lab.run(["ip", "-6", "route"], ns=name).stdout
        assert "default" not in routes
    assert "unreachable" in lab.run(["ip", "route", "get", "192.0.2.1"]).stderr.lower()


@pytest.mark.parametrize("name", ["dns", "web", "mail", "ssh"])
def test_servers_stop_and_start(lab: Lab, name: str) -> None:
    listens = {name: server for name, server in lab.servers.items() if server.process is not None}
    lab.stop_server(name)
    try:
        for server in listens.values():
            assert server.running is (server.host.name != name)
    finally:
        lab.start_server(name)
    assert all(server.running for server in listens.values())
    if name == "dns":
        assert short(lab, "+tries=5", "www.good.test") == ["10.77.0.80"]


def test_many_hosts(lab: Lab) -> None:
    assert len(set(lab.many(topology.MANY_MAX).values())) == topology.MANY_MAX
    added = lab.many(300)
    assert short(lab, "h300.many.test") == [added["h300.many.test"]]
    for name in ("h001.many.test", "h256.many.test"):
        assert "One of many" in curl(lab, f"http://{name}/")
        assert "One of many" in curl(lab, f"https://{name}/")
    assert "h300.many.test" in lab.names
    lab.many(2)
    assert "h300.many.test" not in lab.names
    assert status(dig(lab, "h300.many.test")) == "NXDOMAIN"
    with pytest.raises(LabError, match="2000"):
        lab.many(2001)


def test_door_leads_to_this_machine(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 200_000)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        port = lab.door(server.getsockname()[1])
        done = lab.run(["curl", "-sS", "--http0.9", "--max-time", "20", f"http://127.0.0.1:{port}/"])
        thread.join()
    assert done.stdout == "x" * 200_000


def test_resolver_answers_over_ipv6_and_tcp(lab: Lab) -> None:
    assert short(lab, "+tcp", f"@{topology.v6(topology.RESOLVER)}", "www.good.test") == ["10.77.0.80"]


def test_missing_packages_are_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROGRAMS, "no-such-program", "no-such-package")
    reason = lab.why_not()
    assert reason
    assert "apt-get install no-such-package" in reason
    with pytest.raises(NotPossibleError, match="no-such-package"):
        Lab().start()


def test_packages_are_listed_for_installation() -> None:
    listed = RUN.with_name("packages.txt").read_text().split()
    assert set(PROGRAMS.values()) <= set(listed)
    assert listed == sorted(listed)


def test_mistakes_are_named(lab: Lab) -> None:
    with pytest.raises(LabError, match="no server 'nothing'"):
        lab.stop_server("nothing")
    with pytest.raises(LabError, match="no host 'nowhere'"):
        lab.run(["true"], ns="nowhere")
    with pytest.raises(LabError, match="running already"):
        lab.start()


def test_once_takes_everything_down(lab: Lab) -> None:
    # Beside the laboratory of this run: two live side by side.
    done = subprocess.run(
        [sys.executable, str(RUN), "--once", "sh", "-c", "dig +short www.good.test; exit 3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["10.77.0.80"], done.stderr
    assert done.returncode == 3
    assert {name.rsplit("-", 1)[0] for name in netns.names()} >= {lab.ident}


def test_left_overs_of_a_killed_laboratory_are_cleaned(lab: Lab) -> None:
    process = subprocess.Popen([sys.executable, str(RUN)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        ident = next(name for name in netns.names() if f"-{process.pid}-" in name).rsplit("-", 1)[0]
        running = {pid for name in netns.names(ident) for pid in netns.pids(name)}
        assert len(running) > 10
        # In use by a process that lives: left alone.
        assert ident not in netns.clean()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    netns.clean()
    assert netns.names(ident) == []
    assert not netns.state_directory(ident).exists()
    assert not any(Path("/etc/netns").glob(f"{ident}*"))
    # Killed processes are adopted by init and may lie as zombies for a moment.
    until = time.monotonic() + 10
    while (alive := [pid for pid in running if _alive(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive
    assert lab.servers["web"].running


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_ctrl_c_ends_it() -> None:
    process = subprocess.Popen([sys.executable, str(RUN)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "Ctrl-C" in line:
            break
    os.kill(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode == 0
    assert not [name for name in netns.names() if f"-{process.pid}-" in name]
