"""Scanner: a site's security.txt, where RFC 9116 wants it and at the older place."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from email.message import Message

from kattegat.errors import KeyFormatError
from kattegat.plugin import (
    URL,
    Blocked,
    Evidence,
    Fact,
    Found,
    HttpReply,
    Net,
    NotMeasured,
    NotReached,
    Part,
    Website,
    days,
    scanner,
)
from kattegat.plugins.web import follow, securitytxt
from kattegat.plugins.web.securitytxt import Problem

__all__ = ["SecurityTxt", "SecurityTxtScanner"]

PLACES = ("/.well-known/security.txt", "/security.txt")
MOST_REDIRECTS = 5


class SecurityTxt(Fact, about=Website):
    """What a site serves as security.txt (RFC 9116).

    `found`: there is one. `status` is of the last response at the well-known place, `url` is where the file came from
    at last, `asked` where it was asked for. `expires` in UTC; `contacts`, `canonical` as written; `problems` name the
    rules that the file or its way of being served breaks.
    """

    found: bool
    status: int
    asked: str = ""
    url: str = ""
    signed: bool = False
    expires: datetime | None = None
    contacts: tuple[str, ...] = ()
    canonical: tuple[str, ...] = ()
    languages: str = ""
    problems: tuple[Problem, ...] = ()


def on_name(site: Website) -> bool:
    """Whether a site is on a name, at the port that its scheme has by default."""
    return not follow.is_address(site.host) and site.port == {"http": 80, "https": 443}[site.scheme]


@scanner("security-txt", about=Website, clearance=1, every=days(7), yields=[SecurityTxt], applies=on_name)
class SecurityTxtScanner:
    """Asks for /.well-known/security.txt, and for /security.txt when there is none; follows up to 5 redirects."""

    async def fetch(self, site: Website, net: Net) -> Evidence:
        parts: list[Part] = []
        for place in PLACES:
            try:
                found = await follow.visit(net, site.url.rstrip("/") + place, chain=place, most=MOST_REDIRECTS)
            except (NotReached, Blocked) as problem:
                if not parts:
                    raise
                notes = {"chain": place, "url": place, "why": "failed", "problem": str(problem)}
                found = [Part("stopped", b"", notes)]
            parts += found
            replies = follow.read(Evidence(tuple(found)), place).replies
            if replies and _is_file(replies[-1]):
                break
        return Evidence(tuple(parts))

    def parse(self, site: Website, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        visits = {place: follow.read(evidence, place) for place in PLACES}
        for place, visit in visits.items():
            if visit.stop is None and visit.replies and _is_file(visit.replies[-1]):
                yield Found(site, _fact(site, place, visit))
                return
            reason = _no_answer(visit)
            if reason:
                yield NotMeasured("SecurityTxt", reason)
                return
        yield Found(site, SecurityTxt(found=False, status=visits[PLACES[0]].replies[-1].status))


def _is_file(reply: HttpReply) -> bool:
    if reply.status != 200:
        return False
    return securitytxt.looks_like(reply.body) or (_media_type(reply)[0] == "text/plain" and bool(reply.body.strip()))


def _no_answer(visit: follow.Visit) -> str:
    """Why a visit doesn't say that there is no file; "" when it does. A loop is no file, as for any reader."""
    if visit.stop is not None and visit.stop.why in ("failed", "blocked"):
        return visit.stop.problem
    if not visit.replies:
        return "the recorded response can't be read"
    status = visit.replies[-1].status
    if status >= 500 or status == 429:
        return f"the site answered {status}"
    return ""


def _media_type(reply: HttpReply) -> tuple[str, str]:
    """The media type and its charset, lower case; "" where there is none."""
    message = Message()
    message["content-type"] = next(iter(reply.header("content-type")), "").replace("\r", " ").replace("\n", " ")
    essence = str(message["content-type"]).partition(";")[0].strip().lower()
    charset = message.get_param("charset")
    return essence, charset.lower() if isinstance(charset, str) else ""


def _fact(site: Website, place: str, visit: follow.Visit) -> SecurityTxt:
    last = visit.replies[-1]
    text = securitytxt.parse(last.body, cut=last.cut)
    problems = list(text.problems)
    essence, charset = _media_type(last)
    if essence != "text/plain":
        problems.append(Problem("content-type", follow.clean(essence)[:80]))
    elif charset not in ("", "utf-8", "utf8", "us-ascii"):
        problems.append(Problem("charset", follow.clean(charset)[:80]))
    if place != PLACES[0]:
        problems.append(Problem("legacy-place"))
    if last.url.lower().startswith("http:"):
        problems.append(Problem("http"))
    canonical = text.all("canonical")
    if canonical and not {_normal(reply.url) for reply in visit.replies} & {_normal(value) for value in canonical}:
        problems.append(Problem("canonical", follow.clean(last.url)))
    return SecurityTxt(
        found=True,
        status=last.status,
        asked=site.url.rstrip("/") + place,
        url=follow.clean(last.url),
        signed=text.signed,
        expires=text.expires,
        contacts=tuple(text.all("contact")),
        canonical=tuple(canonical),
        languages=next(iter(text.all("preferred-languages")), ""),
        problems=tuple(problems),
    )


def _normal(url: str) -> str:
    try:
        return URL(url).url
    except (KeyFormatError, ValueError):
        return url
