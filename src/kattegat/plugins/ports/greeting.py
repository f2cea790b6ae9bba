"""What a service says before it is asked anything."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from kattegat.plugin import Evidence, Found, Net, NotMeasured, NotReached, Part, Service, days, scanner
from kattegat.plugins.ports.facts import Banner

__all__ = ["BannerScanner"]

GREETING_BYTES = 1024
GREETING_SECONDS = 8.0
"""Mail servers make a stranger wait for up to six seconds (Postfix's postscreen, Sendmail's greet_pause)."""

PRODUCTS = (
    re.compile(r"\ASSH-[\d.]+-(?P<product>[A-Za-z]+)[_-](?P<version>[^\s\r\n]+)"),
    re.compile(
        r"\A220[ -][^\r\n]*?\b(?P<product>Postfix|Exim|Sendmail|vsFTPd|ProFTPD|Pure-FTPd)\b[ (]*(?P<version>\d[\d.]*)?"
    ),
    re.compile(r"\A\* OK [^\r\n]*?\b(?P<product>Dovecot|Cyrus|Courier)\b[^\r\n\d]*(?P<version>\d[\d.]*)?"),
)
# MySQL's first packet: 3 bytes of length, number 0, protocol 10, the version, NUL (MySQL internals, HandshakeV10).
MYSQL = re.compile(r"\A.{3}\x00\n(?:5\.5\.5-)?(?P<version>\d+(?:\.\d+)+)(?:-(?P<product>MariaDB))?", re.DOTALL)
# As mail servers write the time into their greeting (RFC 5322 section 3.3); it differs at every visit.
DATE = re.compile(r"(?:[A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2}(?: (?:[+-]\d{4}|[A-Z]{1,5}))?")


def greets(service: Service) -> bool:
    """Whether to wait for a greeting: on the ports of the web the client speaks first."""
    return service.protocol == "tcp" and service.port not in (80, 443, 8080, 8443)


@scanner("banner", about=Service, clearance=1, every=days(1), yields=[Banner], applies=greets)
class BannerScanner:
    """Connects, sends nothing, and keeps what the service says by itself."""

    async def fetch(self, service: Service, net: Net) -> Evidence:
        stream = await net.connect(service.address.address, service.port)
        said, ended = b"", "enough"
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                while len(said) < GREETING_BYTES and b"\n" not in said:
                    piece = await stream.read(GREETING_BYTES - len(said))
                    if not piece:
                        ended = "closed"
                        break
                    said += piece
        except TimeoutError:
            ended = "silent"  # an answer too: the service waits for its client
        except NotReached as problem:
            if problem.how == "timeout":
                ended = "silent"
            elif not said:
                raise
        finally:
            await stream.close()
        return Evidence((Part("banner", said, {"ended": ended}),))

    def parse(self, service: Service, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        part = evidence.first("banner")
        if part is None:
            yield NotMeasured("Banner", "the evidence can't be read")
            return
        if not part.content:
            if part.notes.get("ended") != "silent":
                # A server that has too many visitors does so as well, and greets again tomorrow.
                yield NotMeasured("Banner", "it closed the connection without a word")
            return
        yield Found(service, banner(part.content))


def banner(content: bytes) -> Banner:
    """The fact that is in a greeting."""
    text = content[:GREETING_BYTES].decode("utf-8", "replace")
    product, version = "", ""
    if match := MYSQL.match(text):
        text = text[: match.end()]
        product, version = match["product"] or "MySQL", match["version"]
    elif match := next((found for pattern in PRODUCTS if (found := pattern.search(text))), None):
        product, version = match["product"], (match["version"] or "").rstrip(".")
    shown = "".join(char if char.isprintable() or char in "\r\n\t" else "\ufffd" for char in DATE.sub("<date>", text))
    return Banner(text=shown, product=product, version=version)
