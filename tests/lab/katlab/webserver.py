"""The web host: one nginx with a server block per site, and the small listeners on odd ports.

OpenSSL decides on protocol versions before it sees the server name, so every TLS configuration has its own address.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

from . import topology
from .certs import Authority, Pair, weak_dh_parameters
from .server import Server, tcp
from .topology import WEB, Host, v4, v6

#: Protocols and ciphers of the right sites: the "intermediate" ones every current guideline allows.
_MODERN = """
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305;
        ssl_ecdh_curve X25519:prime256v1:secp384r1;
        ssl_prefer_server_ciphers on;
        ssl_session_tickets off;"""
#: Security level 0 lets OpenSSL 3 speak TLS 1.0 and 1.1 (SHA-1 signatures) and offer NULL and anonymous ciphers.
_WEAK_CIPHERS = """
        ssl_ciphers ALL:COMPLEMENTOFALL:@SECLEVEL=0;
        ssl_prefer_server_ciphers off;"""
_HSTS = """
        add_header Strict-Transport-Security "max-age=31536000; includeSubDomains; preload" always;"""
_CSP = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
_GOOD_HEADERS = f"""
        add_header Content-Security-Policy "{_CSP}" always;
        add_header X-Content-Type-Options nosniff always;
        add_header X-Frame-Options DENY always;
        add_header Referrer-Policy no-referrer always;
        add_header Permissions-Policy "camera=(), geolocation=(), microphone=()" always;
        add_header Cross-Origin-Opener-Policy same-origin always;
        add_header Cross-Origin-Resource-Policy same-origin always;"""
_GOOD_COOKIE = """
        add_header Set-Cookie "__Host-session=lab; Path=/; Secure; HttpOnly; SameSite=Strict" always;"""
#: TCP ports with something that speaks first, or answers, on ports.bad.test; 8080 and 9200 are nginx's.
BANNER_PORTS = (21, 23, 3306, 5432, 6379)
NGINX_PORTS = (8080, 9200)


class Web:
    """Configuration of the web host under one directory; `write` returns its servers."""

    def __init__(self, directory: Path, host: Host, authority: Authority) -> None:
        self.directory = directory
        self.host = host
        self.authority = authority

    def write(self) -> list[Server]:
        """Issue the certificates and write the configuration; the servers are not yet started."""
        self.directory.mkdir(parents=True)
        self._write_pages()
        config = self.directory / "nginx.conf"
        config.write_text(_nginx_conf(self.directory, self._sites()))
        good = [topology.v4(WEB["www.good.test"]), topology.v6(WEB["www.good.test"])]
        ports = v4(WEB["ports.bad.test"])
        listens = [*tcp(443, *good), *tcp(80, *good)]
        listens += [entry for port in NGINX_PORTS for entry in tcp(port, ports)]
        silent = [v4(WEB["silent.bad.test"]), v6(WEB["silent.bad.test"])]
        script = Path(__file__).with_name("banners.py")
        return [
            nginx(self.directory, self.host, "web", listens),
            Server(
                "banners",
                self.host,
                [sys.executable, str(script), ports, *silent],
                [*(("tcp", ports, port) for port in BANNER_PORTS), *tcp(80, *silent), *tcp(443, *silent)],
                self.directory / "banners.log",
            ),
        ]

    def _sites(self) -> str:
        return "".join(
            [*self._right_sites(), *self._one_fault_sites(), *self._wrong_sites(), *self._redirecting_sites()]
        )

    def _right_sites(self) -> list[str]:
        names = ["www.good.test", "good.test", "mta-sts.good.test", "v6only.good.test"]
        pair = self.authority.issue("good", *names)
        zone_names = [name for name, number in WEB.items() if number == WEB["www.insecure.test"]]
        zone_pair = self.authority.issue("zones", *zone_names)
        to_www = "\n        location = / { return 301 https://www.good.test/; }"
        good, zone = WEB["www.good.test"], WEB["www.insecure.test"]
        return [
            _to_https(good, *names),
            _server(443, good, "www.good.test", _tls(pair) + _MODERN + self._right("good") + _GOOD_COOKIE),
            _server(443, good, "good.test v6only.good.test", _tls(pair) + _MODERN + self._right("good") + to_www),
            _server(443, good, "mta-sts.good.test", _tls(pair) + _MODERN + self._right("mta-sts")),
            _to_https(zone, *zone_names),
            _server(443, zone, " ".join(zone_names), _tls(zone_pair) + _MODERN + self._right("plain")),
            _server(80, WEB["plain.good.test"], "plain.good.test", f"\n        root {self.directory}/plain;"),
        ]

    def _one_fault_sites(self) -> list[str]:
        """Sites with everything right but the one thing they are named after."""
        issue = self.authority.issue
        # The key is RSA here, so the right ciphers are those with RSA authentication; level 0 lets the key pass.
        rsa = _MODERN.replace("ECDSA", "RSA").replace("POLY1305;", "POLY1305:@SECLEVEL=0;")
        old = "\n        ssl_protocols TLSv1 TLSv1.1;" + _WEAK_CIPHERS
        faults = {
            "expired.bad.test": (issue("expired", "expired.bad.test", start=-100, end=-10), _MODERN),
            "soon.bad.test": (issue("soon", "soon.bad.test", start=-80, end=7), _MODERN),
            "chain.bad.test": (issue("chain", "chain.bad.test", chain=False), _MODERN),
            "weakkey.bad.test": (self.authority.issue_weak("weakkey", "weakkey.bad.test"), rsa),
            "old.bad.test": (issue("old", "old.bad.test", key="rsa2048"), old),
        }
        return [
            server
            for name, (pair, protocol) in faults.items()
            for server in (
                _to_https(WEB[name], name),
                _server(443, WEB[name], name, _tls(pair) + protocol + self._right("plain")),
            )
        ]

    def _wrong_sites(self) -> list[str]:
        """No redirect, old TLS, self-signed for another name, no headers, bare cookies, version shown."""
        names, number = "www.bad.test bad.test", WEB["www.bad.test"]
        pair = self.authority.issue("bad", "other.example", key="rsa2048", self_signed=True)
        group = self.directory / "weak-dh.pem"
        group.write_bytes(weak_dh_parameters())
        old = f"\n        ssl_protocols TLSv1 TLSv1.1 TLSv1.2;\n        ssl_dhparam {group};{_WEAK_CIPHERS}"
        ports = WEB["ports.bad.test"]
        tokens = f"\n        server_tokens on;\n        root {self.directory}/plain;"
        database = """
        default_type application/json;
        return 200 \'{"cluster_name":"lab","version":{"number":"1.4.2"}}\';"""
        return [
            _server(80, number, names, self._bad_page()),
            _server(443, number, names, _tls(pair) + old + self._bad_page()),
            _server(8080, ports, "ports.bad.test", tokens),
            _server(9200, ports, "ports.bad.test", database),
        ]

    def _redirecting_sites(self) -> list[str]:
        targets = {
            "redirect.bad.test": "$scheme://redirect.bad.test$request_uri",
            "to-loopback.bad.test": "http://127.0.0.1/",
            "to-metadata.bad.test": "http://169.254.169.254/latest/meta-data/",
            "to-private.bad.test": "http://10.0.0.1/",
            "to-rebind.bad.test": "http://www.rebind.test/",
        }
        tls = _tls(self.authority.issue("redirect", *targets)) + _MODERN
        return [
            _server(port, WEB[name], name, (tls if port == 443 else "") + f"\n        return 302 {target};")
            for name, target in targets.items()
            for port in (80, 443)
        ]

    def _right(self, content: str) -> str:
        return f"{_HSTS}{_GOOD_HEADERS}\n        root {self.directory}/{content};\n        charset utf-8;"

    def _bad_page(self) -> str:
        return f"""
        server_tokens on;
        add_header Set-Cookie "session=lab; Path=/";
        add_header X-Powered-By "PHP/5.3.3";
        add_header Access-Control-Allow-Origin "*";
        root {self.directory}/bad;
        location /files/ {{ autoindex on; }}"""

    def _write_pages(self) -> None:
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=90)
        contact = (
            f"Contact: mailto:security@good.test\nExpires: {until:%Y-%m-%dT%H:%M:%SZ}\nPreferred-Languages: en\n"
            + "".join(
                f"Canonical: https://{name}/.well-known/security.txt\n"
                for name in sorted({*WEB, "v6only.good.test"} - {"www.bad.test", "bad.test"})
            )
        )
        pages = {
            "good/index.html": _page("The right site"),
            "good/robots.txt": "User-agent: *\nDisallow:\n",
            **{f"{content}/.well-known/security.txt": contact for content in ("good", "mta-sts", "plain")},
            "mta-sts/index.html": _page("MTA-STS policy host"),
            "mta-sts/.well-known/mta-sts.txt": (
                "version: STSv1\r\nmode: enforce\r\nmx: mail.good.test\r\nmax_age: 604800\r\n"
            ),
            "bad/index.html": _page("The wrong site", '<script src="http://cdn.cloud.test/old.js"></script>'),
            "bad/files/backup.sql": "-- nothing in here\n",
            "bad/.git/config": "[core]\n\trepositoryformatversion = 0\n",
            "plain/index.html": _page("A plain site"),
        }
        for name, text in pages.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, newline="")


