"""The readers behind the checks of websites: cookies, HSTS, CSP and security.txt."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattegat.plugins.web import cookies, csp, hsts, securitytxt
from kattegat.plugins.web.cookies import Cookie

# --- cookies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("a=b", Cookie("a")),
        (
            "sid=x=y; Path=/; SECURE; httponly; SameSite=Strict",
            Cookie("sid", secure=True, http_only=True, same_site="strict", path="/"),
        ),
        ("a=b; domain=.Example.ORG; path=x; max-age=0", Cookie("a", domain="example.org", persistent=True)),
        ("a=b; samesite=lax; SameSite=none", Cookie("a", same_site="none")),
        ("a=b; Expires=Wed, 21 Oct 2026 07:28:00 GMT", Cookie("a", persistent=True)),
        ("secure", Cookie("")),  # a value without a name, and no attribute
        ("a=; Secure=no", Cookie("a", secure=True)),
        ("", None),
        ("=", None),
        (" ; Secure", None),
    ],
)
def test_set_cookie(value: str, wanted: Cookie | None) -> None:
    assert cookies.parse(value) == wanted


@pytest.mark.parametrize("name", ["PHPSESSID", "JSESSIONID", "ASP.NET_SessionId", "connect.sid", "auth_token", "sid"])
def test_names_of_sessions(name: str) -> None:
    assert cookies.is_session(Cookie(name))


@pytest.mark.parametrize("name", ["theme", "XSRF-TOKEN", "csrftoken", "side_bar", "lang", "_ga"])
def test_names_that_are_no_sessions(name: str) -> None:
    assert not cookies.is_session(Cookie(name))


@pytest.mark.parametrize(
    ("cookie", "problem"),
    [
        (Cookie("__Secure-a", secure=True), ""),
        (Cookie("__secure-a"), "Secure"),
        (Cookie("__Host-a", secure=True, path="/"), ""),
        (Cookie("__Host-a", secure=True, path="/x"), "Path"),
        (Cookie("__Host-a", secure=True, path="/", domain="example.org"), "Domain"),
        (Cookie("Host-a"), ""),
    ],
)
def test_prefixes(cookie: Cookie, problem: str) -> None:
    assert cookies.prefix_problem(cookie) == problem


# --- HSTS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "age", "subdomains"),
    [
        ("max-age=31536000", 31536000, False),
        ('MAX-AGE="300" ; includeSubDomains', 300, True),
        ("max-age=0;", 0, False),
        ("; max-age=5; ; preload;", 5, False),
        ('max-age=5; extension="a;b"', 5, False),
        ("max-age=" + "9" * 5000, 10**18 - 1, False),
    ],
)
def test_hsts_that_browsers_take(value: str, age: int, subdomains: bool) -> None:
    found = hsts.parse([value])
    assert found is not None
    assert (found.max_age, found.subdomains, found.problem) == (age, subdomains, "")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "it has no max-age"),
        ("includeSubDomains", "it has no max-age"),
        ("max-age", "max-age is '' and not a number of seconds"),
        ("max-age=-1", "max-age is '-1' and not a number of seconds"),
        ("max-age=1y", "max-age is '1y' and not a number of seconds"),
        ("max-age=٣", "max-age is '٣' and not a number of seconds"),
        ("max-age=1; max-age=2", "max-age stands in it twice"),
        ("max-age=1, max-age=1", "'max-age=1, max-age=1' is no directive"),
    ],
)
def test_hsts_that_browsers_ignore(value: str, problem: str) -> None:
    found = hsts.parse([value])
    assert found is not None
    assert found.max_age is None
    assert found.problem == problem


def test_only_the_first_hsts_header_counts() -> None:
    found = hsts.parse(["max-age=1", "max-age=31536000; includeSubDomains"])
    assert found == hsts.Hsts(1)
    assert hsts.parse([]) is None


# --- CSP -------------------------------------------------------------------------------------------------------------

GOOD = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
REST = "; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize(
    ("policies", "weak"),
    [
        ([GOOD], set()),
        ([GOOD + ";"], set()),
        ([GOOD + "; upgrade-insecure-requests; block-all-mixed-content"], set()),
        (["script-src 'nonce-abc' 'unsafe-inline' 'strict-dynamic' https: http:" + REST], set()),
        (["script-src 'sha256-abc=' 'unsafe-inline'" + REST], set()),
        (["script-src 'self' 'unsafe-inline'" + REST], {"script-src 'unsafe-inline'"}),
        (["script-src 'self' 'unsafe-eval'" + REST], {"script-src 'unsafe-eval'"}),
        (["default-src 'self' 'unsafe-inline'" + REST], {"script-src 'unsafe-inline'"}),
        (["script-src *" + REST], {"script-src *"}),
        (["script-src https:" + REST], {"script-src https:"}),
        (["script-src *.example.org" + REST], set()),
        (["script-src HTTP://cdn.example.org/a.js data:" + REST],
         {"script-src data:", "script-src http://cdn.example.org/a.js"}),
        (["default-src 'none'"], {"base-uri", "frame-ancestors"}),
        (["upgrade-insecure-requests"], {"script-src", "object-src", "base-uri", "frame-ancestors"}),
        (["default-src 'self'; base-uri 'self'; frame-ancestors *"], {"frame-ancestors *"}),
        (["default-src 'self'; object-src *; base-uri 'self'; frame-ancestors 'self'"], {"object-src *"}),
        # The first of two directives with one name counts.
        (["script-src 'self'; script-src 'unsafe-inline'" + REST], set()),
        # Two policies hold together: what one closes is closed.
        (["script-src 'unsafe-inline'", GOOD], set()),
        (["script-src 'unsafe-inline', " + GOOD], set()),
        (["default-src 'self' 'unsafe-inline'", "script-src 'self' 'unsafe-inline'" + REST],
         {"script-src 'unsafe-inline'"}),
        (["defualt-src 'self'; " + GOOD], {"unknown defualt-src"}),
        ([""], set()),
        ([";;"], set()),
        ([], set()),
    ],
)  # fmt: skip
def test_gaps_of_policies(policies: list[str], weak: set[str]) -> None:
    assert set(csp.weaknesses(csp.policies(policies))) == weak


def test_a_policy_in_the_page_can_not_limit_framing() -> None:
    found = csp.policies([], [GOOD])
    assert set(csp.weaknesses(found)) == {"frame-ancestors"}
    assert csp.weaknesses(found, framing_elsewhere=True) == {}
    assert not csp.framing_limited(found)
    assert csp.framing_limited(csp.policies([GOOD]))
    assert not csp.framing_limited(csp.policies(["frame-ancestors https:"]))


def test_hosts_of_a_policy() -> None:
    text = "script-src 'self' https://*.Example.org:443/a bit.ly https: data: 'nonce-a.b'; report-uri https://r.test/"
    assert csp.hosts(csp.policies([text])) == [("script-src", "example.org"), ("script-src", "bit.ly")]


# --- security.txt ----------------------------------------------------------------------------------------------------

FILE = b"Contact: mailto:a@example.org\nExpires: 2027-01-01T00:00:00Z\n"


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (FILE, []),
        (FILE.replace(b"\n", b"\r\n") + b"\r\n# comment\r\nX-Other: kept\r\nPreferred-Languages: en, nl-NL\r\n", []),
        (b"\xef\xbb\xbf" + FILE, []),
        (FILE + b"Acknowledgments: https://example.org/thanks\nContact: tel:+31-20\n", []),
        (b"Expires: 2027-01-01T00:00:00Z\n", ["contact-missing"]),
        (b"Contact: mailto:a@example.org\n", ["expires-missing"]),
        (b"Contact: a@example.org\nExpires: 2027-01-01T00:00:00Z", ["contact-uri"]),
        (FILE + b"Contact: http://example.org/", ["contact-http"]),
        (FILE + b"Policy: /policy\nHiring: http://example.org/", ["http-uri", "uri"]),
        (FILE + b"Expires: 2028-01-01T00:00:00Z", ["expires-several"]),
        (b"Contact: mailto:a@b.c\nExpires: Thu, 31 Dec 2026 18:37:07 -0800", ["expires-format"]),
        (b"Contact: mailto:a@b.c\nExpires: 2027-02-30T00:00:00Z", ["expires-format"]),
        (FILE + b"Preferred-Languages: en\nPreferred-Languages: nl", ["languages-several"]),
        (FILE + b"Preferred-Languages: english language", ["languages-format"]),
        (FILE + b"just text\n", ["syntax"]),
        (FILE + b"Policy:\n", ["empty"]),
        (FILE + b"# \xff\n", ["not-utf-8"]),
        (FILE + b"# " + b"x" * 3000, ["long-line"]),
        (FILE + b"# x\n" * 10000, ["too-large"]),
        (b"", ["contact-missing", "expires-missing"]),
        (FILE + b"A\x00b: c", ["syntax"]),
    ],
)
def test_security_txt(body: bytes, codes: list[str]) -> None:
    assert [problem.code for problem in securitytxt.parse(body).problems] == codes


def test_times_of_security_txt() -> None:
    def expires(value: bytes) -> datetime | None:
        return securitytxt.parse(b"Contact: mailto:a@b.c\nExpires: " + value).expires

    assert expires(b"2027-01-01T00:00:00z") == datetime(2027, 1, 1, tzinfo=UTC)
    assert expires(b"2027-01-01t02:00:00.5+02:00") == datetime(2027, 1, 1, tzinfo=UTC)
    assert expires(b"2026-12-31T23:59:60Z") == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert expires(b"2027-01-01") is None
    assert expires(b"0001-01-01T00:00:00+23:59") is None
    # Of several the earliest.
    assert expires(b"2028-01-01T00:00:00Z\nExpires: 2027-01-01T00:00:00Z") == datetime(2027, 1, 1, tzinfo=UTC)


SIGNED = b"""-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

