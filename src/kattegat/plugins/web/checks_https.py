"""Checks: whether visitors come to HTTPS and stay there."""

from __future__ import annotations

from kattegat.plugin import (
    Context,
    Facts,
    Hostname,
    Item,
    Option,
    Pass,
    Unknown,
    Verdict,
    Website,
    check,
    translatable,
    verdict,
)
from kattegat.plugins.web import follow, hsts, judged
from kattegat.plugins.web.ports import WebPorts, visitable
from kattegat.plugins.web.site import HttpResponse

__all__ = [
    "hsts_missing",
    "hsts_subdomains",
    "hsts_weak",
    "https_redirect_elsewhere",
    "https_redirect_missing",
    "no_https",
    "redirect_downgrade",
    "redirect_loop",
]

# What lies behind such a hop is not known.
UNSEEN = ("failed", "blocked", "elsewhere")


@check(
    "no-https", about=Hostname, needs=[WebPorts], severity="medium", applies=visitable,
    title=translatable("The site is not available over HTTPS"),
    risk=translatable(
        "Visitors have no choice but plain HTTP: whoever is on the way reads and changes what they see and send."
    ),
    fix=translatable("Serve the site over HTTPS on port 443, with a certificate for its name."),
    reference="https://www.rfc-editor.org/rfc/rfc9110#section-4.2.2",
    openkat=["KAT-HTTPS-NOT-AVAILABLE"],
)  # fmt: skip
@judged.per_vantage
def no_https(context: Context, ports: Facts[WebPorts]) -> Verdict:
    """Addresses answer HTTP on port 80 and do not speak TLS on 443; one item when that holds for all of them.

    Where no address answers HTTP there is no site to judge: pass. Unknown when what is needed of port 80 or 443 could
    not be measured, or 443 was never tried.
    """
    http = sorted({port.address for port in ports if port.scheme == "http" and port.answers == "http"})
    https = {port.address for port in ports if port.scheme == "https" and port.answers}
    without = {port.address for port in ports if port.scheme == "https" and not port.answers}
    if not http:
        unsure = [reason for reason in ports.unmeasured if reason.startswith("http/")]
        return Unknown(unsure[0]) if unsure and not https else Pass()
    unsure = [reason for reason in ports.unmeasured if reason.startswith("https/")]
    missing = [address for address in http if address in without]
    if not https and missing and not unsure:
        return verdict([Item("https", translatable("HTTP answers on port 80, and nothing speaks TLS on port 443."))])
    text = translatable("{address} answers HTTP on port 80, and does not speak TLS on port 443.")
    items = [judged.item(address, text, address=address) for address in missing]
    reason = unsure[0] if unsure else None
    if reason is None and not https and not missing:
        reason = "port 443 was not tried on the addresses that answer on port 80"
    return verdict(items, unknown=reason)


@check(
    "https-redirect-missing", about=Website, needs=[HttpResponse], severity="low", applies=judged.on_http_name,
    title=translatable("Visitors over HTTP are not sent to HTTPS"),
    risk=translatable(
        "A visitor who types the name without https stays on plain HTTP, where what is read and sent can be "
        "changed on the way."
    ),
    fix=translatable("Answer every request over HTTP with a redirect (301 or 308) to https:// on the same host."),
    reference="https://www.rfc-editor.org/rfc/rfc6797#section-7.2",
    openkat=["KAT-NO-HTTPS-REDIRECT"],
)  # fmt: skip
@judged.per_vantage
def https_redirect_missing(context: Context, responses: Facts[HttpResponse]) -> Verdict:
    """The site over HTTP shows content, redirects in circles, or leads to another site that is not HTTPS either.

    Unknown after a server error, and when a redirect on the way could not be followed.
    """
    response = responses.one
    if response is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    if response.leaves:
        if response.leads_to.lower().startswith("https://"):
            return Pass()
        text = translatable("The site redirects to {url}, which is not HTTPS.")
        return verdict([judged.item("redirect", text, url=response.leads_to)])
    if response.stopped == "loop" or response.stopped == "limit":
        return verdict([Item("loop", translatable("The site redirects in circles over HTTP, never to HTTPS."))])
    if response.stopped:
        return Unknown(response.problem)
    if response.status >= 500:
        return Unknown(f"the site answered {response.status}")
    text = translatable("The site answers {status} over HTTP in place of a redirect.")
    return verdict([judged.item("content", text, status=response.status)])


