"""What the checks of a website share: which response is judged, and why sometimes none can be."""

from __future__ import annotations

from collections.abc import Iterable

from kattegat.plugin import Facts, Item, Pass, Unknown, Verdict, Website, translatable
from kattegat.plugins.web.csp import Policy, policies
from kattegat.plugins.web.follow import is_address
from kattegat.plugins.web.site import HttpHeaders, HttpResponse

# Types that browsers show as a document in which scripts can run.
_DOCUMENTS = ("text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml")

RESPONSE_UNKNOWN = translatable("the site's front page has no recorded answer")


def page(response: HttpResponse | None, *, documents: bool = False) -> Verdict | None:
    """None when the site's own response is to be judged; else the verdict that stands in for judging.

    A site that only sends its visitors to another origin shows nothing of its own: pass. An error of the server (5xx)
    says little of the site: unknown. With `documents` what is no document passes as well.
    """
    if response is None:
        return Unknown(RESPONSE_UNKNOWN)
    if response.leaves:
        return Pass()
    if response.status >= 500:
        return Unknown(f"the site answered {response.status}")
    if response.stopped:
        return Unknown(response.problem)
    if documents and not is_document(response):
        return Pass()
    return None


def is_document(response: HttpResponse) -> bool:
    """Whether the response is a document; one without a type is, since browsers guess."""
    essence = response.content_type.partition(";")[0].strip().lower()
    return not essence or essence in _DOCUMENTS or essence.endswith("+xml")


def values(headers: HttpHeaders | None, name: str) -> list[str]:
    """The values of a header, in order."""
    return headers.all(name) if headers is not None else []


def listed(texts: Iterable[str]) -> list[str]:
    """The members of a header whose values are comma-separated lists."""
    return [member.strip() for text in texts for member in text.split(",") if member.strip()]


def csp_of(response: HttpResponse, headers: HttpHeaders | None) -> list[Policy]:
    """The policies in force for the page, of headers and `<meta>` elements."""
    meta = [value for name, value in response.meta if name == "content-security-policy"]
    return policies(values(headers, "content-security-policy"), meta)


def both(response: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> tuple[HttpResponse | None, HttpHeaders | None]:
    """The two facts that most checks of a website look at."""
    return response.one, headers.one


def on_https(site: Website) -> bool:
    """For checks of sites over TLS."""
    return site.scheme == "https"


def on_https_name(site: Website) -> bool:
    """For checks of what browsers remember by name, which they do not for addresses (RFC 6797 section 8.1.1)."""
    return site.scheme == "https" and not is_address(site.host)


def on_http_name(site: Website) -> bool:
    """For checks of sites without TLS; certificates are for names."""
    return site.scheme == "http" and not is_address(site.host)


def one(key: str, text: str, **params: str | int) -> Item:
    """An item with its parameters."""
    return Item(key, text, dict(params))
