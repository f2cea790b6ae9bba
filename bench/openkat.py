"""How long an OpenKAT install of 1.20.1 is closed on its way to 1.15.1 and back: a million tasks, a million raw files.

    .venv/bin/python bench/openkat.py [--rows 1000000] [--to 1.15.1] [--bytes-to 1.9.0]

Bytes has one revision since 1.14, so it goes further down, by itself.

Prints a table: seconds per part each way, all of it with the doors closed, beside what pg_dump takes for the same data.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from kattegat.lifecycle.backup import tools
from kattegat.lifecycle.openkat import backups, change, environment, facts, place
from kattegat.lifecycle.openkat.change import Install
from kattegat.lifecycle.openkat.facts import Part
from kattegat.lifecycle.openkat.hops import Shapes
from kattegat.schema import ddl
from kattegat.schema.journal import Progress
from kattegat.store import server

FILL = {
    "scheduler": """
        INSERT INTO schedules (id, scheduler_id, hash, data, enabled, schedule, deadline_at, organisation)
        SELECT gen_random_uuid(), 'boefje', md5(n::text), jsonb_build_object('organization', 'org-' || n % 10,
            'input_ooi', 'Hostname|internet|host-' || n), true, NULL, now(), 'org-' || n % 10
        FROM generate_series(1, {rows} / 10) AS n;
        INSERT INTO tasks (id, scheduler_id, status, type, schedule_id, hash, priority, data, organisation)
        SELECT gen_random_uuid(), 'boefje', (CASE n % 50 WHEN 0 THEN 'QUEUED' WHEN 1 THEN 'CANCELLED' WHEN 2 THEN
            'FAILED' ELSE 'COMPLETED' END)::taskstatus, 'boefje', NULL, md5((n % ({rows} / 10) + 1)::text), n % 1000,
            jsonb_build_object('id', gen_random_uuid(), 'organization', 'org-' || n % 10, 'boefje', jsonb_build_object(
            'id', 'boefje-' || n % 30, 'version', NULL), 'input_ooi', 'Hostname|internet|host-' || n, 'dispatches',
            jsonb_build_array()), 'org-' || n % 10 FROM generate_series(1, {rows}) AS n
    """,
    "bytes": """
        INSERT INTO boefje_meta (id, boefje_id, organization, arguments, input_ooi)
        SELECT md5(n::text)::uuid, 'boefje-' || n % 30, 'org-' || n % 10, '{{}}', 'Hostname|internet|host-' || n
        FROM generate_series(1, {rows}) AS n;
        INSERT INTO raw_file (id, secure_hash, boefje_meta_id, mime_types)
        SELECT gen_random_uuid(), repeat(md5(n::text), 4), md5(n::text)::uuid,
            ARRAY['boefje/boefje-' || n % 30, 'text/plain']
        FROM generate_series(1, {rows}) AS n
    """,
    "katalogus": "INSERT INTO organisation (id, name) SELECT 'org-' || n, n FROM generate_series(1, 10) AS n",
    "rocky": "INSERT INTO tools_organization (name, code) SELECT n, 'org-' || n FROM generate_series(1, 10) AS n",
}


def build(running: server.Running, part: Part, rows: int) -> environment.Dsn:
    """A part of 1.20.1 in a database of its own, filled."""
    from kattegat.lifecycle.openkat import recognise

    dsn = environment.dsn(running.dsn("kat_admin", "postgres"))
    with psycopg.connect(dsn.conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {part} OWNER kat_owner")
    dsn = dsn.with_(dbname=part)
    with psycopg.connect(dsn.conninfo()) as connection:
        connection.execute("ALTER SCHEMA public OWNER TO kat_owner; SET ROLE kat_owner")
        for statement in ddl.build(facts.shape(part, facts.revision_of(part, "1.20.1"))):
            connection.execute(statement.encode())
        if part == "rocky":
            for app, names in recognise.migrations_of("1.20.1").items():
                for name in names:
                    connection.execute(
                        "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, now())", [app, name]
                    )
        else:
            connection.execute("INSERT INTO alembic_version VALUES (%s)", [facts.revision_of(part, "1.20.1")])
        connection.execute(FILL[part].format(rows=rows).encode())
    with psycopg.connect(dsn.conninfo(), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    return dsn


def timed(install: Install, release: str) -> tuple[float, dict[str, float], float]:
    """Seconds of a whole change, per part, and of its longest step."""
    parts: dict[str, float] = {}
    longest = 0.0

    def report(part: Part, progress: Progress) -> None:
        nonlocal longest
        if progress.moment == "done":
            parts[part] = parts.get(part, 0.0) + progress.seconds
            longest = max(longest, progress.seconds)

    began = 0.0

    def closed() -> None:
        nonlocal began
        began = time.monotonic()

    change.go(install, release, before=closed, report=report)
    return time.monotonic() - began, parts, longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--to", default="1.15.1")
    parser.add_argument("--bytes-to", default="1.9.0")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kat-bench-") as folder:
        Path(folder).chmod(0o711)
        running = server.ensure(Path(folder, "data"))
        try:
            print(f"PostgreSQL {running.version}, {given.rows:,} tasks and {given.rows:,} raw files")
            dsns = {part: build(running, part, given.rows) for part in facts.PARTS}
            shapes = Shapes(running.dsn("kat_admin", "postgres"))
            install = Install({part: place.find(part, dsn) for part, dsn in dsns.items()}, dict.fromkeys(dsns, shapes))
            alone = Install({"bytes": install.places["bytes"]}, {"bytes": shapes})
            rest = Install({part: one for part, one in install.places.items() if part != "bytes"}, install.shapes)
            dumped = {}
            for part, where in install.places.items():
                way = backups.reach(where)
                text, more = way.for_tools(way.database)
                began = time.monotonic()
                dump = [tools.find(way).folder / "pg_dump", "-d", text, "-Fd", "-f", Path(folder, f"{part}.dump")]
                subprocess.run([*dump, "--compress", "1"], env=more, check=True)
                dumped[part] = time.monotonic() - began
            ways = []
            for each, goal in ((rest, given.to), (alone, given.bytes_to)):
                ways.append((timed(each, goal), timed(each, "1.20.1")))
                change.open_all(each)
            down, up = (
                (sum(way[n][0] for way in ways), ways[0][n][1] | ways[1][n][1], max(way[n][2] for way in ways))
                for n in (0, 1)
            )
            print(f"{'':12}{'pg_dump':>10}{'down':>10}{'up':>10}   seconds")
            for part in dsns:
                print(f"{part:12}{dumped[part]:10.1f}{down[1].get(part, 0):10.1f}{up[1].get(part, 0):10.1f}")
            print(f"{'closed':12}{sum(dumped.values()):10.1f}{down[0]:10.1f}{up[0]:10.1f}")
            print(f"{'longest step':12}{'':10}{down[2]:10.1f}{up[2]:10.1f}")
        finally:
            server.stop(Path(folder, "data"), "immediate")


if __name__ == "__main__":
    main()
