"""Content-Security-Policy (CSP level 3) as browsers read it, and what is weak in it.

Several policies hold together: a browser blocks what any of them blocks. So something is weak only when it is weak in
every policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kattegat.plugin import translatable

Policy = Mapping[str, tuple[str, ...]]
Weakness = tuple[str, Mapping[str, str]]
"""A sentence with placeholders, and what they stand for."""

_KNOWN = frozenset(
    {
        "default-src", "script-src", "script-src-elem", "script-src-attr", "style-src", "style-src-elem",
        "style-src-attr", "img-src", "font-src", "connect-src", "media-src", "object-src", "frame-src", "child-src",
        "worker-src", "manifest-src", "prefetch-src", "base-uri", "form-action", "frame-ancestors", "navigate-to",
        "sandbox", "report-uri", "report-to", "upgrade-insecure-requests", "block-all-mixed-content", "plugin-types",
        "require-sri-for", "require-trusted-types-for", "trusted-types", "reflected-xss", "referrer",
        "fenced-frame-src", "webrtc",
    }
)  # fmt: skip
# A policy in a <meta> element can't have these (CSP level 3 section 3.3).
_NOT_IN_META = ("frame-ancestors", "report-uri", "sandbox")
_NONCE_OR_HASH = re.compile(r"'(?:nonce-|sha256-|sha384-|sha512-).+'", re.IGNORECASE)
_HOST = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://)?(\*|(?:\*\.)?[^/:*\s']+|\[[0-9a-f:.]+\])(?::(?:\d+|\*))?(?:/.*)?", re.IGNORECASE
)


def parse(text: str) -> Policy:
    """One policy: directives by name in lower case, the first of several (CSP level 3 section 2.2.1)."""
    found: dict[str, tuple[str, ...]] = {}
    for piece in text.split(";"):
        words = piece.split()
        if words:
            found.setdefault(words[0].lower(), tuple(words[1:]))
    return found


def policies(headers: Sequence[str], meta: Sequence[str] = ()) -> list[Policy]:
    """The policies in force: of header values (a comma separates policies) and of `<meta>` elements; empty ones out."""
    found = [parse(text) for value in headers for text in value.split(",")]
    found += [{name: words for name, words in parse(value).items() if name not in _NOT_IN_META} for value in meta]
    return [policy for policy in found if policy]


def sources(policy: Policy, *names: str) -> tuple[str, ...] | None:
    """The source list of the first directive that is there; None when none is, so that anything goes."""
    return next((policy[name] for name in names if name in policy), None)


def framing_limited(found: Sequence[Policy]) -> bool:
    """Whether some policy says who may frame the page, and doesn't let everybody (section 6.4.2)."""
    lists = [policy["frame-ancestors"] for policy in found if "frame-ancestors" in policy]
    return any(not any(_is_everything(source) for source in listed) for listed in lists)


def weaknesses(found: Sequence[Policy], *, framing_elsewhere: bool = False) -> dict[str, Weakness]:
    """What is weak, by a key that stays the same from scan to scan.

    `framing_elsewhere`: X-Frame-Options limits framing already, so a missing frame-ancestors is no weakness.
    """
    each = [dict(_weak(policy)) for policy in found]
    shared = {key: words for key, words in each[0].items() if all(key in other for other in each)} if each else {}
    if framing_elsewhere:
        shared.pop("frame-ancestors", None)
    # A name that no browser knows is a mistake wherever it stands.
    for policy in found:
        for name in policy:
            if name not in _KNOWN:
                text = translatable("There is no directive {name}, so browsers ignore it.")
                shared[f"unknown {name[:60]}"] = text, {"name": name[:60]}
    return shared


def _weak(policy: Policy) -> Iterator[tuple[str, Weakness]]:
    scripts = sources(policy, "script-src", "default-src")
    if scripts is None:
        yield "script-src", (translatable("Neither script-src nor default-src limits scripts."), {})
    else:
        yield from _weak_scripts(scripts)
    objects = sources(policy, "object-src", "default-src")
    if objects is None:
        yield "object-src", (translatable("Neither object-src nor default-src limits plugins."), {})
    else:
        yield from _weak_places("object-src", objects)
    if "base-uri" not in policy:
        yield "base-uri", (translatable("base-uri is missing, and default-src does not stand in for it."), {})
    if "frame-ancestors" not in policy:
        text = translatable("frame-ancestors is missing, and default-src does not stand in for it.")
        yield "frame-ancestors", (text, {})
    elif any(_is_everything(source) for source in policy["frame-ancestors"]):
        yield "frame-ancestors *", (translatable("frame-ancestors lets every site frame the page."), {})


def _weak_scripts(scripts: Sequence[str]) -> Iterator[tuple[str, Weakness]]:
    words = {word.lower() for word in scripts}
    trusted = any(_NONCE_OR_HASH.fullmatch(word) for word in scripts)
    dynamic = "'strict-dynamic'" in words
    # Browsers pass over 'unsafe-inline' beside a nonce, a hash or 'strict-dynamic' (section 6.7.3.2).
    if "'unsafe-inline'" in words and not trusted and not dynamic:
        yield "script-src 'unsafe-inline'", (translatable("Scripts inside the page are allowed ('unsafe-inline')."), {})
    if "'unsafe-eval'" in words:
        yield "script-src 'unsafe-eval'", (translatable("Text can be run as a script ('unsafe-eval')."), {})
    # ... and over places beside 'strict-dynamic'.
    if not dynamic:
        yield from _weak_places("script-src", scripts)


def _weak_places(directive: str, listed: Sequence[str]) -> Iterator[tuple[str, Weakness]]:
    for source in listed:
        lower = source.lower()
        told = {"directive": directive, "source": source[:100]}
        if lower == "data:":
            text = translatable("{directive} allows data: URLs, whose content anybody can write.")
            yield f"{directive} data:", (text, told)
        elif lower.startswith("http://"):
            text = translatable("{directive} allows {source}, which others can change on the way.")
            yield f"{directive} {lower[:100]}", (text, told)
        elif _is_everything(lower):
            yield f"{directive} {lower}", (translatable("{directive} allows {source}, which is every site."), told)


def _is_everything(source: str) -> bool:
    return source.lower() in ("*", "http:", "https:", "http://*", "https://*", "*:*", "*:443")


def hosts(found: Sequence[Policy]) -> list[tuple[str, str]]:
    """The hosts in all source lists: (directive, host in lower case, without `*.`), each once."""
    seen: dict[tuple[str, str], None] = {}
    for policy in found:
        for directive, listed in policy.items():
            if not (directive.endswith("-src") or directive.startswith(("script-src", "style-src")) or directive in (
                "base-uri", "form-action", "frame-ancestors", "navigate-to",
            )):  # fmt: skip
                continue
            for source in listed:
                match = _HOST.fullmatch(source)
                if match is not None and not source.startswith("'") and "." in match[1]:
                    seen[directive, match[1].lower().removeprefix("*.").rstrip(".")] = None
    return list(seen)
