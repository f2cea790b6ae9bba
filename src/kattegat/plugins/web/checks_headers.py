"""Checks: what the headers of a site's own response tell browsers to guard against.

A site that only sends its visitors to another origin shows no page of its own, and passes. Where no page came (a server
error, a redirect that could not be followed) the verdict is unknown; `judged.page` decides it.
"""

from __future__ import annotations

from kattegat.plugin import Context, Facts, Item, Option, Pass, Verdict, Website, check, translatable, verdict
from kattegat.plugins.web import csp, judged
from kattegat.plugins.web.site import HttpHeaders, HttpResponse

__all__ = [
    "cors_credentials",
    "csp_disallowed_host",
    "csp_missing",
    "csp_weak",
    "frame_protection",
    "nonstandard_headers",
    "permissions_policy",
    "referrer_policy",
    "x_content_type_options",
]

# Services that give a short name to any address, so that a policy that allows one allows much more than it shows.
SHORTENERS = frozenset(
    {
        "adf.ly", "bit.do", "bit.ly", "bl.ink", "buff.ly", "clck.ru", "cutt.ly", "goo.gl", "is.gd", "j.mp", "lnkd.in",
        "ow.ly", "qr.ae", "rb.gy", "rebrand.ly", "s.id", "short.io", "shorte.st", "shorturl.at", "snip.ly", "soo.gd",
        "t.co", "t.ly", "tiny.cc", "tinyurl.com", "tr.im", "v.gd", "x.co",
    }
)  # fmt: skip
# Request headers and relics that have no place in a response; X-Robots-Tag and X-DNS-Prefetch-Control have one.
NONSTANDARD = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "pragma", "warning")
_POLICIES = {
    "no-referrer": True,
    "same-origin": True,
    "strict-origin": True,
    "strict-origin-when-cross-origin": True,
    "origin": True,
    "origin-when-cross-origin": True,
    "no-referrer-when-downgrade": False,
    "unsafe-url": False,
}


