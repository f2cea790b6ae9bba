"""The table of wrong situations: what is arranged, and what the sentence has to say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psycopg
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kattegat.lifecycle.run import Wish
from kattegat.schema import fence, runs, stored
from kattegat.schema.steps import Plan
from kattegat.settings import Settings
from kattegat.store.database import Database

Connect = Callable[..., psycopg.Connection[tuple[object, ...]]]
BACK = Wish(kind="downgrade", yes=True, backup=False)


@dataclass
class Ground:
    """Where a situation is arranged: a database that a newer release has used, and the settings of its install."""

    name: str
    database: Database
    settings: Settings
    connect: Connect  # (role, **more) -> a connection to this database
    after: ExitStack = field(default_factory=ExitStack)

    def admin(self, *statements: str) -> None:
        """Runs SQL as a superuser."""
        with self.connect("kat_admin", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def until_the_end(self, *statements: str) -> None:
        """Runs SQL as a superuser when the situation is over: what belongs to the server, not to the database."""
        self.after.callback(self.admin, *statements)

    def session(self, role: str = "kat_admin", **more: object) -> psycopg.Connection[tuple[object, ...]]:
        """A session that stays to the end."""
        connection = self.connect(role, **more)
        self.after.callback(connection.close)
        return connection

    @property
    def key(self) -> Path:
        """The file of the key that signs plans."""
        return self.settings.data_dir / "plan-key"


@dataclass(frozen=True)
class Wrong:
    """A wrong situation: SQL of a superuser or a function, the sentence (a regular expression), and what is typed."""

    name: str
    arrange: str | Callable[[Ground], None]
    says: str
    wish: Wish = BACK


def drifted() -> list[Wrong]:
    """Somebody changed the schema by hand."""
    hand = "changed it by hand"
    table = {
        "a column is gone": ("ALTER TABLE install DROP COLUMN detail", "public.install.detail: this column is missing"),
        "a column too many": ("ALTER TABLE install ADD motto text", "install.motto: this column is not expected"),
        "another type": ("ALTER TABLE scan ALTER reason TYPE varchar(900)", "scan.reason: type is character varying"),
        "no default": ("ALTER TABLE asset ALTER present DROP DEFAULT", "asset.present: default is none"),
        "another default": ("ALTER TABLE asset ALTER present SET DEFAULT true", "asset.present: default is true"),
        "NULL allowed": ("ALTER TABLE finding ALTER text DROP NOT NULL", "finding.text: not null is none"),
        "NULL forbidden": ("ALTER TABLE task ALTER lease_until SET NOT NULL", "task.lease_until: not null is True"),
        "a constraint gone": ("ALTER TABLE asset DROP CONSTRAINT ck_asset_clearance", "ck_asset_clearance: .* missing"),
        "a constraint too many": ("ALTER TABLE asset ADD CONSTRAINT mine CHECK (id > 0)", "mine: .* not expected"),
        "a key gone": ("ALTER TABLE scan DROP CONSTRAINT pk_scan CASCADE", "pk_scan: .* missing"),
        "a foreign key gone": ("ALTER TABLE link DROP CONSTRAINT fk_link_organisation_id", "fk_link_.*missing"),
        "a foreign key changed": (
            "ALTER TABLE link DROP CONSTRAINT fk_link_organisation_id; ALTER TABLE link ADD CONSTRAINT"
            " fk_link_organisation_id FOREIGN KEY (organisation_id) REFERENCES organisation (id)",
            "fk_link_organisation_id: definition is",
        ),
        "an index gone": ("DROP INDEX ix_link_fact", "ix_link_fact: this index is missing"),
        "an index too many": ("CREATE INDEX mine ON scan (actor)", "public.scan.mine: this index is not expected"),
        "a view": ("SET ROLE kat_owner; CREATE VIEW mine AS SELECT 1 AS one", "public.mine: this view is not expected"),
        "a materialised view": (
            "SET ROLE kat_owner; CREATE MATERIALIZED VIEW mine AS SELECT 1 AS one",
            "mine: this view is not expected",
        ),
        "a function": (
            "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "mine.*function is not expected",
        ),
        "a procedure": ("CREATE PROCEDURE mine() LANGUAGE sql AS 'SELECT 1'", "mine.* is not expected"),
        "a trigger": (
            "CREATE TRIGGER mine BEFORE UPDATE ON scan FOR EACH ROW EXECUTE FUNCTION"
            " suppress_redundant_updates_trigger()",
            "public.scan.mine: this trigger is not expected",
        ),
        "a policy gone": ("DROP POLICY kat_organisation ON scan", "kat_organisation: this policy is missing"),
        "a policy too many": ("CREATE POLICY mine ON scan USING (true)", "scan.mine: this policy is not expected"),
        "a policy for others": ("ALTER POLICY kat_organisation ON scan TO PUBLIC", "kat_organisation: roles is"),
        "no row security": ("ALTER TABLE scan DISABLE ROW LEVEL SECURITY", "scan: row security is none"),
        "row security not forced": ("ALTER TABLE scan NO FORCE ROW LEVEL SECURITY", "scan: forced is none"),
        "a right too many": ("GRANT SELECT ON asset TO PUBLIC", "public.asset.*PUBLIC"),
        "a right too few": ("REVOKE SELECT ON asset FROM kat_app", "public.asset.*kat_app"),
        "a right on a column": ("GRANT UPDATE (name) ON organisation TO PUBLIC", "organisation.*name.*PUBLIC"),
        "an enum": ("CREATE TYPE mine AS ENUM ('a')", "public.mine: this enum is not expected"),
        "a domain": ("CREATE DOMAIN mine AS text", "public.mine: this domain is not expected"),
        "a sequence": (
            "CREATE SEQUENCE mine OWNED BY NONE; ALTER SEQUENCE mine OWNER TO kat_owner",
            "mine: .* sequence",
        ),
        "a composite type": ("CREATE TYPE mine AS (a int)", "mine"),
        "a rule": ("CREATE RULE mine AS ON UPDATE TO scan DO INSTEAD NOTHING", "mine"),
        "an unlogged table": ("ALTER TABLE check_due SET UNLOGGED", "check_due: unlogged is True"),
        "another fill factor": ("ALTER TABLE check_due SET (fillfactor = 50)", "check_due: options is"),
        "a column renamed": ("ALTER TABLE scan RENAME actor TO who", "scan.actor: this column is missing"),
        "a constraint renamed": ("ALTER TABLE scan RENAME CONSTRAINT pk_scan TO pk_mine", "pk_mine: .* not expected"),
        "a table renamed": ("ALTER TABLE check_due RENAME TO mine", "check_due: this table is missing"),
        "a table gone": ("DROP TABLE check_due", "check_due: this table is missing"),
        "another collation": ('ALTER TABLE asset ALTER key TYPE text COLLATE "POSIX"', "asset.key: collation is"),
        "another identity": ("ALTER TABLE place ALTER id SET GENERATED ALWAYS", "place.id: identity is always"),
        "a newer column dropped": ("ALTER TABLE asset DROP COLUMN label", "asset.label: this column is missing"),
    }
    return [Wrong(name, sql, rf"(?s)({says}.*{hand}|{says})") for name, (sql, says) in table.items()]


def foreign() -> list[Wrong]:
    """It is not our database, or it says something else than it is."""
    everything = "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION kat_owner"
    gone = "was removed from the database: restore a backup"
    return [
        Wrong("an empty database", everything, "The database is empty: `kat up` makes"),
        Wrong(
            "one of Django",
            f"{everything}; SET ROLE kat_owner; CREATE TABLE public.django_migrations ()",
            "is no Kattegat",
        ),
        Wrong(
            "another one with Alembic",
            f"{everything}; SET ROLE kat_owner; CREATE TABLE public.alembic_version (version_num text); CREATE TABLE"
            " public.plugin (); INSERT INTO public.alembic_version VALUES ('0010')",
            r"is no Kattegat database \(it has alembic_version, plugin\)",
        ),
        Wrong("no revision table", "DROP TABLE alembic_version", "is no Kattegat database"),
        Wrong("no revision", "DELETE FROM alembic_version", r"says 0 revisions \(none\)"),
        Wrong("two revisions", "INSERT INTO alembic_version VALUES ('0000')", r"says 2 revisions \(0000, t3\)"),
        Wrong(
            "a strange revision", "UPDATE alembic_version SET version_num = 'zz'", "says revision zz, and .* left t3"
        ),
        Wrong(
            "set back by hand", "UPDATE alembic_version SET version_num = '0001'", "says revision 0001, and .* left t3"
        ),
        Wrong(
            "a strange revision on record too",
            "UPDATE alembic_version SET version_num = 'zz'; UPDATE lifecycle.fact SET value = value || '{\"revision\":"
            " \"zz\"}' WHERE name = 'release'",
            "at revision zz, which neither this release nor the plans stored",
        ),
        Wrong("no ledger", "DROP SCHEMA lifecycle CASCADE", "no record of changes"),
        Wrong("no journal", "DROP TABLE lifecycle.journal", "no record of changes"),
        Wrong("no facts", "DROP TABLE lifecycle.fact", "can't be looked at .*lifecycle.fact.*: .* restore a backup"),
        Wrong("no plans", "DROP TABLE lifecycle.plan", f"lifecycle.plan {gone}"),
        Wrong("no runs", "DROP TABLE lifecycle.run CASCADE", f"lifecycle.run {gone}"),
        Wrong("no entries", "DROP TABLE parked.entry", f"parked.entry {gone}"),
        Wrong("no watch", "DROP TABLE parked.touched", f"parked.touched {gone}"),
        Wrong("no quarantine", "DROP TABLE parked.quarantine", f"parked.quarantine {gone}"),
        Wrong("no ids", "DROP SEQUENCE parked.id", f"parked.id {gone}"),
        Wrong("ids set back", "SELECT setval('parked.id', 1, false)", "parked.id was set back"),
        Wrong(
            "a parked column removed",
            _parked_column_removed,
            r"The parked column public.organisation_group.position \(.*\) was removed by hand",
        ),
        Wrong(
            "a parked table removed",
            "SELECT setval('parked.id', 99); INSERT INTO parked.entry (id, kind, was, now_is, shape, state) VALUES (90,"
            " 'table', 'public.mine', 'parked.t90', '{}', 'parked')",
            r"The parked table public.mine \(parked.t90\) was removed by hand",
        ),
        Wrong(
            "a table not ours to change",
            "ALTER TABLE scan OWNER TO kat_admin",
            "scan belongs to kat_admin: ALTER TABLE",
        ),
        Wrong(
            "a table unfenced", "CREATE TABLE mine (); ALTER TABLE mine OWNER TO kat_owner", "Table mine is not fenced"
        ),
        Wrong("a fence taken off", "DROP TRIGGER _kat_fence ON scan", "Table scan is not fenced"),
        Wrong("a fence off", "ALTER TABLE scan DISABLE TRIGGER _kat_fence", "Table scan is not fenced"),
        Wrong("a fence not for all", "ALTER TABLE scan ENABLE TRIGGER _kat_fence", "Table scan is not fenced"),
        Wrong("no fence", "DROP FUNCTION lifecycle.fence() CASCADE", "The fence of this database was removed"),
        Wrong(
            "an index half built",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_link_fact'::regclass",
            "The index ix_link_fact is not whole",
        ),
        Wrong(
            "a constraint never proven",
            "ALTER TABLE scan ADD CONSTRAINT mine CHECK (id > 0) NOT VALID",
            "The constraint mine of scan was never validated",
        ),
    ]


def _parked_column_removed(ground: Ground) -> None:
    with ground.connect("kat_admin", autocommit=True) as connection:
        found = connection.execute(
            "SELECT now_is FROM parked.entry WHERE was = 'public.organisation_group.position' AND state = 'parked'"
        ).fetchone()
    column = str(found[0]).rpartition(".")[2] if found else ""
    ground.admin(f"ALTER TABLE organisation_group DROP COLUMN {column}")


def plans() -> list[Wrong]:
    """The stored plans were tampered with, or the key is not the one."""

    def changed(column: str, value: str) -> str:
        return f"UPDATE lifecycle.plan SET {column} = {value} WHERE revision = 't3'"

    signed = "t3 is not the one that was signed: somebody changed it in the database"
    unverified = r"can't be verified \(.*\): restore the key file .* --accept-plan [0-9a-f]{64}"
    return [
        Wrong("SQL altered", changed("document", "replace(document, 'own_network', 'stolen')"), signed),
        Wrong(
            "a step taken out", changed("document", 'regexp_replace(document, \'"words":"\', \'"words":"x\')'), signed
        ),
        Wrong("another release", changed("release", "'9.9.9'"), signed),
        Wrong("another shape before", changed("before", "replace(before, 'kat_app', 'kat_bad')"), signed),
        Wrong("another shape after", changed("after", "after || ' '"), signed),
        Wrong("another sum", changed("sha256", "repeat('0', 64)"), signed),
        Wrong("another signature", changed("signature", "'\\x00'"), signed),
        Wrong(
            "a signature of another row",
            changed("signature", "(SELECT signature FROM lifecycle.plan WHERE revision = 't2')"),
            signed,
        ),
        Wrong("no signature", changed("signature", "NULL"), "it has no signature"),
        Wrong("no name of a key", changed("key_id", "NULL"), "it has no signature"),
        Wrong("another key's name", changed("key_id", "'ffffffffffffffff'"), "key ffffffffffffffff signed it"),
        Wrong("another predecessor", changed("follows", "'0001'"), "t3 is not the one|do not lead|not on one line"),
        Wrong(
            "the plan of the way between altered",
            "UPDATE lifecycle.plan SET document = document || ' ' WHERE revision = 't2'",
            "t2 is not the one that was signed",
        ),
        Wrong(
            "the newest plan gone",
            "DELETE FROM lifecycle.plan WHERE revision = 't3'",
            "revision t3, which neither this release nor",
        ),
        Wrong(
            "a plan between gone",
            "DELETE FROM lifecycle.plan WHERE revision = 't2'",
            "No way leads|No way back is stored|no revision",
        ),
        Wrong("no key", lambda g: g.key.unlink(), rf"plan-key is missing\).*|{unverified}"),
        Wrong("another key", _another_key, unverified),
        Wrong("a key file without a key", lambda g: _write(g.key, b"nothing"), "it holds no key"),
        Wrong("a key of another kind", _key_of_another_kind, "a key of another kind than Ed25519"),
        Wrong("a folder for a key", _folder_for_key, "can't be used"),
        Wrong(
            "another plan accepted",
            lambda g: g.key.unlink(),
            unverified,
            msgspec.structs.replace(BACK, accept=("0" * 64,)),
        ),
        Wrong("a plan of a newer form", _newer_format, "can't be read by this release .*type kat downgrade with"),
    ]


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _another_key(ground: Ground) -> None:
    ground.key.unlink()
    stored.PlanKey.open(ground.key)


def _key_of_another_kind(ground: Ground) -> None:
    key = generate_private_key(65537, 2048)
    _write(ground.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _folder_for_key(ground: Ground) -> None:
    ground.key.unlink()
    ground.key.mkdir()


def _newer_format(ground: Ground) -> None:
    key = stored.PlanKey.load(ground.key)
    if key is None:
        raise RuntimeError("the install has no key")
    with ground.database.begin("kat_owner") as connection:
        row = stored.read(connection, "t3")
        plan = Plan(source=row.plan().source, target=row.plan().target, steps=row.plan().steps, format=2)
        made = stored.signed(
            key,
            revision="t3",
            follows=row.follows,
            release="9.0.0",
            plan=plan,
            before=row.shape_before(),
            after=row.shape_after(),
        )
        stored.store(connection, made)


def under_way() -> list[Wrong]:
    """Another change has begun."""
    return [
        Wrong("a run open", _run, r"begun by bob on there at .* type `kat upgrade --resume` .* `kat upgrade --cancel`"),
        Wrong("a run going back", _cancelling, "`kat upgrade --cancel`"),
        Wrong("closed and nothing on record", "SELECT setval('lifecycle.epoch', 7)", r"closed \(epoch 7\) .* --resume"),
        Wrong("a second operator", _operator, "Another change of release runs in this database now"),
        Wrong("a second operator about to begin", _lock, "Another change of release runs in this database now"),
    ]


def _run(ground: Ground) -> None:
    with ground.database.begin("kat_owner") as connection:
        runs.begin(connection, "upgrade", Plan(source="", target=""), by_whom="bob", host="there")


def _cancelling(ground: Ground) -> None:
    _run(ground)
    ground.admin("UPDATE lifecycle.run SET state = 'cancelling' WHERE state = 'running'")


def _operator(ground: Ground) -> None:
    other = ground.database.engine("kat_owner").connect()
    ground.after.callback(other.close)
    ground.after.callback(other.invalidate)
    fence.close(other)


def _lock(ground: Ground) -> None:
    ground.session("kat_owner", autocommit=True).execute("SELECT pg_advisory_lock(%s)", [fence.KEY])


def server() -> list[Wrong]:
    """The server, its roles, and who else is there."""

    def role(name: str, wrong: str, right: str, says: str) -> Wrong:
        def arrange(ground: Ground) -> None:
            ground.until_the_end(right)
            ground.admin(wrong)

        return Wrong(name, arrange, says)

    here = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {}', current_database()); END $$"
    return [
        Wrong("a read-only database", here.format("SET default_transaction_read_only = on"), "is set to read-only"),
        role(
            "a read-only login",
            "ALTER ROLE kat_owner SET default_transaction_read_only = on",
            "ALTER ROLE kat_owner RESET default_transaction_read_only",
            "is set to read-only",
        ),
        Wrong(
            "sessions as replicas",
            here.format("SET session_replication_role = replica"),
            "session_replication_role = replica",
        ),
        role(
            "kat_app sees all", "ALTER ROLE kat_app BYPASSRLS", "ALTER ROLE kat_app NOBYPASSRLS", "kat_app passes row"
        ),
        role(
            "kat_app may all",
            "ALTER ROLE kat_app SUPERUSER",
            "ALTER ROLE kat_app NOSUPERUSER",
            "kat_app is a superuser",
        ),
        role(
            "kat_system sees little",
            "ALTER ROLE kat_system NOBYPASSRLS",
            "ALTER ROLE kat_system BYPASSRLS",
            "kat_system does not pass",
        ),
        role(
            "kat_system may all",
            "ALTER ROLE kat_system SUPERUSER",
            "ALTER ROLE kat_system NOSUPERUSER",
            "kat_system is a superuser",
        ),
        role(
            "kat_owner may all",
            "ALTER ROLE kat_owner SUPERUSER",
            "ALTER ROLE kat_owner NOSUPERUSER",
            "kat_owner is a super",
        ),
        role(
            "kat_app owns",
            "GRANT kat_owner TO kat_app",
            "REVOKE kat_owner FROM kat_app",
            "kat_app is a member of kat_o",
        ),
        role(
            "kat_system owns by a detour",
            "CREATE ROLE detour; GRANT kat_owner TO detour; GRANT detour TO kat_system",
            "DROP ROLE detour",
            "kat_system is a member of kat_owner",
        ),
        role(
            "a role is missing",
            "ALTER ROLE kat_app RENAME TO kat_gone",
            "ALTER ROLE kat_gone RENAME TO kat_app",
            "The role kat_app is missing",
        ),
        Wrong(
            "no right in public",
            "ALTER SCHEMA public OWNER TO kat_admin; REVOKE ALL ON SCHEMA public FROM kat_owner, PUBLIC;"
            " GRANT USAGE ON SCHEMA public TO PUBLIC",
            "kat_owner may not create in schema public",
        ),
        Wrong(
            "no right in lifecycle", "ALTER SCHEMA lifecycle OWNER TO kat_admin", "may not create in schema lifecycle"
        ),
        Wrong(
            "no right in parked", "ALTER SCHEMA parked OWNER TO kat_admin", "kat_owner may not create in schema parked"
        ),
        Wrong("few connections", here.format("CONNECTION LIMIT 4"), "takes 4 connections at most"),
        Wrong(
            "another sort order",
            "UPDATE pg_database SET datcollversion = '0' WHERE datname = current_database()",
            "sorts text in another way",
        ),
        Wrong(
            "an event trigger",
            "CREATE FUNCTION parked.mine() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER"
            " mine ON ddl_command_end EXECUTE FUNCTION parked.mine()",
            "The event trigger mine would run",
        ),
        Wrong("a prepared transaction", _prepared, "The prepared transaction 'mine' of kat_admin would write"),
        Wrong("a publication", "CREATE PUBLICATION mine FOR TABLE scan", "The publication mine hands on rows"),
        Wrong("a logical slot", _slot, "The logical replication slot mine"),
        Wrong("psql", lambda g: _idle(g, "psql"), "psql of kat_admin .*server process [0-9]+.*let them end"),
        Wrong("pgAdmin", lambda g: _idle(g, "pgAdmin 4 - DB:kattegat"), "pgAdmin 4 - DB:kattegat of kat_admin"),
        Wrong("DBeaver as the owner", lambda g: _idle(g, "DBeaver 24", "kat_owner"), "DBeaver 24 of kat_owner"),
        Wrong("a report that reads", _reading, "report of kat_admin .*server process"),
        Wrong("a lock by a program", _locking, "a program of kat_admin"),
        Wrong(
            "a folder that is a file",
            lambda g: _write(g.settings.data_dir / "backups", b""),
            "backups can't be written",
        ),
        Wrong(
            "evidence that is a file",
            lambda g: _write(g.settings.data_dir / "evidence", b""),
            "evidence can't be written",
        ),
        Wrong(
            "no pg_dump",
            lambda g: (g.settings.data_dir / "bin").mkdir(),
            "pg_dump",
            Wish(kind="downgrade", yes=True),
        ),
        Wrong(
            "no administrator",
            lambda g: (g.settings.data_dir / "secrets" / "kat_admin").unlink(),
            "administrator can't be read",
        ),
    ]


def _prepared(ground: Ground) -> None:
    other = ground.session()
    other.execute("INSERT INTO lifecycle.fact (name, value) VALUES ('mine', '1')")
    other.execute("PREPARE TRANSACTION 'mine'")
    ground.until_the_end("ROLLBACK PREPARED 'mine'")


def _slot(ground: Ground) -> None:
    ground.admin("SELECT pg_create_logical_replication_slot('mine', 'pgoutput')")
    ground.until_the_end("SELECT pg_drop_replication_slot('mine')")


def _idle(ground: Ground, name: str, role: str = "kat_admin") -> None:
    ground.session(role, autocommit=True, application_name=name).execute("SELECT 1")


def _reading(ground: Ground) -> None:
    ground.session(application_name="report").execute("SELECT count(*) FROM scan")


def _locking(ground: Ground) -> None:
    ground.session().execute("LOCK TABLE scan IN SHARE MODE")


def targets() -> list[Wrong]:
    """What was typed makes no sense."""

    def typed(name: str, kind: str, to: str | None, says: str, arrange: str = "SELECT 1") -> Wrong:
        return Wrong(name, arrange, says, Wish(kind=kind, to=to, yes=True, backup=False))  # type: ignore[arg-type]

    finalized = "UPDATE lifecycle.fact SET value = value || '{\"oldest_reader\": \"9.0.0\"}' WHERE name = 'release'"
    return [
        typed("an unknown release", "downgrade", "9.9.9", "no release or revision '9.9.9' .*; there are: "),
        typed("an unknown revision", "downgrade", "0042", "no release or revision '0042'"),
        typed("nothing", "downgrade", "", "no release or revision ''"),
        typed("base", "downgrade", "base", "no release or revision 'base'"),
        typed("a strange word", "upgrade", "head~1; DROP TABLE", "no release or revision"),
        typed("up to an older one", "upgrade", "0001", "is older than .* type `kat downgrade`"),
        typed("up by an older code", "upgrade", None, "is older than .* type `kat downgrade`"),
        typed("where it is", "downgrade", "t3", "already: there is nothing to do"),
        typed("up where it is", "upgrade", "t3", "can't upgrade to|already"),
        typed("finalized", "downgrade", None, "needs Kattegat 9.0.0 or newer, since `kat finalize`", finalized),
    ]


def everything() -> list[Wrong]:
    """All of them."""
    return [*drifted(), *foreign(), *plans(), *under_way(), *server(), *targets()]


def settings_of(folder: Path, like: Settings, key: Path) -> Settings:
    """Settings of an install of its own, on the server of another."""
    secrets = folder / "secrets"
    secrets.mkdir(parents=True)
    shutil.copy(like.data_dir / "secrets" / "kat_admin", secrets / "kat_admin")
    shutil.copy(key, folder / "plan-key")
    os.chmod(folder / "plan-key", 0o600)
    return msgspec.structs.replace(like, data_dir=folder)
