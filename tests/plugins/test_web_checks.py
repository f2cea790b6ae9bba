"""Every check of websites: pass, fail with exact items, unknown with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kattegat.model.verdict import SEVERITIES, Fail, Pass, Unknown, Verdict
from kattegat.plugin import CheckSpec, Context, Fact, Facts, Hostname, Known, Website
from kattegat.plugins import web
from kattegat.plugins.web.cookies import Cookie
from kattegat.plugins.web.securitytxt import Problem
from kattegat.plugins.web.site import AddressDifferences, Cookies, Difference, Hop, HttpHeaders, HttpResponse
from kattegat.registry import Plugin, Registry

NOW = datetime(2026, 7, 1, tzinfo=UTC)
REGISTRY = Registry([Plugin("web", web)])
HTTPS, HTTP, HOST = Website("https://a.test"), Website("http://a.test"), Hostname("a.test")


def facts(*found: Fact, unmeasured: tuple[str, ...] = ()) -> Facts[Any]:
    return Facts([Known(HTTPS, fact, "", "test", "internet", NOW) for fact in found], unmeasured)


def run(name: str, asset: Website | Hostname, *needs: Facts[Any], **options: Any) -> Verdict:
    spec: CheckSpec = REGISTRY.check(name)
    assert len(needs) == len(spec.needs)
    assert spec.applies(asset)
    assert type(asset) is spec.about
    defaults: Mapping[str, Any] = {option.name: option.default for option in spec.options}
    return spec.function(Context(asset, NOW, {**defaults, **options}), *needs)


def outcome(verdict: Verdict) -> list[str] | str:
    """The keys of a failure's items, "pass", or the reason of an unknown; every text can be shown."""
    if isinstance(verdict, Fail):
        assert all(str(item) for item in verdict.items)
        assert len({item.key for item in verdict.items}) == len(verdict.items)
        return [item.key for item in verdict.items]
    return "pass" if isinstance(verdict, Pass) else verdict.reason


def response(**changes: Any) -> HttpResponse:
    """A page of https://a.test, changed; `hops` follow the changes unless they are given."""
    values: dict[str, Any] = {
        "url": "https://a.test/", "status": 200, "version": "1.1", "content_type": "text/html", "server": "",
        "leaves": False, "leads_to": "", "stopped": "", "problem": "",
    } | changes  # fmt: skip
    values.setdefault("hops", (Hop(values["url"], values["status"], values["leads_to"]),))
    return HttpResponse(**values)


def headers(**named: str | list[str]) -> HttpHeaders:
    pairs = [(name.replace("_", "-"), value) for name, given in named.items() for value in
             (given if isinstance(given, list) else [given])]  # fmt: skip
    return HttpHeaders(headers=tuple(pairs))


def hsts(*values: str, status: int = 200) -> HttpResponse:
    return response(status=status, hops=(Hop("https://a.test/", status, "", values),))


def port(scheme: str, address: str = "192.0.2.1", answers: str = "", state: str = "open") -> web.WebPorts:
    number = {"http": 80, "https": 443}[scheme]
    return web.WebPorts(scheme=scheme, port=number, address=address, state=state, answers=answers)


MOVED = response(url="https://a.test/", status=301, leaves=True, leads_to="https://b.test/")
BROKEN = response(status=503)
LOOP = response(status=302, leads_to="https://a.test/", stopped="loop", problem="It leads back.")

# --- HTTPS -----------------------------------------------------------------------------------------------------------

V6 = "2001:db8::1"


