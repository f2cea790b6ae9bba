"""A real nginx on loopback with right and wrong sites, and the evidence that the scanners of `web` bring from it.

`python tests/plugins/recorded/web/record.py` records it anew into this folder (needs nginx, and the right to bind ports
80 and 443 of two loopback addresses). The tests start the same server, so what is recorded is what they would see.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.message
import dns.rrset
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kattegat.model import assets
from kattegat.model.evidence import Evidence
from kattegat.model.work import Limits
from kattegat.plugin import Asset, Hostname, Website
from kattegat.plugins import web
from kattegat.runner.dns import Server
from kattegat.runner.limits import Rules
from kattegat.runner.net import GuardedNet, Shared

BOTH, HTTP_ONLY = "127.77.80.80", "127.77.80.81"
SITES = ("good.test", "bad.test", "loop.test", "chain.test", "cookie.test", "down.test", "moved.test", "inside.test")
NAMES: dict[str, tuple[str, ...]] = dict.fromkeys(SITES, (BOTH,))
NAMES |= {"plain.test": (HTTP_ONLY,), "two.test": (BOTH, HTTP_ONLY)}
SCANS: tuple[tuple[str, Asset], ...] = (
    *(("websites", Hostname(name)) for name in ("good.test", "plain.test", "two.test")),
    ("address-websites", assets.IPAddress(BOTH)),
    *(("http", Website(f"https://{name}")) for name in sorted(NAMES) if name != "plain.test"),
    *(("http", Website(f"http://{name}")) for name in ("good.test", "bad.test", "plain.test", "loop.test", "two.test")),
    *(("security-txt", Website(f"https://{name}")) for name in ("good.test", "bad.test", "down.test", "moved.test")),
    ("security-txt", Website("http://good.test")),
    ("security-txt", Website("http://plain.test")),
)
CSP = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
HEADERS = f"""
    add_header Strict-Transport-Security "max-age=31536000; includeSubDomains" always;
    add_header Content-Security-Policy "{CSP}" always;
    add_header X-Content-Type-Options nosniff always;
    add_header X-Frame-Options DENY always;
    add_header Referrer-Policy no-referrer always;
    add_header Permissions-Policy "camera=()" always;
    add_header Set-Cookie "__Host-session=abc; Path=/; Secure; HttpOnly; SameSite=Strict" always;"""


def site(name: str, body: str, *, tls: bool, address: str = BOTH) -> str:
    """A server block."""
    return f"  server {{ listen {address}:{'443 ssl' if tls else '80'}; server_name {name};{body}\n  }}\n"


def configuration(folder: Path) -> str:
    """The whole configuration of nginx."""
    bad = f"""
    server_tokens on; root {folder}/bad;
    add_header Set-Cookie "PHPSESSID=1; path=/"; add_header Set-Cookie "__Host-x=1; Domain=bad.test; Path=/";
    add_header X-Powered-By "PHP/5.3.3"; add_header Strict-Transport-Security "max-age=300";
    add_header Content-Security-Policy "script-src 'unsafe-inline' * data:; upgrade-insecure-requests;";
    add_header X-Forwarded-For 10.0.0.1;"""
    cookie = "add_header Set-Cookie seen=1;"
    blocks = [
        site("good.test", f"{HEADERS} root {folder}/good; charset utf-8; charset_types text/plain;", tls=True),
        site("good.test", " return 301 https://$host$request_uri;", tls=False),
        site("bad.test", bad, tls=True),
        site("bad.test", bad, tls=False),
        site("loop.test", " return 302 $scheme://$host/;", tls=True),
        site("loop.test", " return 302 $scheme://$host/;", tls=False),
        site("down.test", f" root {folder}/down; location = / {{ return 302 http://good.test/; }}", tls=True),
        site("moved.test", " return 301 https://good.test$request_uri;", tls=True),
        site("inside.test", " return 302 http://10.0.0.1/admin;", tls=True),
        site("chain.test", " rewrite ^/(x*)$ https://$host/x$1 redirect;", tls=True),
        site(
            "cookie.test",
            f' location / {{ if ($http_cookie = "") {{ {cookie} return 302 /; }} root {folder}/good; }}',
            tls=True,
        ),
        site("two.test", f"{HEADERS} root {folder}/good;", tls=False),
        site("two.test", f" root {folder}/plain;", tls=False, address=HTTP_ONLY),
        site("two.test", f" root {folder}/plain;", tls=True),
        site("plain.test", f" root {folder}/plain;", tls=False, address=HTTP_ONLY),
    ]
    temporary = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  types {{ text/html html; text/plain txt; }}
  access_log off; server_tokens off;
  ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
{temporary}{"".join(blocks)}}}
"""


