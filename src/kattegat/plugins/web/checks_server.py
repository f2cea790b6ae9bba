"""Checks: what a site's server tells about itself, and whether all of its addresses serve the same."""

from __future__ import annotations

import re

from kattegat.plugin import Context, Facts, Item, Pass, Unknown, Verdict, Website, check, translatable, verdict
from kattegat.plugins.web import judged
from kattegat.plugins.web.site import AddressDifferences, HttpHeaders, HttpResponse

__all__ = ["address_differences", "apache_path_traversal", "server_version", "site_error"]

_TELLING = (
    "server", "x-powered-by", "x-aspnet-version", "x-aspnetmvc-version", "x-generator", "x-drupal-version",
    "x-joomla-version", "x-owa-version", "x-powered-cms", "liferay-portal", "microsoftsharepointteamservices",
)  # fmt: skip
# A version: numbers with dots, or a number behind a slash; not the 2 of HTTP/2 or the 64 of Win64.
_VERSION = re.compile(r"\d+\.\d+|[A-Za-z_-]/\d")
_APACHE = re.compile(r"\bApache/2\.4\.(49|50)(?![\d.])")


@check(
    "server-version", about=Website, needs=[HttpHeaders], severity="low",
    title=translatable("The server tells its version"),
    risk=translatable("Whoever looks for servers with a known weakness finds this one by its version."),
    fix=translatable(
        "Switch the version off: `server_tokens off` (nginx), `ServerTokens Prod` (Apache), `expose_php = Off` "
        "(PHP)."
    ),
    reference="https://www.rfc-editor.org/rfc/rfc9110#section-10.2.4",
)  # fmt: skip
@judged.per_vantage
def server_version(context: Context, headers: Facts[HttpHeaders]) -> Verdict:
    """A header that names software has a number in it that reads as a version. Items: the names of the headers."""
    if headers.one is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    items = []
    for name in _TELLING:
        telling = [value for value in judged.values(headers.one, name) if _VERSION.search(value)]
        if telling:
            text = translatable("The header {name} says {value}.")
            items.append(judged.item(name, text, name=name, value=", ".join(telling)[:200]))
    return verdict(items)


@check(
    "apache-path-traversal", about=Website, needs=[HttpHeaders], severity="critical",
    title=translatable("Apache 2.4.49 or 2.4.50: files outside the site can be read"),
    risk=translatable(
        "Anybody can read files of the server, and run programs on it where CGI is on. This is told by the "
        "version that the server names, not tried."
    ),
    fix=translatable("Upgrade Apache to 2.4.51 or later."),
    reference="https://httpd.apache.org/security/vulnerabilities_24.html",
    openkat=["CVE-2021-41773"],
)  # fmt: skip
@judged.per_vantage
def apache_path_traversal(context: Context, headers: Facts[HttpHeaders]) -> Verdict:
    """The Server header says Apache 2.4.49 or 2.4.50. Items: the CVE numbers. Other headers are not looked at.

    A server that hides its version passes; a distribution that mended it under the old number fails all the same.
    """
    if headers.one is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    found = {match[1] for value in judged.values(headers.one, "server") for match in _APACHE.finditer(value)}
    text = translatable("The server names itself Apache/2.4.{patch}.")
    items = []
    # The mend in 2.4.50 was incomplete and has a number of its own; 2.4.49 has both faults.
    if "49" in found:
        items.append(judged.item("CVE-2021-41773", text, patch=49))
    if found:
        items.append(judged.item("CVE-2021-42013", text, patch=int(min(found))))
    return verdict(items)


@check(
    "site-error", about=Website, needs=[HttpResponse], severity="low",
    title=translatable("The site answers with a server error"),
    risk=translatable("Visitors get no page, and error pages often tell more about the server than they should."),
    fix=translatable("Look into the server's log, and mend or take down the site."),
    reference="https://www.rfc-editor.org/rfc/rfc9110#section-15.6",
)  # fmt: skip
@judged.per_vantage
def site_error(context: Context, responses: Facts[HttpResponse]) -> Verdict:
    """The site's last own response has a status of 500 or more."""
    response = responses.one
    if response is None:
        return Unknown(judged.RESPONSE_UNKNOWN)
    if response.status < 500:
        return Pass()
    return verdict(
        [judged.item("error", translatable("{url} answers {status}."), url=response.url, status=response.status)]
    )


@check(
    "address-differences", about=Website, needs=[HttpResponse, AddressDifferences], severity="low",
    title=translatable("The site's addresses answer differently"),
    risk=translatable(
        "Some visitors get less protection, or an error, depending on the address that they happen to use."
    ),
    fix=translatable(
        "Give all servers of the site the same configuration; often it is the IPv6 one that was forgotten."
    ),
    reference="https://www.rfc-editor.org/rfc/rfc9110#section-7.4",
)  # fmt: skip
@judged.per_vantage
def address_differences(
    context: Context, responses: Facts[HttpResponse], differences: Facts[AddressDifferences]
) -> Verdict:
    """Two addresses of the site differ in the status or in a security header. Items: what differs.

    Without a difference, unknown when one of the addresses could not be asked.
    """
    found = differences.one
    items: list[Item] = []
    for difference in found.differences if found is not None else ():
        answers = "; ".join(f"{address}: {value or '-'}" for address, value in difference.answers)
        text = translatable("{what} differs ({answers}).")
        items.append(judged.item(difference.what, text, what=difference.what, answers=answers[:500]))
    return verdict(items, unknown=differences.unmeasured[0] if differences.unmeasured else None)