@check(
    "csp-missing", about=Website, needs=[HttpResponse, HttpHeaders], severity="medium",
    title=translatable("Content-Security-Policy is missing"),
    risk=translatable("A script that slips into the page (cross-site scripting) runs with nothing to stop it."),
    fix=translatable(
        "Send a Content-Security-Policy header; begin with Content-Security-Policy-Report-Only to see what it "
        "would block."
    ),
    reference="https://www.w3.org/TR/CSP3/",
    openkat=["KAT-NO-CSP"],
)  # fmt: skip
@judged.per_vantage
def csp_missing(context: Context, responses: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> Verdict:
    """The page has no policy in a header or `<meta>`; one that only reports counts as none.

    Only documents are judged. Unknown when no page came: a server error, or redirects that could not be followed.
    """
    response = responses.one
    if (instead := judged.page(response, documents=True)) is not None or response is None:
        return instead or Pass()
    if judged.csp_of(response, headers.one):
        return Pass()
    if judged.values(headers.one, "content-security-policy-report-only"):
        return verdict([Item("csp", translatable("There is a policy that only reports and blocks nothing."))])
    return verdict([Item("csp", translatable("The page has no Content-Security-Policy."))])


@check(
    "csp-weak", about=Website, needs=[HttpResponse, HttpHeaders], severity="medium",
    title=translatable("Content-Security-Policy has gaps"),
    risk=translatable("What the policy leaves open is what somebody who slips content into the page will use."),
    fix=translatable("Close each gap that is listed; scripts by nonce or hash are the surest way."),
    reference="https://www.w3.org/TR/CSP3/#security-considerations",
    openkat=["KAT-CSP-VULNERABILITIES"],
)  # fmt: skip
@judged.per_vantage
def csp_weak(context: Context, responses: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> Verdict:
    """Every policy of the page has the same gap, or one has a directive that no browser knows.

    A page without a policy passes here. A missing frame-ancestors is no gap beside an X-Frame-Options that limits
    framing. Unknown when no page came.
    """
    response = responses.one
    if (instead := judged.page(response, documents=True)) is not None or response is None:
        return instead or Pass()
    elsewhere = not _frame_options_problem(judged.values(headers.one, "x-frame-options"))
    found = csp.weaknesses(judged.csp_of(response, headers.one), framing_elsewhere=elsewhere)
    return verdict([judged.item(key, text, **told) for key, (text, told) in sorted(found.items())])


@check(
    "csp-disallowed-host", about=Website, needs=[HttpResponse, HttpHeaders], severity="medium",
    title=translatable("Content-Security-Policy allows a host that it must not"),
    risk=translatable(
        "The page may load content from a host that was ruled out, or through a service that leads anywhere."
    ),
    fix=translatable("Take the host out of the policy."),
    reference="https://www.w3.org/TR/CSP3/#framework-directive-source-list",
    options=[
        Option("hosts", (), "Names that no policy may allow, subdomains included."),
        Option("url_shorteners", False, "Whether well-known URL shorteners are ruled out as well."),
    ],
    openkat=["KAT-DISALLOWED-DOMAIN-IN-CSP"],
)  # fmt: skip
@judged.per_vantage
def csp_disallowed_host(context: Context, responses: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> Verdict:
    """A source list names a host of the option `hosts` or one below it; also URL shorteners with `url_shorteners`.

    Unknown when no page came.
    """
    response = responses.one
    if (instead := judged.page(response, documents=True)) is not None or response is None:
        return instead or Pass()
    ruled_out = {str(host).strip().lower().rstrip(".") for host in context.options.get("hosts", ())}
    if context.options.get("url_shorteners"):
        ruled_out |= SHORTENERS
    items = [
        judged.item(f"{directive} {host}", translatable("{directive} allows {host}."), directive=directive, host=host)
        for directive, host in csp.hosts(judged.csp_of(response, headers.one))
        if any(host == bad or host.endswith(f".{bad}") for bad in ruled_out)
    ]
    return verdict(items)


@check(
    "x-content-type-options", about=Website, needs=[HttpResponse, HttpHeaders], severity="recommendation",
    title=translatable("X-Content-Type-Options: nosniff is missing"),
    risk=translatable("Browsers may take a file for a script or style that was not meant to be one."),
    fix=translatable("Send `X-Content-Type-Options: nosniff` with every response."),
    reference="https://fetch.spec.whatwg.org/#x-content-type-options-header",
    openkat=["KAT-NO-X-CONTENT-TYPE-OPTIONS"],
)  # fmt: skip
@judged.per_vantage
def x_content_type_options(context: Context, responses: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> Verdict:
    """The header is missing, or its first value is not nosniff. Unknown when no page came."""
    if (instead := judged.page(responses.one)) is not None:
        return instead
    sent = judged.listed(judged.values(headers.one, "x-content-type-options"))
    if not sent:
        return verdict([Item("missing", translatable("The header is missing."))])
    if sent[0].lower() != "nosniff":
        return verdict(
            [judged.item("value", translatable("Its value is {value}, which means nothing."), value=sent[0])]
        )
    return Pass()


def _frame_options_problem(values: list[str]) -> str:
    """ "" when X-Frame-Options limits framing (HTML section 7.7); else "missing", "conflict", "obsolete" or "value"."""
    sent = {member.upper() for member in judged.listed(values)}
    if not sent:
        return "missing"
    if len(sent) > 1:
        # Browsers block all framing when several are valid and differ, yet it is not what was meant.
        return "" if sent <= {"DENY", "SAMEORIGIN"} else "conflict"
    only = next(iter(sent))
    if only in ("DENY", "SAMEORIGIN"):
        return ""
    return "obsolete" if only.startswith("ALLOW-FROM") else "value"


@check(
    "frame-protection", about=Website, needs=[HttpResponse, HttpHeaders], severity="recommendation",
    title=translatable("Other sites can frame the page"),
    risk=translatable("A visitor can be made to click on things in an invisible frame of the site (clickjacking)."),
    fix=translatable(
        "Send `frame-ancestors 'none'` (or 'self') in the Content-Security-Policy; X-Frame-Options: DENY for old "
        "browsers."
    ),
    reference="https://www.w3.org/TR/CSP3/#directive-frame-ancestors",
    openkat=["KAT-NO-X-FRAME-OPTIONS"],
)  # fmt: skip
@judged.per_vantage
def frame_protection(context: Context, responses: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> Verdict:
    """Nothing limits who may frame the page: not frame-ancestors, nor X-Frame-Options where there is none.

    Only documents are judged. Unknown when no page came.
    """
    response = responses.one
    if (instead := judged.page(response, documents=True)) is not None or response is None:
        return instead or Pass()
    policies = judged.csp_of(response, headers.one)
    if any("frame-ancestors" in policy for policy in policies):
        # X-Frame-Options is not looked at beside frame-ancestors (CSP level 3 section 6.4.2).
        if csp.framing_limited(policies):
            return Pass()
        return verdict([Item("frame-ancestors", translatable("frame-ancestors lets every site frame the page."))])
    problem = _frame_options_problem(judged.values(headers.one, "x-frame-options"))
    texts = {
        "missing": translatable("There is neither X-Frame-Options nor frame-ancestors."),
        "conflict": translatable("X-Frame-Options is sent with values that contradict each other."),
        "obsolete": translatable("X-Frame-Options has ALLOW-FROM, which browsers no longer know."),
        "value": translatable("X-Frame-Options has a value that browsers don't know."),
    }
    return verdict([Item(problem, texts[problem])] if problem else [])


@check(
    "referrer-policy", about=Website, needs=[HttpResponse, HttpHeaders], severity="recommendation",
    title=translatable("Referrer-Policy is missing or lax"),
    risk=translatable(
        "Addresses of pages, with what stands in them, are told to the sites that a visitor goes to next."
    ),
    fix=translatable("Send `Referrer-Policy: strict-origin-when-cross-origin`, or a stricter one such as same-origin."),
    reference="https://www.w3.org/TR/referrer-policy/",
    openkat=["KAT-NO-REFERRER-POLICY"],
)  # fmt: skip
@judged.per_vantage
def referrer_policy(context: Context, responses: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> Verdict:
    """No header or `<meta>` gives a policy, browsers know none of them, or the one in force tells whole addresses.

    Only documents are judged. Unknown when no page came.
    """
    response = responses.one
    if (instead := judged.page(response, documents=True)) is not None or response is None:
        return instead or Pass()
    sent = judged.listed(judged.values(headers.one, "referrer-policy"))
    sent += [value.strip() for name, value in response.meta if name == "referrer"]
    if not sent:
        return verdict([Item("missing", translatable("The page has no referrer policy."))])
    # Of several the last that the browser knows counts (Referrer Policy section 8.1).
    known = [value.lower() for value in sent if value.lower() in _POLICIES]
    if not known:
        return verdict([judged.item("value", translatable("{value} is no referrer policy."), value=sent[-1][:100])])
    if not _POLICIES[known[-1]]:
        text = translatable("{value} tells other sites the whole address of the page.")
        return verdict([judged.item("lax", text, value=known[-1])])
    return Pass()


@check(
    "permissions-policy", about=Website, needs=[HttpResponse, HttpHeaders], severity="recommendation",
    title=translatable("Permissions-Policy is missing"),
    risk=translatable("Content that the page embeds, or that slips into it, may ask for camera, microphone or place."),
    fix=translatable(
        "Send a Permissions-Policy that switches off what the site doesn't use, such as `camera=(), "
        "microphone=(), geolocation=()`."
    ),
    reference="https://www.w3.org/TR/permissions-policy/",
    openkat=["KAT-NO-PERMISSIONS-POLICY"],
)  # fmt: skip
@judged.per_vantage
def permissions_policy(context: Context, responses: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> Verdict:
    """The header is missing or empty; what it says is not judged. Only documents are. Unknown when no page came."""
    if (instead := judged.page(responses.one, documents=True)) is not None:
        return instead
    if any(value.strip() for value in judged.values(headers.one, "permissions-policy")):
        return Pass()
    return verdict([Item("missing", translatable("The header is missing."))])


@check(
    "nonstandard-headers", about=Website, needs=[HttpResponse, HttpHeaders], severity="recommendation",
    title=translatable("Headers that don't belong in a response"),
    risk=translatable(
        "They tell about proxies behind the site, or are left over from a mistake, and do nothing for the "
        "visitor."
    ),
    fix=translatable("Don't send them; for Pragma use Cache-Control."),
    reference="https://www.rfc-editor.org/rfc/rfc9111#section-5.4",
    openkat=["KAT-NONSTANDARD-HEADERS"],
)  # fmt: skip
@judged.per_vantage
def nonstandard_headers(context: Context, responses: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> Verdict:
    """The response has a header of `NONSTANDARD`. Items: their names. Unknown when no page came."""
    if (instead := judged.page(responses.one)) is not None:
        return instead
    found = [name for name in NONSTANDARD if judged.values(headers.one, name)]
    return verdict(
        [judged.item(name, translatable("The response has the header {name}."), name=name) for name in found]
    )


@check(
    "cors-credentials", about=Website, needs=[HttpResponse, HttpHeaders], severity="low",
    title=translatable("Cross-origin access with credentials is opened too far"),
    risk=translatable("A page of another site may read answers that were meant for the visitor who is signed in."),
    fix=translatable(
        "Name the origins that may read answers; never `*` or `null` together with "
        "Access-Control-Allow-Credentials: true."
    ),
    reference="https://fetch.spec.whatwg.org/#cors-protocol-and-credentials",
)  # fmt: skip
@judged.per_vantage
def cors_credentials(context: Context, responses: Facts[HttpResponse], headers: Facts[HttpHeaders]) -> Verdict:
    """Credentials are allowed together with the origin `*` or `null`. Unknown when no page came.

    Whether the server takes over any origin that it is asked with is not tried: the scanner sends none.
    """
    if (instead := judged.page(responses.one)) is not None:
        return instead
    origins = [value.strip() for value in judged.values(headers.one, "access-control-allow-origin")]
    credentials = [value.strip() for value in judged.values(headers.one, "access-control-allow-credentials")]
    if "true" not in credentials:
        return Pass()
    texts = {
        "*": translatable(
            "Every origin is allowed with credentials; browsers refuse that, so it does not work either."
        ),
        "null": translatable("The origin `null`, which any sandboxed frame has, is allowed with credentials."),
    }
    return verdict([Item(origin, texts[origin]) for origin in ("*", "null") if origin in origins])