Contact: mailto:a@example.org
Expires: 2027-01-01T00:00:00Z
- # dash-escaped
-----BEGIN PGP SIGNATURE-----

iQIzBAEBCgAdFiEE
-----END PGP SIGNATURE-----
"""


def test_a_signed_file_is_read_inside_its_signature() -> None:
    found = securitytxt.parse(SIGNED)
    assert (found.signed, found.problems, found.all("contact")) == (True, (), ["mailto:a@example.org"])
    assert securitytxt.parse(SIGNED.replace(b"\n", b"\r\n")) == found


@pytest.mark.parametrize(
    "body",
    [
        SIGNED.replace(b"-----END PGP SIGNATURE-----\n", b""),
        SIGNED[: SIGNED.index(b"-----BEGIN PGP SIGNATURE")],
        b"Contact: mailto:x@example.org\n" + SIGNED,
        SIGNED + b"Contact: mailto:x@example.org\n",
        SIGNED[SIGNED.index(b"Contact") :].replace(b"- # dash-escaped\n", b""),
    ],
)
def test_a_malformed_signature_is_told_and_the_rest_read(body: bytes) -> None:
    found = securitytxt.parse(body)
    assert [problem.code for problem in found.problems] == ["signature"]
    assert found.all("contact") == ["mailto:a@example.org"]


@pytest.mark.parametrize(
    ("body", "is_one"),
    [
        (FILE, True),
        (SIGNED, True),
        (b"<!doctype html><html><p>\nContact: us", False),
        (b"Not found", False),
        (b"", False),
    ],
)
def test_a_page_that_says_not_found_is_no_security_txt(body: bytes, is_one: bool) -> None:
    assert securitytxt.looks_like(body) == is_one


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode), st.booleans())
def test_no_file_breaks_the_reader(body: bytes, wrapped: bool) -> None:
    found = securitytxt.parse(SIGNED.replace(b"- # dash-escaped", body) if wrapped else body)
    assert all("\x00" not in value for _, value in found.fields)


@given(st.text(max_size=200))
def test_no_header_breaks_the_readers(text: str) -> None:
    cookies.parse(text)
    hsts.parse([text])
    policies = csp.policies([text], [text])
    csp.weaknesses(policies)
    csp.hosts(policies)
    csp.framing_limited(policies)