def write_files(folder: Path) -> None:
    """Pages, a self-signed certificate and the configuration."""
    until = f"{datetime.now(UTC) + timedelta(days=90):%Y-%m-%dT%H:%M:%SZ}"
    contact = f"Contact: mailto:security@good.test\r\nExpires: {until}\r\n"
    pages = {
        "good/index.html": "<!doctype html><title>Good</title>\n",
        "good/.well-known/security.txt": contact + "Canonical: https://good.test/.well-known/security.txt\r\n",
        "bad/index.html": '<!doctype html><meta name="referrer" content="unsafe-url"><title>Bad</title>\n',
        "down/security.txt": "Contact: security@down.test\nExpires: 2020-01-01T00:00:00Z\nhello\n",
        "plain/index.html": "<!doctype html><title>Plain</title>\n",
        "plain/.well-known/security.txt": contact,
    }
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="")
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "good.test")])
    now, serial = datetime.now(UTC), x509.random_serial_number()
    certificate = (
        x509.CertificateBuilder(issuer, issuer, key.public_key(), serial, now, now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(entry) for entry in sorted(NAMES)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "nginx.conf").write_text(configuration(folder))


def missing() -> str:
    """Why the server can't be started here, or ""."""
    if shutil.which("nginx") is None:
        return "nginx is not installed (apt-get install nginx-light)"
    for address, port in ((BOTH, 80), (BOTH, 443), (HTTP_ONLY, 80)):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((address, port))
            except OSError as problem:
                return f"{address} port {port} can't be bound: {problem.strerror}"
    return ""


@contextmanager
def nginx() -> Iterator[Path]:
    """The server, listening; its folder."""
    with tempfile.TemporaryDirectory(prefix="kat-nginx-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        write_files(folder)
        command = ["nginx", "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            for _ in range(500):
                if process.poll() is not None:
                    raise RuntimeError((process.stderr.read() if process.stderr else b"").decode())
                with socket.socket() as sock:
                    if sock.connect_ex((HTTP_ONLY, 80)) == 0:
                        break
                time.sleep(0.02)
            yield folder
        finally:
            process.terminate()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


class Resolver(asyncio.DatagramProtocol):
    """Answers A questions about `NAMES`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        question = query.question[0]
        addresses = NAMES.get(question.name.to_text().rstrip("."))
        if addresses is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.A:
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", *addresses))
        self.transport.sendto(response.to_wire(), addr)  # type: ignore[attr-defined]


@asynccontextmanager
async def net() -> AsyncIterator[GuardedNet]:
    """The net of a job whose organisation has declared loopback its own."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Resolver, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    limits = Limits("internet", own_networks=["127.0.0.0/8"])
    job = GuardedNet(Shared(Rules(), (Server("127.0.0.1", port),)), limits, scanner="test")
    try:
        yield job
    finally:
        await job.close()
        transport.close()
        await asyncio.sleep(0)


def scanner(name: str) -> web.WebsitesScanner | web.HttpScanner | web.SecurityTxtScanner | web.AddressWebsitesScanner:
    """A scanner of the plugin by its name."""
    kinds = (web.WebsitesScanner, web.AddressWebsitesScanner, web.HttpScanner, web.SecurityTxtScanner)
    return next(kind for kind in kinds if kind.__scanner__.name == name)()  # type: ignore[union-attr]


def file_of(name: str, asset: Asset) -> str:
    """The name of the file with the evidence of a scan."""
    place = asset.origin.replace("://", "-").replace(":", "-") if isinstance(asset, Website) else asset.key
    return f"{name}--{place.replace('|', '-')}.evidence"


async def scan() -> dict[str, Evidence]:
    """Performs all scans."""
    found: dict[str, Evidence] = {}
    async with net() as job:
        for name, asset in SCANS:
            found[file_of(name, asset)] = await scanner(name).fetch(asset, job)  # type: ignore[arg-type]
    return found


def main() -> int:
    """Records into this folder."""
    if problem := missing():
        print(problem, file=sys.stderr)
        return 1
    with nginx():
        found = asyncio.run(scan())
    here = Path(__file__).parent
    for name, evidence in found.items():
        (here / name).write_bytes(evidence.pack())
        print(name, os.path.getsize(here / name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
