"""`kat status`: which release this is and which one the database is for, what runs, what is kept safe and how much."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from sqlalchemy import Connection, text

from kattegat.cli.install import Install, opened
from kattegat.cli.output import emit, table
from kattegat.cli.parked import size
from kattegat.lifecycle import backup, parked
from kattegat.reports.terminal import moment
from kattegat.scheduler import beat, listing
from kattegat.schema import fence, ledger, runs
from kattegat.store import forms, migrate
from kattegat.store import release as this_code

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]
LIVE_SECONDS = 20.0

# As any release has it: named columns only, and none that a later release added.
PROCESSES = text(
    """
    SELECT to_jsonb(p) ->> 'role' AS role, to_jsonb(p) ->> 'host' AS host, to_jsonb(p) ->> 'pid' AS pid,
           to_jsonb(p) ->> 'release' AS release, to_jsonb(p) ->> 'epoch' AS epoch, p.started_at, p.seen_at,
           CAST(extract(epoch FROM now() - p.seen_at) AS double precision) AS seconds
    FROM public.process AS p ORDER BY 1, 2, 3
    """
)
HAS_PROCESSES = text(
    "SELECT count(*) = 2 FROM pg_attribute WHERE attrelid = to_regclass('public.process')"
    " AND attname IN ('started_at', 'seen_at') AND NOT attisdropped"
)
RUNNERS = text("SELECT name, seen_at, extract(epoch FROM now() - seen_at) AS seconds FROM runner ORDER BY name")
COUNTS = text(
    """
    SELECT (SELECT count(*) FROM organisation) AS organisations,
           (SELECT count(*) FROM asset WHERE present) AS assets,
           (SELECT count(*) FROM finding WHERE state <> 'resolved') AS findings,
           (SELECT count(*) FROM evidence) AS evidence
    """
)


def status(*, json: Json = False) -> int:
    """Says which release and revision this is, what runs, what is parked and backed up, and how much there is."""
    with opened(any_release=True) as install:
        document = _document(install)
    emit(document, json, lambda console: _show(console, document))
    return 0


def _document(install: Install) -> dict[str, Any]:
    with install.database.begin("kat_owner") as connection:
        revision = migrate.current(connection)
        recorded = this_code.recorded(connection)
        held = ledger.present(connection)
        epoch = fence.epoch(connection) if held else None
        run = runs.open_run(connection) if held else None
        away = parked.everything(connection)
        own = revision == migrate.head()
        document: dict[str, Any] = {
            "release": beat.release(),
            "revision": revision,
            "data_dir": str(install.settings.data_dir),
            "needed": {"release": recorded.release, "revision": recorded.revision} if recorded else None,
            "oldest_reader": _oldest(connection, recorded, own=own) if held else None,
            "epoch": epoch,
            "change": None if run is None else {"id": run.id, "kind": run.kind, "by": run.by_whom, "host": run.host},
            "problem": _problem(connection, revision),
            "backup": _backup(install),
            "parked": {"count": len(away), "size": sum(entry.size for entry in away)},
            "processes": _processes(connection),
            "runners": [],
            "counts": {},
            "tasks": [],
        }
        if own:
            # Of another release's tables nothing is known here.
            document["runners"] = [
                {
                    "name": row.name,
                    "seen_at": row.seen_at,
                    "alive": row.seconds is not None and row.seconds < LIVE_SECONDS,
                }
                for row in connection.execute(RUNNERS)
            ]
            document["counts"] = connection.execute(COUNTS).one()._asdict()
            document["tasks"] = [
                {"kind": kind, "state": state, "count": count}
                for (kind, state), count in sorted(listing.counts(connection).items())
            ]
    return document


def _oldest(connection: Connection, recorded: this_code.Release | None, *, own: bool) -> str | None:
    if recorded is not None and recorded.oldest_reader:
        return recorded.oldest_reader
    return forms.oldest_reader(connection) if own else None


def _problem(connection: Connection, revision: str | None) -> str | None:
    """Why this release could not work on the database as it is, and what to type."""
    if revision is None:
        return "The database is empty: kat up makes the install."
    try:
        migrate.check(connection, revision, migrate.head(), migrate.config())
    except this_code.WrongReleaseError as problem:
        return str(problem)
    return None


def _backup(install: Install) -> dict[str, Any] | None:
    found = backup.newest(backup.default_place(install.settings))
    if found is None:
        return None
    return {
        "name": found.name,
        "created_at": found.manifest.created_at,
        "release": found.manifest.release,
        "proven_at": found.proof.at if found.proof else None,
    }


def _processes(connection: Connection) -> list[dict[str, Any]]:
    if not connection.execute(HAS_PROCESSES).scalar():
        return []
    return [
        {
            "role": row.role,
            "host": row.host,
            "pid": int(row.pid),
            "release": row.release,
            "since": row.started_at,
            "seen_at": row.seen_at,
            "epoch": None if row.epoch is None else int(row.epoch),
            "alive": row.seconds < LIVE_SECONDS,
        }
        for row in connection.execute(PROCESSES)
    ]


def _show(console: Console, document: dict[str, Any]) -> None:
    console.print(
        f"Kattegat {document['release']}, schema revision {document['revision']}, data in {document['data_dir']}",
        markup=False,
    )
    needed = document["needed"]
    if needed:
        oldest = document["oldest_reader"]
        reach = f"; Kattegat {oldest} and newer can read what is in it" if oldest else ""
        console.print(
            f"The database is for Kattegat {needed['release']} (revision {needed['revision']}){reach}.", markup=False
        )
    if document["problem"]:
        console.print(document["problem"], style="red", markup=False)
    cells = [
        (
            entry["role"],
            entry["release"],
            entry["host"],
            entry["pid"],
            moment(entry["since"]),
            entry["epoch"],
            "alive" if entry["alive"] else "silent",
        )
        for entry in document["processes"]
    ]
    cells += [
        ("runner", "", row["name"], "", "", "", "alive" if row["alive"] else "silent") for row in document["runners"]
    ]
    columns = ["process", "release", "host", "pid", "since (UTC)", "epoch", ""]
    console.print(table(columns, cells, empty="Nothing runs: kat up starts it."))
    made = document["backup"]
    if made is None:
        console.print("No backup yet: kat backup create makes one.")
    else:
        proven = f"proven {made['proven_at']}" if made["proven_at"] else "not proven: kat backup verify proves it"
        console.print(f"Newest backup {made['name']}, of {made['created_at']}, {proven}.", markup=False)
    aside = document["parked"]
    if aside["count"]:
        console.print(f"{aside['count']} things are parked, about {size(aside['size'])}: kat parked list shows them.")
    if document["counts"]:
        console.print(", ".join(f"{count:,} {name}" for name, count in document["counts"].items()))
    console.print(", ".join(f"{t['count']} {t['kind']} {t['state']}" for t in document["tasks"]), style="dim")
