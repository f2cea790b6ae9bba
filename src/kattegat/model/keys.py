"""Grammars of natural keys: one normal form per thing, and an exact reason for every refusal.

Each function takes what a person or a parser has and returns the normal form, or raises `KeyFormatError`. Normalising
is idempotent: `f(f(x)) == f(x)`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

import idna

from kattegat.errors import KeyFormatError

LONGEST_TEXT = 2048
"""Characters in which a host name may be written; more is none in any writing."""

DEFAULT_ZONE = "internet"
DEFAULT_PORTS = {"http": 80, "https": 443}
PROTOCOLS = ("tcp", "udp", "sctp")

_ZONE = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62})")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")


def zone(text: str) -> str:
    """The name of an address space: lower-case letters, digits, `.`, `_`, `-`, at most 63 characters."""
    name = text.strip().lower()
    if not _ZONE.fullmatch(name):
        raise KeyFormatError("zone", text, "a zone is 1 to 63 letters, digits, dots, underscores or hyphens")
    return name


def hostname(text: str) -> str:
    """A host name as A-labels, lower case, no trailing dot (RFC 1123, RFC 5890; `_` labels RFC 8552, `*` RFC 4592).

    Raises `KeyFormatError` for an empty name, an address literal, a label or a name that is too long, and for
    characters that no host name has.
    """

    def refuse(reason: str) -> KeyFormatError:
        return KeyFormatError("Hostname", text, reason)

    if len(text) > LONGEST_TEXT:
        # Before anything is done with it: IDNA's tables are slow on long texts.
        raise refuse(f"it has {len(text)} characters, and a name has at most 253")
    name = text.strip()
    for dot in "。．｡":  # IDNA's full stops (RFC 3490 section 3.1)
        name = name.replace(dot, ".")
    if name.endswith("."):
        name = name[:-1]
    if not name:
        raise refuse("it is empty")
    if "\x00" in name:
        raise refuse("it contains a NUL character")
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        pass
    else:
        raise refuse("it is an address, not a name")
    labels = name.lower().split(".")
    if "" in labels:
        raise refuse("it has an empty label (two dots in a row, or a dot in front)")
    done = [_label(label, first=index == 0, refuse=refuse) for index, label in enumerate(labels)]
    if done[-1].isdigit():
        raise refuse("its last label is a number, so it would be read as an IPv4 address")
    result = ".".join(done)
    if len(result) > 253:
        raise refuse(f"it has {len(result)} characters, and a name has at most 253")
    return result


def _label(label: str, *, first: bool, refuse: Callable[[str], KeyFormatError]) -> str:

    if label == "*":
        if first:
            return label
        raise refuse("'*' is allowed as the first label only")
    if not label.isascii():
        try:
            label = idna.encode(label, uts46=True).decode("ascii")
        except idna.IDNAError as problem:
            raise refuse(f"the label {label!r} is no valid internationalised label ({problem})") from None
    if len(label) > 63:
        raise refuse(f"the label {label[:20]}... has {len(label)} characters, and a label has at most 63")
    if not _LABEL.fullmatch(label):
        raise refuse(f"the label {label!r} has a character that host names don't have, or a hyphen at its edge")
    return label


def address(text: str) -> str:
    """An IP address in the one form of RFC 5952; IPv4-mapped IPv6 (`::ffff:1.2.3.4`) becomes IPv4.

    Raises `KeyFormatError` for a scope id (`%eth0`), which means something on one machine only.
    """
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    if "%" in bare and ":" in bare:
        raise KeyFormatError("IPAddress", text, "an address with an interface (%...) has a meaning on one machine only")
    try:
        parsed: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(bare)
    except ValueError:
        raise KeyFormatError("IPAddress", text, "it is neither an IPv4 nor an IPv6 address") from None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(parsed)


def network(text: str) -> str:
    """A network in CIDR form, no host bits set (RFC 4632): `10.0.0.5/8` is refused, not changed in silence."""
    bare = text.strip()
    if "%" in bare and ":" in bare:
        raise KeyFormatError("Network", text, "an address with an interface (%...) has a meaning on one machine only")
    try:
        return str(ipaddress.ip_network(bare, strict=True))
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(bare, strict=False)
    except ValueError:
        raise KeyFormatError("Network", text, "it is no network in CIDR form, such as 192.0.2.0/24") from None
    raise KeyFormatError("Network", text, f"it has host bits set; the network is {loose}")


def port(text: str | int) -> int:
    """A port, 1 to 65535."""
    # int() alone would take "8_0", "+80" and digits of other scripts.
    digits = str(text).strip()
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 5 else 0
    if not 1 <= number <= 65535:
        raise KeyFormatError("port", str(text), "a port is a number from 1 to 65535")
    return number


def host(text: str) -> str:
    """A host in an origin or URL: a name, an IPv4 address or an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
    bare = text.strip()
    try:
        literal = address(bare)
    except KeyFormatError:
        if bare.startswith("[") or ":" in bare:
            raise
        return hostname(bare)
    return f"[{literal}]" if ":" in literal else literal


