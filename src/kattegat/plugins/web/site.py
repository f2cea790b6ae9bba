"""Scanner: what a website answers to a visitor of its front page, and the facts in that answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser

import msgspec

from kattegat.plugin import (
    Blocked,
    Evidence,
    Fact,
    Found,
    HttpReply,
    Link,
    Net,
    NotMeasured,
    NotReached,
    Option,
    Part,
    Website,
    days,
    scanner,
)
from kattegat.plugins.shared.addresses import in_order
from kattegat.plugins.web import follow
from kattegat.plugins.web.cookies import Cookie, parse

__all__ = ["AddressDifferences", "Cookies", "HttpHeaders", "HttpResponse", "HttpScanner"]

MOST_ADDRESSES = 4
MOST_OF_PAGE = 256 * 1024  # policies stand in the head of a page
VARIES = "(varies)"
# Their values differ from one response to the next. The evidence has them; in a fact each scan would be a change.
_VARYING = frozenset(
    {
        "age", "alt-svc", "cf-ray", "content-length", "date", "etag", "expires", "last-modified", "nel", "report-to",
        "server-timing", "x-amz-cf-id", "x-amz-cf-pop", "x-amz-id-2", "x-amz-request-id", "x-cache", "x-cache-hits",
        "x-correlation-id", "x-ms-request-id", "x-request-id", "x-runtime", "x-served-by", "x-timer", "x-trace-id",
        "x-varnish",
    }
)  # fmt: skip
_NONCE = re.compile(r"'nonce-[^']*'", re.IGNORECASE)
# What all addresses of a site should say alike.
COMPARED = (
    "content-security-policy", "permissions-policy", "referrer-policy", "strict-transport-security",
    "x-content-type-options", "x-frame-options",
)  # fmt: skip


class Hop(msgspec.Struct, frozen=True):
    """One response on the way: `location` is where it leads, "" for no redirect; `hsts` its HSTS headers, in order."""

    url: str
    status: int
    location: str = ""
    hsts: tuple[str, ...] = ()


class HttpResponse(Fact, about=Website):
    """What the site's front page answered, and where it sends its visitors.

    `status` to `server` speak of the site's *own* last response: the last in a row from this origin, starting with
    `/`. `leaves`: that response sends the visitor to another origin, `leads_to`. `hops` are all responses, those of
    other origins included; `stopped` says why the last redirect in it was not followed: "loop", "limit", "blocked",
    "failed", "unreadable", "elsewhere" or "", with `problem` in words. `meta` are the policies in the page's
    own `<meta>` elements: (`content-security-policy` or `referrer`, value).
    """

    url: str
    status: int
    version: str
    content_type: str
    server: str
    leaves: bool
    leads_to: str
    hops: tuple[Hop, ...]
    stopped: str = ""
    problem: str = ""
    meta: tuple[tuple[str, str], ...] = ()


class HttpHeaders(Fact, about=Website):
    """The headers of the site's own last response, in order, repeated ones included: (name, value) as sent.

    Values that differ from one response to the next (dates, request numbers) read `(varies)`; Set-Cookie has the
    cookie's name only, and nonces of a policy are `'nonce-(varies)'`.
    """

    headers: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order; names compare without case."""
        return [value for key, value in self.headers if key.lower() == name]


class Cookies(Fact, about=Website):
    """The cookies that the site's own responses set, by name; the last of several with one name, domain and path."""

    cookies: tuple[Cookie, ...]


class Difference(msgspec.Struct, frozen=True):
    """One thing that differs: `what` is "status" or a header's name; `answers` are (address, value), "" for absent."""

    what: str
    answers: tuple[tuple[str, str], ...]


class AddressDifferences(Fact, about=Website):
    """What the site's addresses (at most 4) answer differently: the status or a security header. None: no fact."""

    addresses: tuple[str, ...]
    differences: tuple[Difference, ...]


