"""The fence: nobody writes with the wrong release, however it came in and however long it slept.

Every table has a statement trigger, which no application role may replace. It takes the advisory lock `KEY` (shared, to
the end of the transaction) and then compares the transaction's `kat.epoch` with the *sequence* `lifecycle.epoch`. A
sequence is read as it is now, also from a transaction whose snapshot is older than the change. A change of release
takes the lock exclusively, so that every writer that was let in has ended, and then moves the epoch on: to odd while it
works, to even when it opens again. What was learned before is no longer right, through any pooler and for any client.

Advisory locks belong to the database they are taken in, so one key serves every database of a server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct
from psycopg.errors import InsufficientPrivilege, LockNotAvailable
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from kattegat.errors import KattegatError

KEY = 0x6B61745F666E6365
"""The advisory lock ("kat_fnce"), one bigint: shared by writers for a transaction, exclusive by a change's session."""
WRONG = "KT001"
"""The SQLSTATE of a refused write; a class of our own, so that nobody takes it for something to try again."""
TRIGGER = "_kat_fence"
INFO = "kat.epoch"
"""Where `close` leaves the change's epoch in `Connection.info`, for whoever sets `kat.epoch` in each transaction."""

DRAIN_SECONDS = 2.0
ROUNDS = 5

# `fence` is what each statement costs. `hold` is met only while a change drains, works or has been: it waits for one
# that may still be called off, so that nobody has to start again for it. An old snapshot would name the old release.
FUNCTIONS = (
    """
    CREATE OR REPLACE FUNCTION lifecycle.fence() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        epoch bigint;
    BEGIN
        IF pg_catalog.pg_try_advisory_xact_lock_shared(KEY) THEN
            SELECT last_value INTO epoch FROM lifecycle.epoch;
            IF epoch::text = pg_catalog.current_setting('kat.epoch', true) THEN
                RETURN NULL;
            END IF;
        END IF;
        PERFORM lifecycle.hold();
        RETURN NULL;
    END $$
    """,
    """
    CREATE OR REPLACE FUNCTION lifecycle.hold() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        epoch bigint;
        taken boolean;
        given text := nullif(pg_catalog.current_setting('kat.epoch', true), '');
    BEGIN
        FOR round IN 1..200 LOOP
            taken := pg_catalog.pg_try_advisory_xact_lock_shared(KEY);
            SELECT last_value INTO epoch FROM lifecycle.epoch;
            IF epoch::text IS DISTINCT FROM given THEN
                RAISE EXCEPTION USING ERRCODE = 'WRONG', MESSAGE = lifecycle.refusal(epoch, given);
            END IF;
            IF taken THEN
                RETURN;
            END IF;
            PERFORM pg_catalog.pg_sleep(0.05);
        END LOOP;
        RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE =
            'Nothing can be written now: the fence of this database is held, and no change of release has begun.';
    END $$
    """,
    """
    CREATE OR REPLACE FUNCTION lifecycle.refusal(epoch bigint, given text) RETURNS text LANGUAGE plpgsql STABLE AS $$
    DECLARE
        wanted text := 'the release that kat status names';
        found jsonb;
    BEGIN
        IF epoch % 2 <> 0 THEN
            RETURN 'A change of release is under way and nobody else may write: wait until it has ended'
                || ' (kat history shows it), or type kat upgrade --resume if it was broken off.';
        END IF;
        IF pg_catalog.current_setting('transaction_isolation') = 'read committed' THEN
            found := lifecycle.release();
        END IF;
        IF found IS NOT NULL THEN
            wanted := pg_catalog.format('Kattegat %s (revision %s)', found->>'release', found->>'revision');
        END IF;
        IF given IS NULL THEN
            RETURN pg_catalog.format('This session has not learned which release the database is for, so it may not'
                || ' write: it is for %s; use the kat commands of that release.', wanted);
        END IF;
        RETURN pg_catalog.format('The release of this database was changed after this session began: now it is for %s;'
            || ' end this session and type kat up of that release.', wanted);
    END $$
    """,
    # The facts are the owner's; this one is for all.
    """
    CREATE OR REPLACE FUNCTION lifecycle.release() RETURNS jsonb LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$ SELECT value FROM lifecycle.fact WHERE name = 'release' $$
    """,
)
NAMES = ["fence", "hold", "refusal", "release"]
RIGHTS = ("GRANT USAGE ON SCHEMA lifecycle TO PUBLIC", "GRANT SELECT ON SEQUENCE lifecycle.epoch TO PUBLIC")