@pytest.mark.parametrize(
    ("ports", "unmeasured", "wanted"),
    [
        ([port("http", answers="http"), port("https", answers="http")], (), "pass"),
        ([port("http", answers="http"), port("https", answers="tls")], (), "pass"),
        ([port("http", answers="http"), port("https", state="closed")], (), ["https"]),
        ([port("http", answers="http"), port("https")], (), ["https"]),
        ([port("http", answers="http")], ("https/443 192.0.2.1: no answer",), "https/443 192.0.2.1: no answer"),
        ([port("http", state="closed"), port("https", state="closed")], (), "pass"),
        ([], (), "pass"),
        ([port("https", state="closed")], ("http/80 192.0.2.1: no answer",), "http/80 192.0.2.1: no answer"),
        ([], ("http/80 192.0.2.1: no answer", "https/443 192.0.2.1: no answer"), "http/80 192.0.2.1: no answer"),
        ([port("http", answers="http"), port("https", answers="http"),
          port("http", V6, answers="http"), port("https", V6, state="closed")], (), [V6]),
        ([port("http", answers="http"), port("https", state="closed"), port("http", V6, answers="http")],
         (f"https/443 {V6}: no answer",), ["192.0.2.1"]),
        ([port("http", answers="http"), port("https", answers="http"), port("http", V6, answers="http")],
         (f"https/443 {V6}: no answer",), f"https/443 {V6}: no answer"),
    ],
)  # fmt: skip
def test_no_https(ports: list[web.WebPorts], unmeasured: tuple[str, ...], wanted: list[str] | str) -> None:
    assert outcome(run("no-https", HOST, facts(*ports, unmeasured=unmeasured))) == wanted


def http(**changes: Any) -> HttpResponse:
    return response(url="http://a.test/", **changes)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (http(status=301, leaves=True, leads_to="https://a.test/"), "pass"),
        (http(status=301, leaves=True, leads_to="https://www.a.test/"), "pass"),
        (http(status=301, leaves=True, leads_to="http://www.a.test/"), ["redirect"]),
        (http(), ["content"]),
        (http(status=404), ["content"]),
        (http(status=304), ["content"]),
        (http(status=503), "the site answered 503"),
        (http(status=302, leads_to="http://a.test/", stopped="loop", problem="x"), ["loop"]),
        (http(status=302, leads_to="http://a.test/x", stopped="failed", problem="No answer."), "No answer."),
    ],
)
def test_https_redirect_missing(found: HttpResponse, wanted: list[str] | str) -> None:
    assert outcome(run("https-redirect-missing", HTTP, facts(found))) == wanted


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (http(status=301, leaves=True, leads_to="https://a.test/"), "pass"),
        (http(status=301, leaves=True, leads_to="https://a.test:8443/"), "pass"),
        (http(status=301, leaves=True, leads_to="https://www.a.test/"), ["other-host"]),
        (http(status=301, leaves=True, leads_to="http://www.a.test/"), "pass"),
        (http(), "pass"),
    ],
)
def test_https_redirect_elsewhere(found: HttpResponse, wanted: list[str] | str) -> None:
    assert outcome(run("https-redirect-elsewhere", HTTP, facts(found))) == wanted