class Many:
    """The `many` host: one nginx that answers on every address of `MANY_NETWORK`, started when first needed."""

    def __init__(self, directory: Path, host: Host, authority: Authority) -> None:
        self.directory = directory
        self.host = host
        self.authority = authority

    def write(self) -> list[Server]:
        """Write the configuration; the server is not yet started."""
        self.directory.mkdir(parents=True)
        (self.directory / "index.html").write_text(_page("One of many"))
        pair = self.authority.issue("many", "*.many.test")
        body = f"\n        root {self.directory};"
        blocks = f"    server {{\n        listen 80 default_server;{body}\n    }}\n"
        blocks += f"    server {{\n        listen 443 ssl default_server;{_tls(pair)}{_MODERN}{body}\n    }}\n"
        (self.directory / "nginx.conf").write_text(_nginx_conf(self.directory, blocks))
        return [nginx(self.directory, self.host, "many", [("tcp", "0.0.0.0", 80), ("tcp", "0.0.0.0", 443)])]


def nginx(directory: Path, host: Host, name: str, listens: list[tuple[str, str, int]]) -> Server:
    """An nginx with the configuration in `directory`.

    Debian's OpenSSL refuses keys of 1024 bits and SHA-1 when a certificate is loaded, before nginx's own cipher
    settings count; so the program gets an OpenSSL configuration of its own with security level 0.
    """
    openssl = directory / "openssl.cnf"
    openssl.write_text(
        "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = system\n"
        "[system]\nMinProtocol = None\nCipherString = DEFAULT:@SECLEVEL=0\n"
    )
    return Server(
        name,
        host,
        ["nginx", "-e", str(directory / "error.log"), "-p", str(directory), "-c", str(directory / "nginx.conf")],
        listens,
        directory / f"{name}.log",
        {"OPENSSL_CONF": str(openssl)},
    )