@check(
    "https-redirect-elsewhere", about=Website, needs=[HttpResponse], severity="recommendation",
    applies=judged.on_http_name,
    title=translatable("HTTP redirects to HTTPS of another host first"),
    risk=translatable(
        "Browsers never learn (by HSTS) to visit this name over HTTPS only, so each visit begins in plain HTTP."
    ),
    fix=translatable(
        "Redirect http:// to https:// on the same host first, send HSTS there, and only then redirect to the "
        "other host."
    ),
    reference="https://www.rfc-editor.org/rfc/rfc6797#section-7.2",
)  # fmt: skip
@judged.per_vantage
def https_redirect_elsewhere(context: Context, responses: Facts[HttpResponse]) -> Verdict:
    """The site over HTTP leads to HTTPS of another host. Unknown only when it never answered."""
    response, site = responses.one, context.asset
    if response is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    target = follow.website(response.leads_to) if response.leaves else None
    if target is None or target.scheme != "https" or not isinstance(site, Website) or target.host == site.host:
        return Pass()
    text = translatable("The first redirect leads to {origin}.")
    return verdict([judged.item("other-host", text, origin=target.origin)])


@check(
    "redirect-downgrade", about=Website, needs=[HttpResponse], severity="medium",
    title=translatable("A redirect leads from HTTPS back to HTTP"),
    risk=translatable(
        "What was protected is sent in plain text from there on; whoever is on the way reads and changes it."
    ),
    fix=translatable("Redirect to https:// addresses only."),
    reference="https://www.rfc-editor.org/rfc/rfc9110#section-17.9",
)  # fmt: skip
@judged.per_vantage
def redirect_downgrade(context: Context, responses: Facts[HttpResponse]) -> Verdict:
    """A hop of the redirects leads from https to http. Items: the pairs of origins.

    Without such a hop, unknown when what lies behind a hop could not be seen.
    """
    response = responses.one
    if response is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    items: dict[str, Item] = {}
    for hop in response.hops:
        here, there = follow.website(hop.url), follow.website(hop.location)
        if here is not None and there is not None and (here.scheme, there.scheme) == ("https", "http"):
            text = translatable("{origin} redirects to {url}.")
            key = f"{here.origin} {there.origin}"
            items[key] = judged.item(key, text, origin=here.origin, url=hop.location)
    unknown = response.problem if response.stopped in UNSEEN else None
    return verdict(list(items.values()), unknown=unknown)


@check(
    "redirect-loop", about=Website, needs=[HttpResponse], severity="medium",
    title=translatable("Redirects never end"),
    risk=translatable("Visitors see an error in place of the site."),
    fix=translatable("Mend the redirects so that they end at a page; about 10 is the most that clients follow."),
    reference="https://www.rfc-editor.org/rfc/rfc9110#section-15.4",
)  # fmt: skip
@judged.per_vantage
def redirect_loop(context: Context, responses: Facts[HttpResponse]) -> Verdict:
    """A redirect leads to where the visitor was, or there is one more after as many as are followed.

    Unknown when what lies behind a hop could not be seen.
    """
    response = responses.one
    if response is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    last = response.hops[-1].location if response.hops else ""
    if response.stopped == "loop":
        return verdict(
            [judged.item("loop", translatable("The redirect to {url} leads back to where the visitor was."), url=last)]
        )
    if response.stopped == "limit":
        return verdict(
            [
                judged.item(
                    "limit",
                    translatable("After {count} responses there is still another redirect."),
                    count=len(response.hops),
                )
            ]
        )
    return verdict([], unknown=response.problem if response.stopped in UNSEEN else None)


def _own_hsts(context: Context, response: HttpResponse) -> tuple[str, ...]:
    """The HSTS headers of the site's last own response that has any: browsers keep what they were told last."""
    found: tuple[str, ...] = ()
    for hop in response.hops:
        if follow.website(hop.url) != context.asset:
            break
        found = hop.hsts or found
    return found