def chain(*urls: str, stopped: str = "") -> HttpResponse:
    hops = tuple(Hop(url, 301, leads) for url, leads in pairwise(urls))
    return response(hops=hops, stopped=stopped, problem="Stopped." if stopped else "")


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (chain("http://a.test/", "https://a.test/", "https://b.test/"), "pass"),
        (chain("https://a.test/", "http://a.test/", "https://a.test/x"), ["https://a.test:443 http://a.test:80"]),
        (chain("http://a.test/", "https://a.test/", "http://b.test/1", "https://a.test/", "http://b.test/2"),
         ["https://a.test:443 http://b.test:80"]),
        (chain("https://a.test/", "http://10.0.0.1/", stopped="blocked"), ["https://a.test:443 http://10.0.0.1:80"]),
        (chain("http://a.test/", "http://10.0.0.1/", stopped="blocked"), "Stopped."),
        (chain("https://a.test/", "https://b.test/", stopped="elsewhere"), "Stopped."),
        (chain("https://a.test/", "mailto:x", stopped="unreadable"), "pass"),
    ],
)  # fmt: skip
def test_redirect_downgrade(found: HttpResponse, wanted: list[str] | str) -> None:
    assert outcome(run("redirect-downgrade", HTTPS, facts(found))) == wanted


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (response(), "pass"),
        (chain("https://a.test/", "https://b.test/"), "pass"),
        (chain("https://a.test/", "https://a.test/", stopped="loop"), ["loop"]),
        (chain("https://a.test/", "https://a.test/x", stopped="limit"), ["limit"]),
        (chain("https://a.test/", "https://b.test/", stopped="failed"), "Stopped."),
        (chain("https://a.test/", "https://b.test/", stopped="blocked"), "Stopped."),
    ],
)
def test_redirect_loop(found: HttpResponse, wanted: list[str] | str) -> None:
    assert outcome(run("redirect-loop", HTTPS, facts(found))) == wanted


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (hsts("max-age=1"), "pass"),
        (hsts(), ["hsts"]),
        (hsts(status=503), "the site answered 503"),
        (hsts("max-age=1", status=503), "pass"),
        # A site that only redirects has to send it as well (RFC 6797 section 7.1) ...
        (MOVED, ["hsts"]),
        (LOOP, ["hsts"]),
        # ... and what another origin sends doesn't count.
        (response(status=301, leaves=True, leads_to="https://b.test/",
                  hops=(Hop("https://a.test/", 301, "https://b.test/"),
                        Hop("https://b.test/", 200, "", ("max-age=9",)))),
         ["hsts"]),
        # Any response of its own will do.
        (response(hops=(Hop("https://a.test/", 302, "/en", ("max-age=9",)), Hop("https://a.test/en", 200))), "pass"),
    ],
)  # fmt: skip
def test_hsts_missing(found: HttpResponse, wanted: list[str] | str) -> None:
    assert outcome(run("hsts-missing", HTTPS, facts(found))) == wanted


@pytest.mark.parametrize(
    ("found", "wanted", "subdomains"),
    [
        (hsts("max-age=31536000; includeSubDomains"), "pass", "pass"),
        (hsts("max-age=31536000"), "pass", ["includeSubDomains"]),
        (hsts("max-age=31535999; includeSubDomains"), ["short"], "pass"),
        (hsts("max-age=0; includeSubDomains"), ["zero"], "pass"),
        (hsts("max-age=1y"), ["malformed"], "pass"),
        (hsts("includeSubDomains"), ["malformed"], "pass"),
        (hsts("max-age=1", "max-age=31536000; includeSubDomains"), ["short", "several"], ["includeSubDomains"]),
        (hsts("max-age=31536000", "max-age=31536000"), "pass", ["includeSubDomains"]),
        (hsts(), "pass", "pass"),
    ],
)
def test_hsts_weak_and_subdomains(found: HttpResponse, wanted: list[str] | str, subdomains: list[str] | str) -> None:
    assert outcome(run("hsts-weak", HTTPS, facts(found))) == wanted
    assert outcome(run("hsts-subdomains", HTTPS, facts(found))) == subdomains


def test_the_least_age_of_hsts_is_an_option() -> None:
    assert outcome(run("hsts-weak", HTTPS, facts(hsts("max-age=300")), min_age=300)) == "pass"
    assert outcome(run("hsts-weak", HTTPS, facts(hsts("max-age=31536000")), min_age=63072000)) == ["short"]


# --- headers ---------------------------------------------------------------------------------------------------------

CSP = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
HEADER_CHECKS = (
    "csp-missing", "csp-weak", "csp-disallowed-host", "x-content-type-options", "frame-protection", "referrer-policy",
    "permissions-policy", "nonstandard-headers", "cors-credentials",
)  # fmt: skip


@pytest.mark.parametrize("name", HEADER_CHECKS)
def test_what_is_no_page_of_the_site_is_not_judged(name: str) -> None:
    nothing = facts(headers(Server="x"))
    assert outcome(run(name, HTTPS, facts(MOVED), nothing)) == "pass"
    assert outcome(run(name, HTTPS, facts(BROKEN), nothing)) == "the site answered 503"
    assert outcome(run(name, HTTPS, facts(LOOP), nothing)) == "It leads back."
    assert outcome(run(name, HTTPS, facts(), facts())) == "the site's front page has no recorded answer"


DOCUMENT_CHECKS = ("csp-missing", "csp-weak", "frame-protection", "referrer-policy", "permissions-policy")