PRESENT = text("SELECT to_regprocedure('lifecycle.fence()') IS NOT NULL")
BODIES = text("SELECT prosrc FROM pg_proc WHERE pronamespace = to_regnamespace('lifecycle') AND proname = ANY (:names)")
ALL_TABLES = text(
    "SELECT c.oid::regclass::text FROM pg_class c"
    " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY c.oid"
)
# A table by name and every partition of it, as far as they lack the trigger or have it in another state than ALWAYS.
UNFENCED = text(
    """
    SELECT leaf.oid::regclass::text AS name, t.oid IS NOT NULL AS weak
    FROM unnest(CAST(:tables AS text[])) AS given(name)
    CROSS JOIN LATERAL (
        SELECT to_regclass(given.name)::oid AS oid
        UNION SELECT relid::oid FROM pg_partition_tree(to_regclass(given.name))
    ) leaf
    LEFT JOIN pg_trigger t ON t.tgrelid = leaf.oid AND t.tgname = :trigger
    WHERE leaf.oid IS NOT NULL AND (t.oid IS NULL OR t.tgenabled <> 'A') ORDER BY leaf.oid
    """
)
EPOCH = text("SELECT last_value FROM lifecycle.epoch")
PREPARED = text("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared LIMIT 5")
HOLDERS = text(
    """
    SELECT l.pid, l.mode = 'ExclusiveLock' AS exclusive, a.usename, a.application_name,
           CAST(a.backend_start AS text) AS since
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.classid = :high AND l.objid = :low AND l.pid IS DISTINCT FROM pg_backend_pid()
    ORDER BY l.pid
    """
)
MINE = text(
    """
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = :high
                   AND objid = :low AND mode = 'ExclusiveLock' AND pid = pg_backend_pid()
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    """
)
HALVES = {"high": KEY >> 32, "low": KEY & 0xFFFFFFFF}


class FenceError(KattegatError):
    """The fence can't be closed or opened; nothing has been changed."""


class PreparedTransactionsError(FenceError):
    """Prepared transactions, which end when somebody says so and write then."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(
            f"Prepared transactions are open in this database ({', '.join(names)}), and they would write after the"
            " change: end each with COMMIT PREPARED or ROLLBACK PREPARED, then type the same command again."
        )


class ChangeRunsError(FenceError):
    """Another change of release has the fence."""

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        super().__init__(
            f"Another change of release runs in this database ({holder}): wait for it, or end it and type"
            " kat upgrade --resume."
        )


class HoldersError(FenceError):
    """Sessions that write and can't be ended by us."""

    def __init__(self, holders: Sequence[Holder], why: str) -> None:
        self.holders = tuple(holders)
        super().__init__(
            f"These sessions still write: {'; '.join(map(str, holders))}; end them ({why}), then type the same"
            " command again."
        )


class PoolerError(FenceError):
    """A connection through a pooler, which does not keep a session."""


class Holder(Struct, frozen=True):
    """A session that holds the fence: a writer in its transaction, or (`exclusive`) a change of release.

    `since` is empty for a session of which we may not know it.
    """

    pid: int
    exclusive: bool
    role: str
    application: str
    since: str

    def __str__(self) -> str:
        name = f" {self.application!r}" if self.application else ""
        since = f" since {self.since[:19]}" if self.since else ""
        return f"session {self.pid}{name} of {self.role}{since}"


