"""Checks: the attributes of the cookies that a site sets."""

from __future__ import annotations

from kattegat.plugin import Context, Facts, Item, Verdict, Website, check, translatable, verdict
from kattegat.plugins.web import cookies, judged
from kattegat.plugins.web.cookies import Cookie
from kattegat.plugins.web.site import Cookies

__all__ = ["cookie_httponly", "cookie_prefix", "cookie_samesite", "cookie_secure"]


def _all(facts: Facts[Cookies]) -> dict[str, list[Cookie]]:
    """The cookies by name; none when no response set any."""
    found: dict[str, list[Cookie]] = {}
    for cookie in facts.one.cookies if facts.one is not None else ():
        found.setdefault(cookie.name, []).append(cookie)
    return found


@check(
    "cookie-secure", about=Website, needs=[Cookies], severity="medium", applies=judged.on_https,
    title=translatable("A cookie may travel unencrypted"),
    risk=translatable(
        "Browsers send a cookie without the Secure attribute over plain HTTP too, where it can be read and used."
    ),
    fix=translatable("Give the cookie the Secure attribute."),
    reference="https://www.rfc-editor.org/rfc/rfc6265#section-5.2.5",
)  # fmt: skip
@judged.per_vantage
def cookie_secure(context: Context, facts: Facts[Cookies]) -> Verdict:
    """The site over HTTPS sets a cookie without Secure. Items: the names of such cookies."""
    text = translatable("The cookie {name} has no Secure attribute.")
    return verdict(
        [
            judged.item(name, text, name=name)
            for name, same in _all(facts).items()
            if any(not one.secure for one in same)
        ]
    )


@check(
    "cookie-httponly", about=Website, needs=[Cookies], severity="low",
    title=translatable("Scripts can read a session cookie"),
    risk=translatable("A script that slips into a page (cross-site scripting) can take the session along."),
    fix=translatable("Give cookies of sessions and log-ins the HttpOnly attribute."),
    reference="https://www.rfc-editor.org/rfc/rfc6265#section-5.2.6",
)  # fmt: skip
@judged.per_vantage
def cookie_httponly(context: Context, facts: Facts[Cookies]) -> Verdict:
    """A cookie whose name is one of a session or log-in lacks HttpOnly. Others may be meant for scripts, and pass."""
    text = translatable("The cookie {name} looks like that of a session and has no HttpOnly attribute.")
    return verdict(
        [
            judged.item(name, text, name=name)
            for name, same in _all(facts).items()
            if any(cookies.is_session(one) and not one.http_only for one in same)
        ]
    )


@check(
    "cookie-samesite", about=Website, needs=[Cookies], severity="recommendation",
    title=translatable("A cookie does not say whether other sites may cause it to be sent"),
    risk=translatable(
        "Some browsers send it with requests that another site brought about (cross-site request forgery)."
    ),
    fix=translatable("Give the cookie SameSite=Lax or SameSite=Strict; SameSite=None needs Secure."),
    reference="https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#section-5.6.7",
)  # fmt: skip
@judged.per_vantage
def cookie_samesite(context: Context, facts: Facts[Cookies]) -> Verdict:
    """A cookie has no SameSite, one with a value that browsers don't know, or None without Secure."""
    items: list[Item] = []
    for name, same in _all(facts).items():
        for cookie in same:
            if cookie.same_site == "none" and not cookie.secure:
                text = translatable("The cookie {name} has SameSite=None without Secure, so browsers refuse it.")
            elif cookie.same_site == "":
                text = translatable("The cookie {name} has no SameSite attribute.")
            elif cookie.same_site not in ("lax", "strict", "none"):
                text = translatable("The cookie {name} has a SameSite attribute with a value that browsers don't know.")
            else:
                continue
            items.append(judged.item(name, text, name=name))
            break
    return verdict(items)


_PREFIX_TEXTS = {
    "Secure": translatable("The cookie {name} has no Secure attribute."),
    "Domain": translatable("The cookie {name} has a Domain attribute."),
    "Path": translatable("The cookie {name} has no Path=/ attribute."),
}


@check(
    "cookie-prefix", about=Website, needs=[Cookies], severity="low", applies=judged.on_https,
    title=translatable("A cookie breaks the rules of its name's prefix"),
    risk=translatable(
        "Browsers refuse the cookie, so what it is for does not work there, and others lack the protection its "
        "name promises."
    ),
    fix=translatable("__Secure- needs Secure; __Host- needs Secure, Path=/ and no Domain."),
    reference="https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#section-4.1.3",
)  # fmt: skip
@judged.per_vantage
def cookie_prefix(context: Context, facts: Facts[Cookies]) -> Verdict:
    """The name begins with __Secure- or __Host-, and the attributes that this demands are not all there."""
    items: list[Item] = []
    for name, same in _all(facts).items():
        problem = next((problem for cookie in same if (problem := cookies.prefix_problem(cookie))), "")
        if problem:
            items.append(judged.item(name, _PREFIX_TEXTS[problem], name=name))
    return verdict(items)