@scanner(
    "http", about=Website, clearance=1, every=days(1),
    yields=[HttpResponse, HttpHeaders, Cookies, AddressDifferences],
    options=[
        Option("follow_elsewhere", True, "Follow redirects to other hosts, as a visitor would, to see where they end.")
    ],
)  # fmt: skip
class HttpScanner:
    """Asks a site for `/` at each of its addresses (at most 4), and follows the redirects of the first that answers."""

    async def fetch(self, site: Website, net: Net) -> Evidence:
        addresses = in_order(await net.resolve(site.host))[:MOST_ADDRESSES]
        elsewhere = bool(net.options.get("follow_elsewhere", True))
        parts: list[Part] = []
        failures: list[NotReached | Blocked] = []
        answered = False
        for address in addresses:
            try:
                if not answered:
                    parts += await follow.visit(net, site.url, address=address, elsewhere=elsewhere)
                    answered = True
                else:
                    parts.append(follow.brief(await net.get(site.url, address=address)).part("other"))
            except (NotReached, Blocked) as problem:
                failures.append(problem)
                parts.append(Part("unreached", b"", {"address": address, "problem": str(problem)}))
        if not answered:
            raise failures[0] if failures else NotReached(f"{site.host} has no address.")
        return Evidence(tuple(parts))

    def parse(self, site: Website, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        visit = follow.read(evidence)
        own = own_replies(site, visit)
        if not own:
            for kind in (HttpResponse, HttpHeaders, Cookies, AddressDifferences):
                yield NotMeasured(kind.kind, "the recorded response can't be read")
            return
        response = _response(own, visit)
        target = follow.website(response.leads_to) if response.leaves else None
        yield Found(site, response, links=(Link("redirects_to", site, target),) if target is not None else ())
        yield Found(site, HttpHeaders(headers=tuple(_headers(own[-1]))))
        cookies = _cookies(own)
        if cookies:
            yield Found(site, Cookies(cookies=cookies))
        yield from _differences(site, own[0], evidence)


def own_replies(site: Website, visit: follow.Visit) -> list[HttpReply]:
    """The responses in a row, from the first, that are of the site's own origin."""
    own: list[HttpReply] = []
    for reply in visit.replies:
        if follow.website(reply.url) != site:
            break
        own.append(reply)
    return own


def _response(own: list[HttpReply], visit: follow.Visit) -> HttpResponse:
    last = own[-1]
    target = follow.location(last) or ""
    # A redirect inside the origin is the last response of its own when it was not followed (a loop).
    leaves = bool(target) and follow.website(target) != follow.website(last.url)
    content_type = last.header("content-type")
    server = last.header("server")
    return HttpResponse(
        url=follow.clean(last.url),
        status=last.status,
        version=follow.clean(last.version),
        content_type=follow.clean(content_type[0]) if content_type else "",
        server=follow.clean(server[0]) if server else "",
        leaves=leaves,
        leads_to=follow.clean(target),
        hops=tuple(_hop(reply) for reply in visit.replies),
        stopped=visit.stop.why if visit.stop is not None else "",
        problem=visit.stop.problem if visit.stop is not None else "",
        meta=_meta(last),
    )


def _hop(reply: HttpReply) -> Hop:
    hsts = tuple(map(follow.clean, reply.header("strict-transport-security")))
    target = follow.clean(follow.location(reply) or "")
    return Hop(url=follow.clean(reply.url), status=reply.status, location=target, hsts=hsts)


def _headers(reply: HttpReply) -> Iterator[tuple[str, str]]:
    for raw_name, raw in reply.headers:
        name, value = follow.decoded(raw_name), follow.decoded(raw)
        yield name, _steady(name.lower(), value)


def _steady(name: str, value: str) -> str:
    if name in _VARYING:
        return VARIES
    if name == "set-cookie":
        return value.partition("=")[0].strip()[:200]
    return _NONCE.sub(f"'nonce-{VARIES}'", value)


def _cookies(own: list[HttpReply]) -> tuple[Cookie, ...]:
    found: dict[tuple[str, str, str], Cookie] = {}
    for reply in own:
        for name, raw in reply.headers:
            if name.lower() == b"set-cookie" and (cookie := parse(follow.decoded(raw))) is not None:
                found[cookie.name, cookie.domain, cookie.path] = cookie
    return tuple(found[key] for key in sorted(found))


class _Meta(HTMLParser):
    """Collects the policies in `<meta>` elements (HTML, section 4.2.5; CSP level 3, section 3.3)."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            return
        given = {name: value or "" for name, value in reversed(attrs)}
        if given.get("http-equiv", "").strip().lower() == "content-security-policy":
            self.found.append(("content-security-policy", given.get("content", "")))
        elif given.get("name", "").strip().lower() == "referrer":
            self.found.append(("referrer", given.get("content", "")))


def _meta(reply: HttpReply) -> tuple[tuple[str, str], ...]:
    head = reply.body[:MOST_OF_PAGE]
    if b"<meta" not in head.lower():
        return ()
    reader = _Meta()
    # html.parser gives up on some malformed declarations; what stood before them counts.
    with suppress(AssertionError, ValueError):
        reader.feed(head.decode("utf-8", "replace"))
    return tuple((name, _NONCE.sub(f"'nonce-{VARIES}'", follow.clean(value))) for name, value in reader.found)


def _differences(site: Website, first: HttpReply, evidence: Evidence) -> Iterator[Found | NotMeasured]:
    replies = [first]
    for part in evidence.named("other"):
        reply = follow.reply_of(part)
        address = str(part.notes.get("address", ""))
        if reply is None:
            yield NotMeasured("AddressDifferences", f"the response of {address} can't be read", address)
        else:
            replies.append(reply)
    for part in evidence.named("unreached"):
        reason, address = str(part.notes.get("problem", "")), str(part.notes.get("address", ""))
        yield NotMeasured("AddressDifferences", reason, address)
    found: list[Difference] = []
    for what in ("status", *COMPARED):
        answers = tuple((follow.clean(reply.address), _answer(reply, what)) for reply in replies)
        if len({value for _, value in answers}) > 1:
            found.append(Difference(what, answers))
    if found:
        addresses = tuple(follow.clean(reply.address) for reply in replies)
        yield Found(site, AddressDifferences(addresses=addresses, differences=tuple(found)))


def _answer(reply: HttpReply, what: str) -> str:
    if what == "status":
        return str(reply.status)
    return ", ".join(_steady(what, follow.clean(value)) for value in reply.header(what))