class State(Struct, frozen=True):
    """How the fence stands. Odd `epoch` and no `change` means that a change of release was broken off."""

    epoch: int
    change: Holder | None
    writers: tuple[Holder, ...]

    @property
    def open(self) -> bool:
        """Whether no change is under way or broken off."""
        return self.epoch % 2 == 0


def present(connection: Connection) -> bool:
    """Whether this database has the fence's functions."""
    return bool(connection.execute(PRESENT).scalar())


def install(connection: Connection, tables: Iterable[str] | None = None) -> list[str]:
    """Fences these tables (names as SQL writes them; by default every table of schema public) and their partitions.

    To be called by the owner, after `ledger.install`; changes only what is missing and gives the tables it fenced.
    """
    if not _current(connection):
        for statement in (*_functions(), *RIGHTS):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    names = list(connection.execute(ALL_TABLES).scalars()) if tables is None else list(tables)
    missing = connection.execute(UNFENCED, {"tables": names, "trigger": TRIGGER}).all()
    done: dict[str, None] = {}
    for name, weak in missing:
        if name in done:
            continue
        if not weak:
            connection.exec_driver_sql(
                f"CREATE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {name}"
                " FOR EACH STATEMENT EXECUTE FUNCTION lifecycle.fence()"
            )
        # ALWAYS: also in a session that plays the replica, which skips ordinary triggers. ONLY: a partition of its own.
        connection.exec_driver_sql(f"ALTER TABLE ONLY {name} ENABLE ALWAYS TRIGGER {TRIGGER}")
        done[name] = None
    return list(done)


def _functions() -> list[str]:
    return [function.replace("(KEY)", f"({KEY})").replace("'WRONG'", f"'{WRONG}'") for function in FUNCTIONS]


def _current(connection: Connection) -> bool:
    """Whether the functions are those of this release; no start takes locks to replace them by the same."""
    bodies = {function.split("$$")[1] for function in _functions()}
    return bodies == set(connection.execute(BODIES, {"names": NAMES}).scalars())


def hold(connection: Connection) -> None:
    """Keeps every change of release out to the end of this transaction, as a write to a table does.

    For what no trigger sees (making a partition). Raises what the trigger raises.
    """
    connection.execute(text("SELECT lifecycle.hold()"))


def epoch(connection: Connection) -> int:
    """The epoch as it is now, whatever the snapshot."""
    return int(connection.execute(EPOCH).scalar_one())


def state(connection: Connection) -> State:
    """Who holds the fence, and whether it is open."""
    held = holders(connection)
    change = next((holder for holder in held if holder.exclusive), None)
    return State(epoch(connection), change, tuple(holder for holder in held if not holder.exclusive))


def holders(connection: Connection) -> list[Holder]:
    """The other sessions that hold the fence. A prepared transaction has no session and is not among them."""
    return [
        Holder(row.pid, row.exclusive, row.usename or "?", row.application_name or "", row.since or "")
        for row in connection.execute(HOLDERS, HALVES)
        if row.pid is not None
    ]


