"""What the checks of a website share: which response is judged, and why sometimes none can be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kattegat.plugin import Context, Facts, Fail, Item, Pass, Unknown, Verdict, Website, translatable, verdict
from kattegat.plugins.web.csp import Policy, policies
from kattegat.plugins.web.follow import is_address
from kattegat.plugins.web.site import HttpHeaders, HttpResponse

# Types that browsers show as a document in which scripts can run.
_DOCUMENTS = ("text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml")

RESPONSE_UNKNOWN = translatable("the site's front page has no recorded answer")


def per_vantage(function: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Judges what was seen from each vantage by itself, and fails for what is wrong from any of them.

    Judging the facts that were confirmed last would make the verdict go to and fro with every scan where a site answers
    one way inside a network and another way outside.
    """

    @functools.wraps(function)
    def judge(context: Context, *facts: Facts[Any]) -> Verdict:
        vantages = sorted({known.vantage for found in facts for known in found.known})
        if len(vantages) < 2:
            return function(context, *facts)
        return together([function(context, *(_seen_from(found, vantage) for found in facts)) for vantage in vantages])

    return judge


def _seen_from(facts: Facts[Any], vantage: str) -> Facts[Any]:
    return Facts([known for known in facts.known if known.vantage == vantage], facts.unmeasured, facts.linked)


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several: fail with the items of all that fail; else unknown if one is; else pass."""
    until = min((one.until for one in verdicts if one.until is not None), default=None)
    items: dict[str, Item] = {}
    for one in verdicts:
        for item in one.items if isinstance(one, Fail) else ():
            items.setdefault(item.key, item)
    reason = next((one.reason for one in verdicts if isinstance(one, Unknown)), None)
    return verdict(list(items.values()), until=until, unknown=reason)


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


def on_https(site: Website) -> bool:
    """For checks of sites over TLS."""
    return site.scheme == "https"


def on_https_name(site: Website) -> bool:
    """For checks of what browsers remember by name, which they do not for addresses (RFC 6797 section 8.1.1)."""
    return site.scheme == "https" and not is_address(site.host)


def on_http_name(site: Website) -> bool:
    """For checks of sites without TLS; certificates are for names."""
    return site.scheme == "http" and not is_address(site.host)


def item(key: str, text: str, **params: str | int) -> Item:
    """An item with its parameters."""
    return Item(key, text, dict(params))
