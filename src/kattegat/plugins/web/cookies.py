"""Set-Cookie as browsers read it (RFC 6265 section 5.2, and the prefixes and SameSite of RFC 6265bis)."""

from __future__ import annotations

import re

import msgspec

# Names that sessions and log-ins have; a token against forged requests is meant to be read by scripts.
_SESSION = re.compile(r"sess|sid$|auth|token|jwt|login|remember|\.aspxauth|^connect\.", re.IGNORECASE)
_FORGERY = re.compile(r"csrf|xsrf", re.IGNORECASE)


class Cookie(msgspec.Struct, frozen=True):
    """A cookie without its value. `same_site` is as sent, in lower case, "" when absent; `domain` and `path` likewise.

    `persistent`: it has an Expires or Max-Age attribute.
    """

    name: str
    secure: bool = False
    http_only: bool = False
    same_site: str = ""
    domain: str = ""
    path: str = ""
    persistent: bool = False


def parse(value: str) -> Cookie | None:
    """Reads one Set-Cookie value; None for one that browsers ignore."""
    pair, *attributes = value.split(";")
    name, equals, content = pair.partition("=")
    if not equals:
        name, content = "", pair
    name = name.strip()
    if not name and not content.strip():
        return None
    found: dict[str, str] = {}
    for attribute in attributes:
        key, _, given = attribute.partition("=")
        # The last of several counts (RFC 6265 section 5.3).
        found[key.strip().lower()] = given.strip()
    path = found.get("path", "")
    return Cookie(
        name=name,
        secure="secure" in found,
        http_only="httponly" in found,
        same_site=found.get("samesite", "").lower(),
        domain=found.get("domain", "").lstrip(".").lower(),
        path=path if path.startswith("/") else "",
        persistent="expires" in found or "max-age" in found,
    )


def is_session(cookie: Cookie) -> bool:
    """Whether the name looks like that of a session or log-in."""
    return bool(_SESSION.search(cookie.name)) and not _FORGERY.search(cookie.name)


def prefix_problem(cookie: Cookie) -> str:
    """Which rule of its name's prefix a cookie breaks, so that browsers refuse it: the attribute; "" for none."""
    name = cookie.name.lower()
    if name.startswith(("__secure-", "__host-")) and not cookie.secure:
        return "Secure"
    if name.startswith("__host-") and cookie.domain:
        return "Domain"
    if name.startswith("__host-") and cookie.path != "/":
        return "Path"
    return ""
