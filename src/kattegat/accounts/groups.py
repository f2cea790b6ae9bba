"""Groups: ordered, named sets of organisations, which settings can be given to."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.accounts.organisations import check_name
from kattegat.errors import UsageError


class UnknownGroupError(UsageError):
    """No group has this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"There is no group {name!r}; make it first.")


class GroupExistsError(UsageError):
    """The name is taken."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"There is a group {name!r} already; choose another name.")


class Group(msgspec.Struct, frozen=True):
    """A group. Of two groups of an organisation, the setting of the one with the higher position holds."""

    id: int
    name: str
    position: int


def create(conn: Connection, name: str, position: int = 0, *, actor: str = audit.SYSTEM) -> Group:
    """Makes a group (as `kat_system`); raises `GroupExistsError`."""
    row = conn.execute(
        text(
            "INSERT INTO organisation_group (name, position) VALUES (:name, :position)"
            " ON CONFLICT (name) DO NOTHING RETURNING id, name, position"
        ),
        {"name": check_name("a group", name), "position": position},
    ).one_or_none()
    if row is None:
        raise GroupExistsError(name)
    audit.write(conn, actor, "group.create", row.name, {"position": position})
    return Group(*row)


def get(conn: Connection, name: str) -> Group:
    """The group of this name; raises `UnknownGroupError`."""
    row = conn.execute(
        text("SELECT id, name, position FROM organisation_group WHERE name = :name"), {"name": name.strip()}
    ).one_or_none()
    if row is None:
        raise UnknownGroupError(name)
    return Group(*row)


def all_groups(conn: Connection) -> list[Group]:
    """Every group, in the order in which their settings are laid over one another."""
    rows = conn.execute(text('SELECT id, name, position FROM organisation_group ORDER BY position, name COLLATE "C"'))
    return [Group(*row) for row in rows]


def delete(conn: Connection, group: Group, *, actor: str = audit.SYSTEM) -> None:
    """Removes a group with its settings; its organisations stay."""
    conn.execute(text("DELETE FROM organisation_group WHERE id = :id"), {"id": group.id})
    audit.write(conn, actor, "group.delete", group.name)


def move(conn: Connection, group: Group, position: int, *, actor: str = audit.SYSTEM) -> None:
    """Gives a group another position."""
    conn.execute(
        text("UPDATE organisation_group SET position = :position WHERE id = :id"),
        {"id": group.id, "position": position},
    )
    audit.write(conn, actor, "group.move", group.name, {"was": group.position, "became": position})


def add(conn: Connection, group: Group, organisation_id: int, *, actor: str = audit.SYSTEM) -> bool:
    """Puts an organisation into a group; False when it is in it already."""
    done = conn.execute(
        text(
            "INSERT INTO group_member (group_id, organisation_id) VALUES (:group, :organisation) ON CONFLICT DO NOTHING"
        ),
        {"group": group.id, "organisation": organisation_id},
    ).rowcount
    if done:
        audit.write(conn, actor, "group.add", group.name, None, organisation_id)
    return bool(done)


def remove(conn: Connection, group: Group, organisation_id: int, *, actor: str = audit.SYSTEM) -> bool:
    """Takes an organisation out of a group; False when it was not in it."""
    done = conn.execute(
        text("DELETE FROM group_member WHERE group_id = :group AND organisation_id = :organisation"),
        {"group": group.id, "organisation": organisation_id},
    ).rowcount
    if done:
        audit.write(conn, actor, "group.remove", group.name, None, organisation_id)
    return bool(done)


def members(conn: Connection, group: Group) -> list[int]:
    """The ids of the group's organisations, ascending."""
    rows = conn.execute(
        text("SELECT organisation_id FROM group_member WHERE group_id = :group ORDER BY organisation_id"),
        {"group": group.id},
    )
    return list(rows.scalars())


def groups_of(conn: Connection, organisation_id: int) -> list[Group]:
    """The groups of an organisation, in the order in which their settings are laid over one another."""
    rows = conn.execute(
        text(
            """
            SELECT g.id, g.name, g.position FROM organisation_group g JOIN group_member m ON m.group_id = g.id
            WHERE m.organisation_id = :organisation ORDER BY g.position, g.name COLLATE "C"
            """
        ),
        {"organisation": organisation_id},
    )
    return [Group(*row) for row in rows]