@check(
    "hsts-missing", about=Website, needs=[HttpResponse], severity="medium", applies=judged.on_https_name,
    title=translatable("HSTS is missing"),
    risk=translatable(
        "Browsers will visit the site over plain HTTP when a link or a typed name says so, where somebody on the "
        "way can keep them (RFC 6797)."
    ),
    fix=translatable(
        "Send `Strict-Transport-Security: max-age=31536000; includeSubDomains` with every response over HTTPS, "
        "redirects included."
    ),
    reference="https://www.rfc-editor.org/rfc/rfc6797#section-7.1",
    openkat=["KAT-NO-HSTS"],
)  # fmt: skip
@judged.per_vantage
def hsts_missing(context: Context, responses: Facts[HttpResponse]) -> Verdict:
    """None of the site's own responses, up to the first that leads elsewhere, has a Strict-Transport-Security header.

    Unknown after a server error, which other software than the site's may have sent.
    """
    response = responses.one
    if response is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    if _own_hsts(context, response):
        return Pass()
    if response.status >= 500:
        return Unknown(f"the site answered {response.status}")
    return verdict([Item("hsts", translatable("No response of the site has a Strict-Transport-Security header."))])


@check(
    "hsts-weak", about=Website, needs=[HttpResponse], severity="medium", applies=judged.on_https_name,
    title=translatable("HSTS is ineffective or short"),
    risk=translatable("Browsers ignore a malformed header, and forget a short one before the next visit."),
    fix=translatable("Send one header `Strict-Transport-Security: max-age=31536000; includeSubDomains`."),
    reference="https://www.rfc-editor.org/rfc/rfc6797#section-6.1",
    options=[Option("min_age", 31536000, "The least max-age, in seconds, that is long enough.")],
    openkat=["KAT-HSTS-VULNERABILITIES"],
)  # fmt: skip
@judged.per_vantage
def hsts_weak(context: Context, responses: Facts[HttpResponse]) -> Verdict:
    """The header is malformed, its max-age is 0 or below the option's, or several differ. None at all passes here."""
    response = responses.one
    if response is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    headers = _own_hsts(context, response)
    policy = hsts.parse(headers)
    if policy is None:
        return Pass()
    items: list[Item] = []
    least = int(context.options.get("min_age", 31536000))
    if policy.max_age is None:
        text = translatable("Browsers ignore the header: {problem}.")
        items.append(judged.item("malformed", text, problem=policy.problem))
    elif policy.max_age == 0:
        items.append(Item("zero", translatable("max-age is 0, which tells browsers to forget HSTS.")))
    elif policy.max_age < least:
        text = translatable("max-age is {age} seconds, and {least} is the least.")
        items.append(judged.item("short", text, age=policy.max_age, least=least))
    if len(set(headers)) > 1:
        text = translatable("{count} different headers are sent; browsers take the first only.")
        items.append(judged.item("several", text, count=len(headers)))
    return verdict(items)


@check(
    "hsts-subdomains", about=Website, needs=[HttpResponse], severity="recommendation", applies=judged.on_https_name,
    title=translatable("HSTS does not cover subdomains"),
    risk=translatable(
        "Cookies of the whole domain can be read or set through a subdomain that is visited over plain HTTP."
    ),
    fix=translatable("Add includeSubDomains once every subdomain is available over HTTPS."),
    reference="https://www.rfc-editor.org/rfc/rfc6797#section-14.4",
    openkat=["KAT-HSTS-VULNERABILITIES"],
)  # fmt: skip
@judged.per_vantage
def hsts_subdomains(context: Context, responses: Facts[HttpResponse]) -> Verdict:
    """A header that browsers heed has no includeSubDomains. One that is missing or void passes here."""
    response = responses.one
    if response is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    policy = hsts.parse(_own_hsts(context, response))
    if policy is None or not policy.max_age or policy.subdomains:
        return Pass()
    return verdict([Item("includeSubDomains", translatable("The header has no includeSubDomains."))])