@pytest.mark.parametrize("name", DOCUMENT_CHECKS)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain; charset=utf-8", "image/png"])
def test_what_is_no_document_passes(name: str, content_type: str) -> None:
    page = response(content_type=content_type)
    assert outcome(run(name, HTTPS, facts(page), facts(headers(Server="x")))) == "pass"


@pytest.mark.parametrize("content_type", ["", "Text/HTML; charset=x", "image/svg+xml", "application/xhtml+xml"])
def test_documents_are_judged(content_type: str) -> None:
    page = response(content_type=content_type)
    assert outcome(run("csp-missing", HTTPS, facts(page), facts(headers(Server="x")))) == ["csp"]


META = response(meta=(("content-security-policy", CSP), ("referrer", "same-origin")))
ALL_TABLE: list[tuple[str, HttpResponse, HttpHeaders, list[str] | str]] = [
    ("csp-missing", response(), headers(Content_Security_Policy=CSP), "pass"),
    ("csp-missing", response(status=404), headers(Server="x"), ["csp"]),
    ("csp-missing", response(), headers(Content_Security_Policy=" ; "), ["csp"]),
    ("csp-missing", response(), headers(Content_Security_Policy_Report_Only=CSP), ["csp"]),
    ("csp-missing", META, headers(), "pass"),
    ("csp-weak", response(), headers(Content_Security_Policy=CSP + ";"), "pass"),
    ("csp-weak", response(), headers(), "pass"),
    ("csp-weak", response(), headers(Content_Security_Policy="script-src 'unsafe-inline'" + CSP[18:]),
     ["script-src 'unsafe-inline'"]),
    ("csp-weak", response(), headers(Content_Security_Policy=["default-src *", CSP]), "pass"),
    ("csp-weak", META, headers(), ["frame-ancestors"]),
    ("csp-weak", META, headers(X_Frame_Options="sameorigin"), "pass"),
    ("csp-disallowed-host", response(), headers(Content_Security_Policy="script-src bit.ly"), "pass"),
    ("x-content-type-options", response(), headers(x_content_type_options="NoSniff"), "pass"),
    ("x-content-type-options", response(content_type="image/png"), headers(), ["missing"]),
    ("x-content-type-options", response(), headers(X_Content_Type_Options="sniff"), ["value"]),
    ("x-content-type-options", response(), headers(X_Content_Type_Options=["nosniff", "nosniff"]), "pass"),
    ("frame-protection", response(), headers(X_Frame_Options="DENY"), "pass"),
    ("frame-protection", response(), headers(X_Frame_Options="SAMEORIGIN, SAMEORIGIN"), "pass"),
    ("frame-protection", response(), headers(), ["missing"]),
    ("frame-protection", response(), headers(X_Frame_Options="ALLOW-FROM https://b.test"), ["obsolete"]),
    ("frame-protection", response(), headers(X_Frame_Options="ALLOWALL"), ["value"]),
    ("frame-protection", response(), headers(X_Frame_Options=["DENY", "ALLOWALL"]), ["conflict"]),
    ("frame-protection", response(), headers(Content_Security_Policy=CSP), "pass"),
    ("frame-protection", META, headers(), ["missing"]),
    ("frame-protection", response(), headers(Content_Security_Policy="frame-ancestors *", X_Frame_Options="DENY"),
     ["frame-ancestors"]),
    ("referrer-policy", response(), headers(Referrer_Policy="no-referrer"), "pass"),
    ("referrer-policy", response(), headers(), ["missing"]),
    ("referrer-policy", META, headers(), "pass"),
    ("referrer-policy", response(), headers(Referrer_Policy="unsafe-url, strict-origin, new-one"), "pass"),
    ("referrer-policy", response(), headers(Referrer_Policy="Unsafe-URL"), ["lax"]),
    ("referrer-policy", response(), headers(Referrer_Policy="never"), ["value"]),
    ("permissions-policy", response(), headers(Permissions_Policy="camera=()"), "pass"),
    ("permissions-policy", response(), headers(Permissions_Policy=" "), ["missing"]),
    ("nonstandard-headers", response(), headers(X_Robots_Tag="none", X_DNS_Prefetch_Control="off"), "pass"),
    ("nonstandard-headers", response(), headers(Pragma="no-cache", X_Forwarded_For="10.0.0.1", Warning="1"),
     ["x-forwarded-for", "pragma", "warning"]),
    ("cors-credentials", response(), headers(Access_Control_Allow_Origin="*"), "pass"),
    ("cors-credentials", response(),
     headers(Access_Control_Allow_Origin="*", Access_Control_Allow_Credentials="true"), ["*"]),
    ("cors-credentials", response(),
     headers(Access_Control_Allow_Origin="null", Access_Control_Allow_Credentials="true"), ["null"]),
    ("cors-credentials", response(),
     headers(Access_Control_Allow_Origin="https://b.test", Access_Control_Allow_Credentials="true"), "pass"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "page", "sent", "wanted"), ALL_TABLE)
