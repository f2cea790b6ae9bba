"""Types of links: what each means, and how much clearance flows along and against it.

The vocabulary is open: a link type unknown here is kept and shown, and lets no clearance through.
"""

from __future__ import annotations

import msgspec


class LinkType(msgspec.Struct, frozen=True):
    """`along`: the most clearance that the target inherits from the origin; `against`: the other way round (0 to 4)."""

    name: str
    meaning: str
    along: int = 0
    against: int = 0


# An asset's presence flows along every link from its origin to its target, whatever the caps.
# Nothing flows to mail and name servers: they are often a provider's, and whoever owns them inherits through part_of.
TYPES: dict[str, LinkType] = {
    link.name: link
    for link in (
        LinkType("resolves_to", "a name has this address (A or AAAA, behind any aliases)", along=4),
        LinkType("alias_of", "a name is an alias (CNAME) of another"),
        LinkType("part_of", "a name lies below this registrable domain", along=1, against=2),
        LinkType("mail_server", "mail for a name goes to this host (MX)"),
        LinkType("name_server", "a zone is served by this host (NS)"),
        LinkType("service_host", "a service of a name runs on this host (SRV)"),
        LinkType("reverse_name", "an address is called this by its PTR record"),
        LinkType("contains", "a network contains this address", along=4),
        LinkType("has_service", "an address answers on this port", along=4),
        LinkType("has_website", "a name or address is visited at this origin", along=4),
        LinkType("serves", "a service serves this website", along=4),
        LinkType("presents", "a website or service presents this certificate", along=1),
        LinkType("redirects_to", "a website sends its visitors to this one"),
        LinkType("page_of", "a URL lies in this website", along=4),
        LinkType("runs", "a service or website runs this software", along=1),
        LinkType("found_from", "an asset was found while scanning another, with no closer link"),
    )
}
