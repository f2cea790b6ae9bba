"""Own networks: private, loopback or other ranges that an organisation declared as its own, per zone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.model import keys


class OwnNetwork(msgspec.Struct, frozen=True):
    """A declared network: `network` in CIDR form."""

    id: int
    zone: str
    network: str
    declared_by: str
    declared_at: datetime


def declare(
    conn: Connection, organisation_id: int, network: str, *, zone: str = keys.DEFAULT_ZONE, actor: str = audit.SYSTEM
) -> bool:
    """Declares a network; False when it was declared already. Raises `KeyFormatError` for no CIDR or no zone."""
    cidr, space = keys.network(network), keys.zone(zone)
    done = conn.execute(
        text(
            "INSERT INTO own_network (organisation_id, zone, network, declared_by)"
            " VALUES (:organisation, :zone, CAST(:network AS cidr), :actor) ON CONFLICT DO NOTHING"
        ),
        {"organisation": organisation_id, "zone": space, "network": cidr, "actor": actor},
    ).rowcount
    if done:
        audit.write(conn, actor, "network.declare", f"{space}|{cidr}", None, organisation_id)
    return bool(done)


def withdraw(
    conn: Connection, organisation_id: int, network: str, *, zone: str = keys.DEFAULT_ZONE, actor: str = audit.SYSTEM
) -> bool:
    """Takes a declaration back; False when there was none. Raises `KeyFormatError`."""
    cidr, space = keys.network(network), keys.zone(zone)
    done = conn.execute(
        text(
            "DELETE FROM own_network WHERE organisation_id = :organisation AND zone = :zone"
            " AND network = CAST(:network AS cidr)"
        ),
        {"organisation": organisation_id, "zone": space, "network": cidr},
    ).rowcount
    if done:
        audit.write(conn, actor, "network.withdraw", f"{space}|{cidr}", None, organisation_id)
    return bool(done)


def all_networks(conn: Connection, organisation_id: int) -> list[OwnNetwork]:
    """The organisation's own networks, by zone and address."""
    rows = conn.execute(
        text(
            "SELECT id, zone, CAST(network AS text), declared_by, declared_at FROM own_network"
            ' WHERE organisation_id = :organisation ORDER BY zone COLLATE "C", network'
        ),
        {"organisation": organisation_id},
    )
    return [OwnNetwork(*row) for row in rows]


def by_organisation(conn: Connection, organisations: Sequence[int]) -> dict[int, list[OwnNetwork]]:
    """The own networks of many organisations; one statement."""
    found: dict[int, list[OwnNetwork]] = {organisation: [] for organisation in organisations}
    rows = conn.execute(
        text(
            "SELECT organisation_id, id, zone, CAST(network AS text), declared_by, declared_at FROM own_network"
            " WHERE organisation_id = ANY (CAST(:organisations AS bigint[]))"
            ' ORDER BY organisation_id, zone COLLATE "C", network'
        ),
        {"organisations": list(organisations)},
    )
    for organisation_id, *rest in rows:
        found[organisation_id].append(OwnNetwork(*rest))
    return found
