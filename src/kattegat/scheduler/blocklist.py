"""What is never scanned, by whom it was said, why and until when: names with all below them, addresses, networks.

An asset that is on the list is not scanned at all. A scan of another asset is refused each address on the list by the
runner's guard, after names are resolved, and says so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.errors import KattegatError, UsageError
from kattegat.model import assets, keys
from kattegat.model.assets import URL, Asset, Hostname, IPAddress, Network, Service, Website

PREFIX = "on the blocklist: "
COLUMNS = "id, organisation_id, zone, what, reason, set_by, set_at, until"
IN_FORCE = text(
    f"""
    SELECT {COLUMNS} FROM blocklist
    WHERE (until IS NULL OR until > now())
      AND (organisation_id IS NULL OR CAST(:organisations AS bigint[]) IS NULL
           OR organisation_id = ANY(CAST(:organisations AS bigint[])))
    ORDER BY id
    """  # noqa: S608 - a constant
)
ADD = text(
    """
    INSERT INTO blocklist (organisation_id, zone, what, reason, set_by, until)
    VALUES (:organisation, :zone, :what, :reason, :by, :until)
    ON CONFLICT ON CONSTRAINT uq_blocklist_what
    DO UPDATE SET reason = excluded.reason, set_by = excluded.set_by, set_at = now(), until = excluded.until
    """
)
REMOVE = text(
    """
    DELETE FROM blocklist
    WHERE organisation_id IS NOT DISTINCT FROM CAST(:organisation AS bigint) AND zone = :zone AND what = :what
    """
)
HELD = text(
    "SELECT organisation_id, id, hold FROM schedule WHERE hold LIKE :prefix ORDER BY organisation_id, id LIMIT :most"
)
FREE = text(
    """
    UPDATE schedule h SET hold = ''
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:ids AS bigint[])) AS r(organisation_id, id)
    WHERE h.organisation_id = r.organisation_id AND h.id = r.id AND h.hold LIKE :prefix
    """
)


class BlockError(UsageError):
    """What can't be put on the blocklist, or is not there."""


class Blocked(msgspec.Struct, frozen=True):
    """An entry. `organisation_id` None is for the whole install."""

    id: int
    organisation_id: int | None
    zone: str
    what: str
    reason: str
    set_by: str
    set_at: datetime
    until: datetime | None

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        """The addresses that it blocks; None for a name."""
        try:
            return ipaddress.ip_network(self.what)
        except ValueError:
            return None

    def sentence(self) -> str:
        """Why something is not scanned."""
        until = f", until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else ""
        return f"{PREFIX}{self.what} ({self.reason or 'no reason given'}; {self.set_by}{until})"


def add(
    conn: Connection,
    what: str,
    by: str,
    reason: str,
    *,
    organisation_id: int | None = None,
    zone: str = keys.DEFAULT_ZONE,
    until: datetime | None = None,
) -> str:
    """Blocks a name, an address or a network; gives it in its normal form. Raises `BlockError`."""
    named = normal(what)
    parameters = {"organisation": organisation_id, "zone": keys.zone(zone), "what": named, "reason": reason}
    conn.execute(ADD, {**parameters, "by": by, "until": until})
    detail = {"reason": reason, "zone": zone, "until": until.isoformat() if until else None}
    audit.write(conn, by, "blocklist.add", named, detail, organisation_id)
    return named


def remove(
    conn: Connection,
    what: str,
    by: str,
    reason: str = "",
    *,
    organisation_id: int | None = None,
    zone: str = keys.DEFAULT_ZONE,
) -> None:
    """Takes an entry off; raises `BlockError` when it is not there."""
    named = normal(what)
    parameters = {"organisation": organisation_id, "zone": keys.zone(zone), "what": named}
    if not conn.execute(REMOVE, parameters).rowcount:
        raise BlockError(f"{named} is not on the blocklist there; kat block list shows what is.")
    audit.write(conn, by, "blocklist.remove", named, {"reason": reason, "zone": zone}, organisation_id)
    tick(conn)


def in_force(conn: Connection, organisations: Iterable[int] | None = None) -> list[Blocked]:
    """The entries that hold now, for these organisations (None: all) and for the install."""
    named = None if organisations is None else list(organisations)
    return [Blocked(*row) for row in conn.execute(IN_FORCE, {"organisations": named})]


def reason(entries: Iterable[Blocked], organisation_id: int, asset: Asset) -> str:
    """Why an asset is not scanned, or ""."""
    name, zone, address = _of(asset)
    for entry in entries:
        if entry.organisation_id not in (None, organisation_id):
            continue
        network = entry.network
        if network is None:
            if name and (name == entry.what or name.endswith(f".{entry.what}")):
                return entry.sentence()
        elif address is not None and entry.zone == zone and _within(address, network):
            return entry.sentence()
    return ""


def refused(entries: Iterable[Blocked], organisation_id: int, zone: str) -> list[tuple[str, str]]:
    """The networks that no scan may contact, for the guard of a runner, as (CIDR, reason)."""
    return [
        (str(entry.network), entry.sentence())
        for entry in entries
        if entry.organisation_id in (None, organisation_id) and entry.zone == zone and entry.network is not None
    ]


def tick(conn: Connection, *, most: int = 10_000) -> int:
    """Frees what entries held that no longer hold; gives how many schedules. For the scheduler, at each round."""
    sentences = {entry.sentence() for entry in in_force(conn)}
    over = [row for row in conn.execute(HELD, {"prefix": f"{PREFIX}%", "most": most}) if row.hold not in sentences]
    if over:
        conn.execute(
            FREE,
            {
                "organisations": [row.organisation_id for row in over],
                "ids": [row.id for row in over],
                "prefix": f"{PREFIX}%",
            },
        )
    return len(over)


def normal(what: str) -> str:
    """A name, address or network as it is kept; raises `BlockError`."""
    said = what.strip()
    try:
        return str(ipaddress.ip_network(said))
    except ValueError as problem:
        if "/" in said or ":" in said:
            raise BlockError(f"{said[:80]!r} can't be blocked: {problem}.") from None
    try:
        return assets.parse("Hostname", said.lower().removeprefix("*.")).key
    except KattegatError as problem:
        raise BlockError(f"{said[:80]!r} can't be blocked: {problem}") from None


def _of(asset: Asset) -> tuple[str, str, ipaddress.IPv4Network | ipaddress.IPv6Network | None]:
    """The name, the zone and the addresses of an asset, as far as it has them."""
    if isinstance(asset, Hostname):
        return asset.name, keys.DEFAULT_ZONE, None
    if isinstance(asset, IPAddress):
        return "", asset.zone, ipaddress.ip_network(asset.address)
    if isinstance(asset, Service):
        return "", asset.address.zone, ipaddress.ip_network(asset.address.address)
    if isinstance(asset, Network):
        return "", asset.zone, ipaddress.ip_network(asset.cidr)
    if isinstance(asset, Website | URL):
        host = urlsplit(asset.origin if isinstance(asset, Website) else asset.url).hostname or ""
        try:
            return "", keys.DEFAULT_ZONE, ipaddress.ip_network(host)
        except ValueError:
            return host, keys.DEFAULT_ZONE, None
    return "", keys.DEFAULT_ZONE, None


def _within(inner: object, outer: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False