def close(
    connection: Connection,
    *,
    resume: bool = False,
    seconds: float = DRAIN_SECONDS,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """Keeps all others from writing, ends those that still do, and gives the odd epoch, which this session has then.

    `connection` is the owner's, straight to PostgreSQL, outside a transaction, and holds the fence until `open` or its
    own end. Writers get `seconds` to end their transactions before their sessions are ended; `tell` is told of each.
    With `resume` the session of a change whose tool was killed is ended as well. Safe to call again after that: the
    epoch moves on, and what is left of the former change no longer writes either.

    Raises a `FenceError` of one sentence, and then nothing has changed; a table that lacks the trigger is the caller's.
    """
    with connection.begin():
        _straight(connection)
        _nothing_prepared(connection)
    for attempt in range(ROUNDS):
        if _take(connection, seconds if attempt == 0 else max(seconds, 0.5)):
            break
        with connection.begin():
            _nothing_prepared(connection)
            left = holders(connection)
        change = next((holder for holder in left if holder.exclusive), None)
        if change is not None and not resume:
            raise ChangeRunsError(change)
        for holder in left:
            tell(f"Ending {holder}, which has not ended its transaction.")
            _end(connection, holder)
    else:
        with connection.begin():
            raise HoldersError(holders(connection), "they hold the fence again and again")
    try:
        with connection.begin():
            # A prepared transaction that has written holds the lock itself; this is about the others.
            _nothing_prepared(connection)
            # What the change does must not outlive its epoch in a crash of the server.
            connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
            now = epoch(connection)
            now = _move(connection, now + 1 if now % 2 == 0 else now + 2)
    except BaseException:
        _release(connection)
        raise
    connection.info[INFO] = now
    with connection.begin():
        connection.execute(
            text("SELECT set_config('kat.epoch', :epoch, false), set_config('kat.change', 'on', false)"),
            {"epoch": str(now)},
        )
    return now


def open_(connection: Connection, tables: Iterable[str] | None = None) -> int:
    """Lets processes write again that learn the epoch from now on, and gives it. Fences what is not yet, first.

    `connection` is the one of `close`; `tables` as in `install`.
    """
    with connection.begin():
        if not connection.execute(MINE, HALVES).scalar():
            raise FenceError("The fence was not closed by this session, so it can't be opened by it.")
        install(connection, tables)
    with connection.begin():
        connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
        now = epoch(connection)
        now = _move(connection, now + now % 2)
    with connection.begin():
        connection.exec_driver_sql("RESET kat.epoch")
        connection.exec_driver_sql("RESET kat.change")
    connection.info.pop(INFO, None)
    _release(connection)
    return now


def _move(connection: Connection, to: int) -> int:
    # setval and not nextval: that one writes values ahead to the log, and a crash would skip some.
    return int(connection.execute(text("SELECT setval('lifecycle.epoch', :to)"), {"to": to}).scalar_one())


def _take(connection: Connection, seconds: float) -> bool:
    try:
        with connection.begin():
            connection.execute(
                text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": f"{int(seconds * 1000)}ms"}
            )
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": KEY})
    except DBAPIError as problem:
        if isinstance(problem.orig, LockNotAvailable):
            return False
        raise
    return True


def _release(connection: Connection) -> None:
    with connection.begin():
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": KEY})


def _straight(connection: Connection) -> None:
    """Raises `PoolerError` where the process at the other end is not the one that the driver was told of."""
    driver = connection.connection.driver_connection
    told = driver.info.backend_pid if driver is not None else 0
    if connection.execute(text("SELECT pg_backend_pid()")).scalar() != told:
        raise PoolerError(
            "The connection goes through a pooler, which keeps no session for a change of release: set"
            " KAT_DATABASE_URL to PostgreSQL itself for this command."
        )


def _nothing_prepared(connection: Connection) -> None:
    names = list(connection.execute(PREPARED).scalars())
    if names:
        raise PreparedTransactionsError(names)


def _end(connection: Connection, holder: Holder) -> None:
    """Ends a session, as our role or else as the login we came in with (on a given server all share one login)."""
    for statement in ("SELECT 1", "SET LOCAL ROLE NONE"):
        try:
            with connection.begin():
                connection.exec_driver_sql(statement)
                connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": holder.pid})
            return
        except DBAPIError as problem:
            if not isinstance(problem.orig, InsufficientPrivilege):
                raise
    # It may have ended by itself meanwhile.
    time.sleep(0.1)
    with connection.begin():
        if any(entry.pid == holder.pid for entry in holders(connection)):
            raise HoldersError(
                [holder], f"only a superuser or a member of {holder.role} or of pg_signal_backend may do that"
            )
