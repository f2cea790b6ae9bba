"""The trust anchor: the key or digest that validation starts from, as text in presentation form."""

from __future__ import annotations

import dns.exception
import dns.name
import dns.rdatatype
import dns.rrset
import dns.zonefile

from kattegat.errors import UsageError

# The root's key signing keys of 2017 and 2024, as IANA publishes them (https://data.iana.org/root-anchors/, RFC 9718).
ROOT = """\
. IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D
. IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16
"""


class AnchorError(UsageError):
    """A trust anchor that can't be used."""


def closest(text: str, name: dns.name.Name) -> list[dns.rrset.RRset]:
    """The DNSKEY and DS records of the deepest zone at or above `name` that the text has an anchor for.

    Raises `AnchorError` for text that is no master file (RFC 1035 section 5) of such records, and when none is above.
    """
    try:
        read = dns.zonefile.read_rrsets(text, rdclass=None, default_ttl=0)
    except (dns.exception.DNSException, ValueError) as problem:
        raise AnchorError(
            f"The trust anchor can't be read ({problem}); it is DNSKEY or DS records, each with its owner's name."
        ) from None
    usable = [rrset for rrset in read if rrset.rdtype in (dns.rdatatype.DNSKEY, dns.rdatatype.DS)]
    above = [rrset for rrset in usable if name.is_subdomain(rrset.name)]
    if not above:
        there = ", ".join(sorted({rrset.name.to_text() for rrset in usable})) or "nothing"
        raise AnchorError(f"{name} lies below no trust anchor (there is one for {there}); nothing can be proven of it.")
    owner = max((rrset.name for rrset in above), key=len)
    return [rrset for rrset in above if rrset.name == owner]