def test_headers(name: str, page: HttpResponse, sent: HttpHeaders, wanted: list[str] | str) -> None:
    assert outcome(run(name, HTTPS, facts(page), facts(sent))) == wanted


def test_hosts_that_a_policy_must_not_allow() -> None:
    sent = facts(
        headers(Content_Security_Policy="script-src https://x.Bad.test:443/y bit.ly notbad.test; img-src bad.test")
    )
    name, page = "csp-disallowed-host", facts(response())
    assert outcome(run(name, HTTPS, page, sent, hosts=("Bad.test.",))) == ["script-src x.bad.test", "img-src bad.test"]
    assert outcome(run(name, HTTPS, page, sent, url_shorteners=True)) == ["script-src bit.ly"]


# --- server ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (headers(Server="nginx"), "pass"),
        (headers(Server="cloudflare", X_Powered_By="Express"), "pass"),
        (headers(), "pass"),
        (headers(Server="nginx/1.22.1"), ["server"]),
        (headers(Server="Apache/2", X_AspNet_Version="4.0.30319"), ["server", "x-aspnet-version"]),
        (headers(Server="Apache", X_Powered_By=["PHP/8.3.1", "Express"]), ["x-powered-by"]),
    ],
)
def test_server_version(sent: HttpHeaders, wanted: list[str] | str) -> None:
    assert outcome(run("server-version", HTTPS, facts(sent))) == wanted


@pytest.mark.parametrize(
    ("server", "wanted"),
    [
        ("Apache/2.4.49 (Debian)", ["CVE-2021-41773", "CVE-2021-42013"]),
        ("Apache/2.4.50", ["CVE-2021-42013"]),
        ("Apache/2.4.51", "pass"),
        ("Apache/2.4.490", "pass"),
        ("Apache/2.4.5", "pass"),
        ("Apache", "pass"),
        ("NotApache/2.4.49", "pass"),
    ],
)
def test_apache_path_traversal(server: str, wanted: list[str] | str) -> None:
    assert outcome(run("apache-path-traversal", HTTPS, facts(headers(Server=server)))) == wanted


def test_site_error() -> None:
    assert outcome(run("site-error", HTTPS, facts(BROKEN))) == ["error"]
    assert outcome(run("site-error", HTTPS, facts(response(status=404)))) == "pass"


def test_address_differences() -> None:
    different = AddressDifferences(
        addresses=("192.0.2.1", V6), differences=(Difference("status", (("192.0.2.1", "200"), (V6, "404"))),)
    )
    page, name = facts(response()), "address-differences"
    failed = run(name, HTTPS, page, facts(different))
    assert outcome(failed) == ["status"]
    assert isinstance(failed, Fail)
    assert str(failed.items[0]) == f"status differs (192.0.2.1: 200; {V6}: 404)."
    assert outcome(run(name, HTTPS, page, facts())) == "pass"
    assert outcome(run(name, HTTPS, page, facts(unmeasured=("no route",)))) == "no route"


# --- cookies ---------------------------------------------------------------------------------------------------------

RIGHT = Cookie("__Host-session", secure=True, http_only=True, same_site="strict", path="/")