def _nginx_conf(directory: Path, servers: str) -> str:
    paths = "".join(
        f"    {name}_temp_path {directory}/tmp-{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off;
user www-data;
worker_processes 1;
pid {directory}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    include /etc/nginx/mime.types;
    default_type text/html;
    access_log {directory}/access.log;
    error_log {directory}/error.log;
    server_tokens off;
    server_names_hash_bucket_size 128;
{paths}{servers}}}
"""


def _server(port: int, number: int, names: str, body: str) -> str:
    ssl = " ssl" if port == 443 else ""
    return f"""    server {{
        listen {v4(number)}:{port}{ssl};
        listen [{v6(number)}]:{port}{ssl};
        server_name {names};{body}
    }}
"""


def _to_https(number: int, *names: str) -> str:
    """Redirect to HTTPS on the same host, as HSTS wants it (RFC 6797, section 7.2); no HSTS header over HTTP."""
    return _server(80, number, " ".join(names), _GOOD_HEADERS + "\n        return 301 https://$host$request_uri;")


def _tls(pair: Pair) -> str:
    return f"\n        ssl_certificate {pair.cert};\n        ssl_certificate_key {pair.key};"


def _page(title: str, head: str = "") -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>{head}</head>'
        f"<body><h1>{title}</h1></body></html>\n"
    )
