"""The wrong release never writes: sessions of every kind at work while the release changes, again and again.

Each accepted write records the epoch that its session said. Whenever a change has the fence, and all that was let in
has ended, every row since the last change must name the epoch that was open; and while the change holds it none comes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, text

from kattegat.schema import fence
from kattegat.store import migrate, server
from kattegat.store.database import Database, DatabaseUnreachableError
from kattegat.store.release import WrongReleaseError

LOGIN = "kat_pooled"
TABLE = (
    "CREATE TABLE written (id bigint GENERATED ALWAYS AS IDENTITY, by_whom text NOT NULL, epoch bigint NOT NULL);"
    " GRANT INSERT, SELECT ON written TO kat_system"
)
WRITE = "INSERT INTO written (by_whom, epoch) VALUES ('{}', current_setting('kat.epoch', true)::bigint)"
SAY = "SELECT set_config('kat.epoch', '{}', {})"
PATIENCE_SECONDS = 300.0


class Side:
    """What the sessions share: when to end, and what became of their tries."""

    def __init__(self, database: Database, tries: int) -> None:
        """`tries` are those that a session makes in vain before it learns anew."""
        self.database = database
        self.tries = tries
        self.ended = threading.Event()
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.trouble: list[BaseException] = []

    def epoch(self, connection: psycopg.Connection) -> int | None:
        """The epoch to write with, or None while a change has the database."""
        row = connection.execute("SELECT last_value FROM lifecycle.epoch").fetchone()
        return None if row is None or row[0] % 2 else int(row[0])

    def tried(self, name: str, write: Callable[[], object]) -> bool:
        """Counts one try. True if it was accepted; anything but a refusal by the fence is trouble."""
        try:
            write()
        except WrongReleaseError:
            self.refused[name] += 1
        except psycopg.Error as problem:
            if problem.sqlstate != fence.WRONG:
                raise
            self.refused[name] += 1
        else:
            self.accepted[name] += 1
            return True
        return False


Writer = Callable[[Side, str], None]


def process(side: Side, name: str, database: Database) -> None:
    """As a process of ours: learns at its start, and starts anew after so many refusals."""
    while not side.ended.is_set():
        fresh = Database(database._conninfo, login=not database.shared_login)
        try:
            refused = 0
            try:
                fresh.learn()
            except WrongReleaseError:
                time.sleep(0.001)
                continue
            while refused < side.tries and not side.ended.is_set():

                def write(fresh: Database = fresh) -> None:
                    with fresh.begin("kat_system") as connection:
                        connection.exec_driver_sql(WRITE.format(name))

                refused += not side.tried(name, write)
        finally:
            fresh.close()


def straight(side: Side, name: str) -> None:
    """As somebody at psql: says the epoch once for the session."""
    with psycopg.connect(side.database.conninfo("kat_system"), autocommit=True) as connection:
        while not side.ended.is_set():
            epoch = side.epoch(connection)
            if epoch is None:
                time.sleep(0.001)
                continue
            connection.execute(SAY.format(epoch, "false").encode())
            refused = 0
            while refused < side.tries and not side.ended.is_set():
                refused += not side.tried(name, lambda: connection.execute(WRITE.format(name).encode()))


def silent(side: Side, name: str) -> None:
    """As a program that knows nothing of all this; it is never let in."""
    with psycopg.connect(side.database.conninfo("kat_system"), autocommit=True) as connection:
        while not side.ended.is_set():
            accepted = side.tried(
                name, lambda: connection.execute(b"INSERT INTO written (by_whom, epoch) VALUES ('silent', -1)")
            )
            assert not accepted


def old_snapshot(side: Side, name: str) -> None:
    """In REPEATABLE READ: its snapshot is of before the change, and it writes after it."""
    with psycopg.connect(side.database.conninfo("kat_system"), autocommit=True) as connection:
        while not side.ended.is_set():
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT count(*) FROM written")
            epoch = side.epoch(connection)
            if epoch is not None:
                connection.execute(SAY.format(epoch, "true").encode())
                while side.epoch(connection) == epoch and not side.ended.is_set():
                    time.sleep(0.001)
                # At the end of the test there may have been no change that its snapshot is older than.
                for _ in range(side.tries if side.epoch(connection) != epoch else 0):
                    connection.execute("SAVEPOINT s")
                    if not side.tried(name, lambda: connection.execute(WRITE.format(name).encode())):
                        connection.execute("ROLLBACK TO s")
                    if side.ended.is_set():
                        break
            connection.execute("ROLLBACK")


def pooled(side: Side, name: str, url: str) -> None:
    """Through a pooler that gives each transaction to any server process."""
    with psycopg.connect(url, prepare_threshold=None, autocommit=True) as connection:
        while not side.ended.is_set():
            epoch = side.epoch(connection)
            if epoch is None:
                time.sleep(0.001)
                continue
            refused = 0
            while refused < side.tries and not side.ended.is_set():

                def write(epoch: int = epoch) -> None:
                    with connection.transaction():
                        connection.execute("SET LOCAL ROLE kat_system")
                        connection.execute(SAY.format(epoch, "true").encode())
                        connection.execute(WRITE.format(name).encode())

                refused += not side.tried(name, write)


@pytest.fixture
def pooler(server: server.Running, database: Database, run_dir: Path) -> Iterator[str]:
    """The URL of the test's database through PgBouncer in transaction mode, with a login that all roles share."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("pgbouncer is missing; tests/lab/install-packages installs it")
        pytest.skip("pgbouncer is not installed")
    name = psycopg.conninfo.conninfo_to_dict(database.conninfo("kat_owner"))["dbname"]
    folder = run_dir / f"pooler-{os.getpid()}"
    folder.mkdir()
    (folder / "users").write_text(f'"{LOGIN}" "pooled"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{name} = host={server.socket_dir} port=5432 dbname={name}\n"
        f"[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {folder}\nunix_socket_mode = 0777\n"
        f"auth_type = plain\nauth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 2\n"
        f"logfile = {folder}/log\npidfile =\n"
    )
    owner = server.socket_dir.stat()
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner.st_uid, owner.st_gid)
    with ExitStack() as after:
        admin = after.enter_context(psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True))
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pooled' IN ROLE kat_owner, kat_app, kat_system").format(
                sql.Identifier(LOGIN)
            )
        )
        after.callback(admin.execute, sql.SQL("DROP ROLE {}").format(sql.Identifier(LOGIN)))
        as_owner = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        running = subprocess.Popen([program, str(folder / "pgbouncer.ini")], stderr=subprocess.PIPE, **as_owner)  # type: ignore[call-overload]
        after.callback(shutil.rmtree, folder)
        after.callback(running.stderr.close)
        after.callback(running.wait)
        after.callback(running.terminate)
        while not (folder / ".s.PGSQL.6432").exists():
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.02)
        yield f"postgresql://{LOGIN}:pooled@/{name}?host={folder}&port=6432"