@pytest.mark.parametrize(
    ("name", "cookies", "wanted"),
    [
        ("cookie-secure", (RIGHT,), "pass"),
        ("cookie-secure", (RIGHT, Cookie("b"), Cookie("a")), ["b", "a"]),
        ("cookie-secure", (Cookie("a", path="/x"), Cookie("a", secure=True)), ["a"]),
        ("cookie-httponly", (RIGHT, Cookie("theme")), "pass"),
        ("cookie-httponly", (Cookie("PHPSESSID"), Cookie("csrftoken")), ["PHPSESSID"]),
        ("cookie-samesite", (RIGHT, Cookie("a", same_site="lax"), Cookie("b", same_site="none", secure=True)), "pass"),
        ("cookie-samesite", (Cookie("a"), Cookie("b", same_site="none"), Cookie("c", same_site="x")), ["a", "b", "c"]),
        ("cookie-prefix", (RIGHT, Cookie("a")), "pass"),
        ("cookie-prefix", (Cookie("__Host-a", secure=True), Cookie("__Secure-b")), ["__Host-a", "__Secure-b"]),
    ],
)
def test_cookies(name: str, cookies: tuple[Cookie, ...], wanted: list[str] | str) -> None:
    assert outcome(run(name, HTTPS, facts(Cookies(cookies=cookies)))) == wanted
    assert outcome(run(name, HTTPS, facts())) == "pass"


# --- security.txt ----------------------------------------------------------------------------------------------------


def contact(**changes: Any) -> web.SecurityTxt:
    url = "https://a.test/.well-known/security.txt"
    return web.SecurityTxt(**{"found": True, "status": 200, "asked": url, "url": url} | changes)


def test_security_txt_missing() -> None:
    name = "security-txt-missing"
    assert outcome(run(name, HTTPS, facts(web.SecurityTxt(found=False, status=404)))) == ["missing"]
    assert outcome(run(name, HTTPS, facts(contact()))) == "pass"
    assert not REGISTRY.check(name).applies(HTTP)


@pytest.mark.parametrize(
    ("left", "expired", "soon"),
    [
        (timedelta(seconds=-1), ["expired"], "pass"),
        (timedelta(0), ["expired"], "pass"),
        (timedelta(seconds=1), "pass", ["soon"]),
        (timedelta(days=14), "pass", ["soon"]),
        (timedelta(days=14, seconds=1), "pass", "pass"),
        (None, "pass", "pass"),
    ],
)
def test_when_security_txt_expires(left: timedelta | None, expired: list[str] | str, soon: list[str] | str) -> None:
    expires = None if left is None else NOW + left
    found = facts(contact(expires=expires))
    first, second = run("security-txt-expired", HTTPS, found), run("security-txt-expires-soon", HTTPS, found)
    assert (outcome(first), outcome(second)) == (expired, soon)
    # Each says when time alone will change it, and then it does.
    for name, verdict in (("security-txt-expired", first), ("security-txt-expires-soon", second)):
        if verdict.until is None:
            assert expires is None or expires <= NOW
            continue
        assert verdict.until > NOW
        later = REGISTRY.check(name).function(Context(HTTPS, verdict.until, {"days": 14}), found)
        assert outcome(later) != outcome(verdict)
    # A site without TLS that leads to the file over HTTPS is not judged twice.
    assert outcome(run("security-txt-expired", HTTP, found)) == "pass"
    assert outcome(run("security-txt-expires-soon", HTTP, found)) == "pass"


def test_security_txt_invalid() -> None:
    name = "security-txt-invalid"
    problems = (Problem("syntax", "a"), Problem("syntax", "b"), Problem("contact-missing"), Problem("of-the-future"))
    assert outcome(run(name, HTTPS, facts(contact(problems=problems)))) == [
        "syntax",
        "contact-missing",
        "of-the-future",
    ]
    assert outcome(run(name, HTTPS, facts(contact()))) == "pass"
    assert outcome(run(name, HTTPS, facts(web.SecurityTxt(found=False, status=404)))) == "pass"
    assert outcome(run(name, HTTP, facts(contact(problems=problems)))) == "pass"
    plain = contact(url="http://a.test/.well-known/security.txt", problems=(Problem("http"),))
    assert outcome(run(name, HTTP, facts(plain))) == ["http"]