def _split(kind: str, text: str) -> SplitResult:
    if any(ord(character) < 0x21 or ord(character) == 0x7F for character in text.strip()):
        raise KeyFormatError(kind, text, "it contains a space or a control character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise KeyFormatError(kind, text, "it contains half a character (a lone surrogate)")
    try:
        parts = urlsplit(text.strip())
    except ValueError as problem:
        raise KeyFormatError(kind, text, f"it is no URL ({problem})") from None
    if parts.scheme.lower() not in DEFAULT_PORTS:
        raise KeyFormatError(kind, text, "it must start with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise KeyFormatError(kind, text, "it contains a user name or password, which are not kept")
    if not parts.netloc.startswith("[") and parts.netloc.count(":") > 1:
        raise KeyFormatError(kind, text, "an IPv6 address in a URL stands in brackets, such as http://[2001:db8::1]/")
    if not parts.hostname:
        raise KeyFormatError(kind, text, "it names no host")
    return parts


def _port_of(kind: str, text: str, parts: SplitResult) -> int | None:
    """The port that is written, None for none; `http://host:/` has none (RFC 3986 section 3.2.3)."""
    name = parts.netloc.rpartition("@")[2]
    rest = name.partition("]")[2] if name.startswith("[") else name[len(name.partition(":")[0]) :]
    if rest in ("", ":"):
        return None
    try:
        return port(rest.removeprefix(":")) if rest.startswith(":") else port("")
    except KeyFormatError as problem:
        raise KeyFormatError(kind, text, f"{rest[:20]!r} after its host is no port; {problem.reason}") from None


def _raw_host(parts: SplitResult) -> str:
    name = parts.netloc.rpartition("@")[2]
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]


def origin(text: str) -> str:
    """The origin of a website, `scheme://host:port` with the port always written (RFC 6454 section 4)."""
    parts = _split("Website", text)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise KeyFormatError("Website", text, "an origin has no path; give it as a URL instead")
    scheme = parts.scheme.lower()
    number = _port_of("Website", text, parts) or DEFAULT_PORTS[scheme]
    return f"{scheme}://{host(_raw_host(parts))}:{number}"


def url(text: str) -> str:
    """A URL in normal form (RFC 3986 section 6.2): no default port, no dot segments, no fragment.

    Percent-encoding is upper case and only where it is needed; bytes outside ASCII are encoded as UTF-8.
    """
    parts = _split("URL", text)
    scheme = parts.scheme.lower()
    number = _port_of("URL", text, parts)
    suffix = f":{number}" if number is not None and number != DEFAULT_PORTS[scheme] else ""
    path = _dot_free(_percent(parts.path)) or "/"
    query = f"?{_percent(parts.query)}" if parts.query else ""
    return f"{scheme}://{host(_raw_host(parts))}{suffix}{path}{query}"


def _percent(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        byte = unquote_to_bytes(match.group(0))
        return byte.decode("ascii") if byte[0] in _UNRESERVED else match.group(0).upper()

    # A stray "%" is data, not an escape: encoding it keeps the text parseable and the function idempotent.
    strays_out = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)
    return quote(_PERCENT.sub(one, strays_out), safe="!#$%&'()*+,/:;=?@[]~")


def _dot_free(path: str) -> str:
    out: list[str] = []
    segments = path.split("/")
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment == ".":
            if last:
                out.append("")
        elif segment == "..":
            if len(out) > 1:
                out.pop()
            if last:
                out.append("")
        else:
            out.append(segment)
    return "/".join(out)


def sha256(text: str) -> str:
    """A SHA-256 digest as 64 lower-case hexadecimal digits; colons are taken off."""
    digest = text.strip().replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise KeyFormatError("Certificate", text, "it is not 64 hexadecimal digits, the SHA-256 of a DER form")
    return digest