@contextmanager
def at_work(side: Side, writers: dict[str, Writer]) -> Iterator[None]:
    """The writers, each in a thread of its own, until the block ends; their trouble comes out."""

    def run(writer: Writer, name: str) -> None:
        try:
            writer(side, name)
        except BaseException as problem:
            side.trouble.append(problem)

    threads = [threading.Thread(target=run, args=(writer, name), name=name) for name, writer in writers.items()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        side.ended.set()
        for thread in threads:
            thread.join()
    if side.trouble:
        raise side.trouble[0]


def until(side: Side, true: Callable[[], bool]) -> None:
    """Waits for the writers to get so far."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if side.trouble:
            raise side.trouble[0]
        assert time.monotonic() < end, (side.accepted, side.refused)
        time.sleep(0.005)


def change(side: Side, owner: Connection, epoch: int, seen: int, refusals: int) -> tuple[int, int]:
    """One change of release while all write; gives the new epoch and the last row there is."""
    assert fence.close(owner) == epoch + 1
    with owner.begin():
        rows = owner.execute(
            text("SELECT epoch, count(*) FROM written WHERE id > :seen GROUP BY epoch"), {"seen": seen}
        ).all()
        last, total = owner.execute(text("SELECT coalesce(max(id), 0), count(*) FROM written")).one()
    assert {row.epoch for row in rows} <= {epoch}, rows
    before = side.refused.copy()
    # The sessions that have to learn, or whose turn it is after the change, try nothing now.
    until(side, lambda: side.refused.total() >= before.total() + refusals // 2)
    with owner.begin():
        assert owner.execute(text("SELECT count(*) FROM written")).scalar_one() == total
    assert fence.open_(owner, ["written"]) == epoch + 2
    return epoch + 2, last


@pytest.mark.real
@pytest.mark.parametrize(
    ("changes", "tries"),
    [pytest.param(3, 600, id="sample"), pytest.param(20, 100_000, id="all", marks=pytest.mark.nightly)],
)
def test_no_write_of_the_wrong_side_is_accepted(database: Database, pooler: str, changes: int, tries: int) -> None:
    side = Side(database, tries // changes // 6)
    through = Database.at(pooler)
    writers: dict[str, Writer] = {
        "process": lambda side, name: process(side, name, database),
        "second process": lambda side, name: process(side, name, database),
        "process behind the pooler": lambda side, name: process(side, name, through),
        "straight": straight,
        "silent": silent,
        "pooled": lambda side, name: pooled(side, name, pooler),
        "old snapshot": old_snapshot,
    }
    let_in = set(writers) - {"silent", "old snapshot"}
    with database.engine("kat_owner").connect() as owner:
        with owner.begin():
            owner.exec_driver_sql(TABLE)
            fence.install(owner, ["written"])
        epoch = seen = 0
        with at_work(side, writers):
            for number in range(changes):
                accepted, refused = side.accepted.copy(), side.refused.copy()
                until(side, lambda: all(side.accepted[name] > accepted[name] for name in let_in))  # noqa: B023
                share = tries * (number + 1) // changes
                until(side, lambda: side.refused.total() >= share - tries // changes // 2)  # noqa: B023
                epoch, seen = change(side, owner, epoch, seen, tries // changes)
                until(side, lambda: all(side.refused[name] > refused[name] for name in writers))  # noqa: B023
            until(side, lambda: side.refused.total() >= tries)
        fence.close(owner)
        with owner.begin():
            found = owner.execute(text("SELECT by_whom, count(*) AS rows FROM written GROUP BY 1"))
            rows = {row.by_whom: row.rows for row in found}
            wrong = owner.execute(
                text("SELECT count(*) FROM written WHERE id > :seen AND epoch <> :epoch"),
                {"seen": seen, "epoch": epoch},
            ).scalar_one()
        owner.invalidate()
    print(f"{side.refused.total()} refused {dict(side.refused)}, {side.accepted.total()} accepted")
    assert wrong == 0
    assert epoch == 2 * changes
    # The client's count and the server's are the same: none was written that was said to be refused.
    assert rows == {name: count for name, count in side.accepted.items() if count}
    assert set(rows) == let_in
    assert side.refused.total() >= tries


def test_a_pooler_is_no_way_for_a_change(pooler: str) -> None:
    through = Database.at(pooler)
    with (
        through.engine("kat_owner").connect() as connection,
        pytest.raises(fence.PoolerError, match="through a pooler"),
    ):
        fence.close(connection)
    through.close()


def test_a_write_that_is_refused_is_one_sentence_and_not_tried_again(database: Database) -> None:
    with database.begin("kat_system") as connection:
        connection.execute(text("SELECT 1"))
    with database.engine("kat_owner").connect() as owner:
        fence.close(owner)
        fence.open_(owner)
    said = rf"now it is for Kattegat .* \(revision {migrate.head()}\)"
    with pytest.raises(WrongReleaseError, match=said) as raised:  # noqa: SIM117
        with database.begin("kat_system") as connection:
            connection.execute(text("INSERT INTO organisation (code, name) VALUES ('a', 'a')"))
    assert not isinstance(raised.value, DatabaseUnreachableError)
    assert raised.value.exit_code == 4
    with pytest.raises(WrongReleaseError, match="was changed after this session began"):
        database.check()