# --- several vantages ------------------------------------------------------------------------------------------------


def seen(*found: tuple[str, Fact]) -> Facts[Any]:
    return Facts([Known(HTTPS, fact, "", "http", vantage, NOW) for vantage, fact in found])


def test_what_is_wrong_from_any_vantage_is_wrong() -> None:
    pages = seen(("inside", response()), ("internet", response()))
    policy = headers(Content_Security_Policy=CSP)
    # Whichever was scanned last, so that the verdict does not go to and fro.
    for order in (("inside", "internet"), ("internet", "inside")):
        sent = seen((order[0], policy), (order[1], headers(Server="x")))
        assert outcome(run("csp-missing", HTTPS, pages, sent)) == ["csp"]
    assert outcome(run("csp-missing", HTTPS, pages, seen(("inside", policy), ("internet", policy)))) == "pass"
    broken = seen(("inside", response()), ("internet", BROKEN))
    both = seen(("inside", policy), ("internet", policy))
    assert outcome(run("csp-missing", HTTPS, broken, both)) == "the site answered 503"
    soon, late = contact(expires=NOW + timedelta(days=1)), contact(expires=NOW + timedelta(days=90))
    verdict = run("security-txt-expired", HTTPS, seen(("inside", late), ("internet", soon)))
    assert verdict == Pass(until=NOW + timedelta(days=1))


# --- all of them -----------------------------------------------------------------------------------------------------


def test_a_site_without_a_recorded_answer_is_unknown() -> None:
    for name, spec in REGISTRY.checks.items():
        if spec.needs[0].fact is HttpResponse:
            site = HTTPS if spec.applies(HTTPS) else HTTP
            verdict = run(name, site, *(facts() for _ in spec.needs))
            assert isinstance(verdict, Unknown) or name == "address-differences", name


@pytest.mark.parametrize(
    ("name", "applies"),
    [
        ("hsts-missing", {"https://a.test"}),
        ("https-redirect-missing", {"http://a.test", "http://a.test:8080"}),
        ("cookie-secure", {"https://a.test", "https://192.0.2.1"}),
        ("csp-missing", {"https://a.test", "http://a.test", "http://a.test:8080", "https://192.0.2.1", "http://[::1]"}),
    ],
)
def test_sites_that_checks_apply_to(name: str, applies: set[str]) -> None:
    origins = {"https://a.test", "http://a.test", "http://a.test:8080", "https://192.0.2.1", "http://[::1]"}
    assert {origin for origin in origins if REGISTRY.check(name).applies(Website(origin))} == applies


def test_a_check_applies_only_where_its_scanner_does() -> None:
    """Else it would say for ever that nothing has been measured."""
    assets = [Hostname(name) for name in ("a.test", "*.a.test", "_dmarc.a.test")]
    origins = ("https://a.test", "http://a.test:8080", "https://192.0.2.1", "http://[::1]")
    for name, spec in REGISTRY.checks.items():
        for asset in (*assets, *map(Website, origins)):
            if isinstance(asset, spec.about) and spec.applies(asset):
                for need in spec.needs:
                    scanners = REGISTRY.yielded_by[need.fact.kind]
                    assert any(one.about is spec.about and one.applies(asset) for one in scanners), (name, asset)


def test_every_check_is_tried_here_and_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/plugins/web.md").read_text()
    text = Path(__file__).read_text()
    for name, spec in REGISTRY.checks.items():
        assert f'"{name}"' in text, name
        assert f"| `{name}` | {spec.severity} |" in page, name
        assert spec.severity in SEVERITIES
        assert all(getattr(spec, field).strip() for field in ("title", "risk", "fix", "reference"))
        assert all(f"`{option.name}`" in page for option in spec.options), name
        assert all(finding in page for finding in spec.openkat), name
    for name in (*REGISTRY.scanners, *REGISTRY.facts):
        assert f"`{name}`" in page, name
