"""Checks before a change of release: the server, its roles and rights, and who else is there.

Each yields a sentence for each thing that is wrong: what it is, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator

from kattegat.lifecycle.situation import Situation
from kattegat.store.database import MINIMUM, ROLES

LONG_SECONDS = 30
LEAST_CONNECTIONS = 8
# Programs that somebody sits in front of, who may go on typing at any moment.
BY_HAND = "(?i)^(psql|pgadmin|dbeaver|datagrip|pgcli|beekeeper|adminer|tableplus|navicat)"
OWN_NAME = "kattegat"


def server_version(s: Situation) -> Iterator[str]:
    number = int(s.value("SELECT current_setting('server_version_num')"))
    if number < MINIMUM:
        yield f"The server is PostgreSQL {number // 10000}, and Kattegat needs 15 or newer: move the database to one."


def standby(s: Situation) -> Iterator[str]:
    if s.value("SELECT pg_is_in_recovery()"):
        yield "The server is a standby, which takes no changes: set KAT_DATABASE_URL to its primary."


def read_only(s: Situation) -> Iterator[str]:
    # Of the session as it was made; the transaction of these checks is read-only itself.
    if s.value("SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'"):
        yield (
            "The server, this database or the login is set to read-only (default_transaction_read_only): somebody wants"
            " no changes; set it to off first."
        )


def replication_role(s: Situation) -> Iterator[str]:
    found = s.value("SELECT reset_val FROM pg_settings WHERE name = 'session_replication_role'")
    if found != "origin":
        yield (
            f"Sessions of this database begin with session_replication_role = {found}, so foreign keys do not hold in"
            " them: reset it (ALTER DATABASE or ALTER ROLE ... RESET session_replication_role)."
        )


def pooler(s: Situation) -> Iterator[str]:
    driver = s.connection.connection.dbapi_connection
    told = getattr(getattr(driver, "info", None), "backend_pid", None)
    if s.value("SELECT pg_backend_pid()") != told:
        yield (
            "The connection goes through a pooler, which keeps no session for a change: set KAT_DATABASE_URL to"
            " PostgreSQL itself for this command."
        )


MEMBER = """
    WITH RECURSIVE up AS (
        SELECT roleid FROM pg_auth_members WHERE member = to_regrole(:name)::oid
        UNION SELECT m.roleid FROM up JOIN pg_auth_members m ON m.member = up.roleid
    )
    SELECT EXISTS (SELECT FROM up WHERE roleid = to_regrole('kat_owner')::oid)
