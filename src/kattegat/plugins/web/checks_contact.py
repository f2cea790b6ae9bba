"""Checks: whether those who find a weakness learn from security.txt whom to tell."""

from __future__ import annotations

from datetime import datetime, timedelta

from kattegat.plugin import (
    Context,
    Facts,
    Item,
    Option,
    Pass,
    Verdict,
    Website,
    check,
    translatable,
    verdict,
)
from kattegat.plugins.web import contact, judged
from kattegat.plugins.web.contact import SecurityTxt

__all__ = ["security_txt_expired", "security_txt_expires_soon", "security_txt_invalid", "security_txt_missing"]

_REFERENCE = "https://www.rfc-editor.org/rfc/rfc9116"
# By the codes of `securitytxt.Problem`.
_TEXTS = {
    "too-large": translatable("The file has {detail} bytes; readers may stop at 32768."),
    "not-utf-8": translatable("The file is not UTF-8 ({detail})."),
    "long-line": translatable("A line is longer than 2048 characters: {detail}..."),
    "syntax": translatable("A line is no field: {detail}"),
    "empty": translatable("The field {detail} is empty."),
    "contact-missing": translatable("The field Contact is missing."),
    "contact-uri": translatable("Contact is no URI (such as mailto: or https:): {detail}"),
    "contact-http": translatable("Contact is a plain http address: {detail}"),
    "uri": translatable("A field that takes a URI has none: {detail}"),
    "http-uri": translatable("A field has a plain http address: {detail}"),
    "expires-missing": translatable("The field Expires is missing."),
    "expires-several": translatable("The field Expires stands in it {detail} times."),
    "expires-format": translatable("Expires is no time like 2027-01-31T12:00:00Z: {detail}"),
    "languages-several": translatable("The field Preferred-Languages stands in it {detail} times."),
    "languages-format": translatable("Preferred-Languages is no list of language tags: {detail}"),
    "signature": translatable("The OpenPGP signature is malformed: {detail}."),
    "content-type": translatable("The media type is {detail} and not text/plain."),
    "charset": translatable("The character set is {detail} and not utf-8."),
    "canonical": translatable("The fields Canonical don't name the address that the file was read from ({detail})."),
    "http": translatable("The file is served over plain HTTP."),
    "legacy-place": translatable("The file is at /security.txt only and not at /.well-known/security.txt."),
}


def _over_https(site: Website) -> bool:
    return site.scheme == "https" and contact.on_name(site)


def _judged_elsewhere(context: Context, found: SecurityTxt) -> bool:
    """Whether a site without TLS only leads to a file over HTTPS, whose own site is judged by it."""
    site = context.asset
    return isinstance(site, Website) and site.scheme == "http" and found.url.startswith("https://")


def _expires(context: Context, facts: Facts[SecurityTxt]) -> datetime | None:
    fact = facts.one
    return None if fact is None or _judged_elsewhere(context, fact) else fact.expires


@check(
    "security-txt-missing", about=Website, needs=[SecurityTxt], severity="recommendation", applies=_over_https,
    title=translatable("There is no security.txt"),
    risk=translatable(
        "Whoever finds a weakness in the site doesn't learn whom to tell, and tells nobody or everybody."
    ),
    fix=translatable("Serve /.well-known/security.txt with at least Contact and Expires."),
    reference=_REFERENCE,
    openkat=["KAT-NO-SECURITY-TXT"],
)  # fmt: skip
@judged.per_vantage
def security_txt_missing(context: Context, facts: Facts[SecurityTxt]) -> Verdict:
    """The name answers over HTTPS, and neither place of RFC 9116 section 3 gives a file.

    Unknown when a server error (5xx, 429) came in place of the file: that does not say that there is none.
    """
    found = facts.one
    if found is None or found.found:
        return Pass()
    text = translatable("/.well-known/security.txt gives no such file (status {status}).")
    return verdict([judged.item("missing", text, status=found.status)])


@check(
    "security-txt-expired", about=Website, needs=[SecurityTxt], severity="low", applies=contact.on_name,
    title=translatable("security.txt has expired"),
    risk=translatable("Readers are told not to trust it any more, so it is as good as missing."),
    fix=translatable("Check that what it says is still true, and give it a new Expires, at most a year ahead."),
    reference=f"{_REFERENCE}#section-2.5.5",
)  # fmt: skip
@judged.per_vantage
def security_txt_expired(context: Context, facts: Facts[SecurityTxt]) -> Verdict:
    """Expires lies in the past. No file, or one without a readable Expires, passes: other checks tell of that.

    A site without TLS that leads to a file over HTTPS passes, since the site that serves the file is judged by it.
    """
    expires = _expires(context, facts)
    if expires is None:
        return Pass()
    if expires > context.now:
        return Pass(until=expires)
    return verdict(
        [judged.item("expired", translatable("It expired at {time} UTC."), time=f"{expires:%Y-%m-%d %H:%M}")]
    )


@check(
    "security-txt-expires-soon", about=Website, needs=[SecurityTxt], severity="recommendation",
    applies=contact.on_name,
    title=translatable("security.txt expires soon"),
    risk=translatable("Once it has expired readers don't trust it any more."),
    fix=translatable("Check that what it says is still true, and give it a new Expires, at most a year ahead."),
    reference=f"{_REFERENCE}#section-2.5.5",
    options=[Option("days", 14, "How many days before the end it is told.")],
)  # fmt: skip
@judged.per_vantage
def security_txt_expires_soon(context: Context, facts: Facts[SecurityTxt]) -> Verdict:
    """Expires lies ahead by at most the option's days. One that has passed is `security-txt-expired`'s."""
    expires = _expires(context, facts)
    if expires is None or expires <= context.now:
        return Pass()
    from_then = expires - timedelta(days=float(context.options.get("days", 14)))
    if from_then > context.now:
        return Pass(until=from_then)
    text = translatable("It expires at {time} UTC.")
    return verdict([judged.item("soon", text, time=f"{expires:%Y-%m-%d %H:%M}")], until=expires)


@check(
    "security-txt-invalid", about=Website, needs=[SecurityTxt], severity="recommendation", applies=contact.on_name,
    title=translatable("security.txt breaks the rules of its format"),
    risk=translatable("Readers, and programs that read it for them, may not find or not trust the contact in it."),
    fix=translatable("Mend each point that is listed."),
    reference=_REFERENCE,
    openkat=["KAT-INVALID-SECURITY-TXT", "KAT-BAD-FORMAT-SECURITY-TXT"],
)  # fmt: skip
@judged.per_vantage
def security_txt_invalid(context: Context, facts: Facts[SecurityTxt]) -> Verdict:
    """The file breaks a rule of RFC 9116: an item for each rule, not for each line that breaks it.

    A site without TLS that leads to a file over HTTPS passes, since the site that serves the file is judged by it.
    """
    fact = facts.one
    if fact is None or _judged_elsewhere(context, fact):
        return Pass()
    found: dict[str, Item] = {}
    for problem in fact.problems:
        # One item for a rule, however many lines break it: lines change more often than what is wrong with them.
        text = _TEXTS.get(problem.code, "{code} {detail}")
        found.setdefault(problem.code, judged.item(problem.code, text, code=problem.code, detail=problem.detail))
    return verdict(list(found.values()))