"""


def roles(s: Situation) -> Iterator[str]:
    there = {row.rolname: row for row in s.rows("SELECT rolname, rolsuper, rolbypassrls FROM pg_roles")}
    for name in ROLES:
        if name not in there:
            yield f"The role {name} is missing on this server: `kat up` of the release in use makes it."
            continue
        row = there[name]
        if row.rolsuper:
            yield f"The role {name} is a superuser, so no fence holds it: ALTER ROLE {name} NOSUPERUSER."
        if name == "kat_app" and row.rolbypassrls:
            yield "The role kat_app passes row-level security: ALTER ROLE kat_app NOBYPASSRLS."
        if name == "kat_system" and not row.rolbypassrls:
            yield "The role kat_system does not pass row-level security: ALTER ROLE kat_system BYPASSRLS."
        if name != "kat_owner" and s.value(MEMBER, name=name):
            yield f"The role {name} is a member of kat_owner and could take the fence off: REVOKE kat_owner FROM it."


def rights(s: Situation) -> Iterator[str]:
    if s.value("SELECT current_user") != "kat_owner" and not s.value(
        "SELECT pg_has_role(current_user, 'kat_owner', 'USAGE')"
    ):
        yield "The login may not act as kat_owner: GRANT kat_owner to it, or use a superuser for this command."
        return
    for schema in ("public", "lifecycle", "parked"):
        found = s.value(
            "SELECT has_schema_privilege('kat_owner', oid, 'CREATE') FROM pg_namespace WHERE nspname = :schema",
            schema=schema,
        )
        if found is False:
            yield f"The role kat_owner may not create in schema {schema}: GRANT ALL ON SCHEMA {schema} TO kat_owner."
    if s.scratch and not s.value("SELECT bool_or(rolcreatedb OR rolsuper) FROM pg_roles WHERE rolname = session_user"):
        yield (
            "The login may not create databases, and a plan is made and a backup proven in one: ALTER ROLE ..."
            " CREATEDB for the login of KAT_DATABASE_URL."
        )
    others = s.rows(
        "SELECT c.oid::regclass::text AS name, pg_get_userbyid(c.relowner) AS owner FROM pg_class c"
        " WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'lifecycle', 'parked'))"
        " AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relowner <> 'kat_owner'::regrole AND NOT EXISTS (SELECT FROM"
        " pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') ORDER BY 1 LIMIT 3"
    )
    for row in others:
        yield f"{row.name} belongs to {row.owner}: ALTER TABLE {row.name} OWNER TO kat_owner."


def connections(s: Situation) -> Iterator[str]:
    row = s.rows(
        "SELECT datconnlimit AS most, datallowconn AS open FROM pg_database WHERE datname = current_database()"
    )
    most, open_ = row[0]
    if not open_:
        yield "The database takes no connections: ALTER DATABASE ... ALLOW_CONNECTIONS true."
    if 0 <= most < LEAST_CONNECTIONS:
        yield (
            f"The database takes {most} connections at most, and a change with its backup needs {LEAST_CONNECTIONS}:"
            " ALTER DATABASE ... CONNECTION LIMIT -1."
        )


def event_triggers(s: Situation) -> Iterator[str]:
    for (name,) in s.rows("SELECT evtname FROM pg_event_trigger WHERE evtenabled <> 'D' ORDER BY 1"):
        yield (
            f"The event trigger {name} would run at each step of the change: ALTER EVENT TRIGGER {name} DISABLE, and"
            " enable it again afterwards."
        )


def prepared(s: Situation) -> Iterator[str]:
    for gid, owner in s.rows("SELECT gid, owner FROM pg_prepared_xacts WHERE database = current_database()"):
        yield (
            f"The prepared transaction {gid!r} of {owner} would write after the change: end it with COMMIT PREPARED or"
            " ROLLBACK PREPARED."
        )


def replication(s: Situation) -> Iterator[str]:
    for name, plugin in s.rows(
        "SELECT slot_name, plugin FROM pg_replication_slots WHERE slot_type = 'logical'"
        " AND database = current_database()"
    ):
        yield (
            f"The logical replication slot {name} ({plugin}) hands on rows but no changes of tables: end the"
            f" replication and SELECT pg_drop_replication_slot('{name}')."
        )
    for (name,) in s.rows("SELECT pubname FROM pg_publication ORDER BY 1"):
        yield f"The publication {name} hands on rows but no changes of tables: DROP PUBLICATION {name} for the change."
    for (name,) in s.rows(
        "SELECT s.subname FROM pg_stat_subscription s JOIN pg_stat_activity a USING (pid)"
        " WHERE a.datname = current_database()"
    ):
        yield f"The subscription {name} writes to this database: ALTER SUBSCRIPTION {name} DISABLE for the change."


# Of a superuser's session we see the name and the locks, not what kind it is.
SESSIONS = """
    SELECT a.pid, a.usename, a.application_name, host(a.client_addr) AS address,
           CAST(extract(epoch FROM clock_timestamp() - a.xact_start) AS bigint) AS seconds,
           EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'virtualxid' AND l.granted) AS busy,
           a.application_name ~ :by_hand AS by_hand,
           a.usename = ANY (:roles) OR a.application_name LIKE :own AS own
    FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.usename IS NOT NULL
      AND coalesce(a.backend_type, 'client backend') = 'client backend'
    ORDER BY a.pid
"""


def sessions(s: Situation) -> Iterator[str]:
    # The processes of the install itself are stopped by the fence; whoever else is there has to be asked.
    rows = s.rows(SESSIONS, by_hand=BY_HAND, roles=list(ROLES), own=f"{OWN_NAME}%")
    for row in rows:
        who = f"{row.application_name or 'a program'} of {row.usename}" + (
            f" from {row.address}" if row.address else ""
        )
        if row.seconds is not None and row.seconds > LONG_SECONDS:
            yield (
                f"A transaction of {who} (server process {row.pid}) is open since {row.seconds} s and may hold locks:"
                f" let it end, or SELECT pg_terminate_backend({row.pid})."
            )
        elif row.by_hand or (row.busy and not row.own):
            yield (
                f"Somebody else works in this database, {who} (server process {row.pid}): let them end, or"
                f" SELECT pg_terminate_backend({row.pid})."
            )


def collation(s: Situation) -> Iterator[str]:
    if s.value(
        "SELECT datcollversion IS NOT NULL AND datcollversion IS DISTINCT FROM"
        " pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()"
    ):
        yield (
            "The machine sorts text in another way than when this database was made, so indexes may be wrong: REINDEX"
            " DATABASE, then ALTER DATABASE ... REFRESH COLLATION VERSION."
        )
