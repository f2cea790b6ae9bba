"""`kat openkat ...`: an OpenKAT install from any release to any other and back, losing nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.console import Console

from kattegat.cli.output import emit, progress_console, table, write_file
from kattegat.errors import UsageError
from kattegat.lifecycle.openkat import advice, backups, change, environment, facts, hops, place, recognise, unpark
from kattegat.lifecycle.openkat.change import Install, Looked
from kattegat.lifecycle.openkat.environment import Dsn, Encryption
from kattegat.lifecycle.openkat.facts import PARTS, Part
from kattegat.lifecycle.openkat.hops import Shapes
from kattegat.reports.terminal import safe
from kattegat.schema.journal import Progress
from kattegat.schema.steps import Plan

app = App(name="openkat", help="An OpenKAT install: from any release to any other and back, losing nothing.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]
Flag = Annotated[bool, Parameter(negative="")]

MIXED = 4
DIFFERS = 3

_CLOSED = "The doors are still closed: `kat openkat open` opens them."


@Parameter(name="*")
@dataclass(frozen=True)
class Databases:
    """Which databases: each by its DSN, or all from the env file of the install.

    Parameters
    ----------
    scheduler
        DSN of the scheduler's (Mula's) database.
    katalogus
        DSN of KATalogus' database.
    bytes
        DSN of Bytes' database.
    rocky
        DSN of Rocky's database.
    env_file
        The env file of the install, which has the DSNs and the keys of KATalogus.
    host_map
        How a host of the env file is reached from here: postgres=127.0.0.1:5432.
    admin
        DSN of a superuser of the server; only its user and password count. Without it each part's own login has to own
        its database.
    catalogue
        A folder of schemas made by `kat openkat snapshot`, asked before the facts.
    """

    scheduler: str | None = None
    katalogus: str | None = None
    bytes: str | None = None
    rocky: str | None = None
    env_file: Path | None = None
    host_map: tuple[str, ...] = ()
    admin: str | None = None
    catalogue: Path | None = None

    def dsns(self) -> tuple[dict[Part, Dsn], Encryption | None]:
        """The DSNs given, those of options before those of the file."""
        found: dict[Part, Dsn] = {}
        encryption = None
        if self.env_file is not None:
            env = environment.read(self.env_file)
            found |= env.dsns()
            encryption = env.encryption()
        hosts = environment.host_map(self.host_map)
        found = {part: environment.mapped(dsn, hosts) for part, dsn in found.items()}
        for part in PARTS:
            given = getattr(self, part)
            if given is not None:
                found[part] = environment.dsn(given, f"--{part}")
        if not found:
            raise UsageError(
                "No database is given: say where they are with --env-file, or with --scheduler, --katalogus, --bytes "
                "and --rocky."
            )
        if self.admin is not None:
            admin = environment.dsn(self.admin, "--admin")
            found = {part: dsn.login(admin) for part, dsn in found.items()}
        return {part: found[part] for part in PARTS if part in found}, encryption

    def install(self) -> Install:
        """The databases, each found to be that of its part."""
        dsns, encryption = self.dsns()
        places = {part: place.find(part, dsn) for part, dsn in dsns.items()}
        shapes: dict[tuple[str, str], Shapes] = {}
        chosen: dict[Part, Shapes] = {}
        for part, where in places.items():
            lobby = where.dsn.with_(dbname="postgres").conninfo()
            chosen[part] = shapes.setdefault(where.dsn.server(), Shapes(lobby, self.catalogue))
        return Install(places, chosen, encryption)


@app.command
def status(databases: Databases | None = None, /, *, json: Json = False) -> int:
    """Which release the databases are of, whether their schemas are really that, and who is connected.

    Ends with 0 for one release, 4 for mixed versions or an unknown one, 3 where a schema is not its revision's.
    """
    install = (databases or Databases()).install()
    looked = [change.look(install, part) for part in install.places]
    verdict = recognise.verdict([one.at for one in looked])
    document: dict[str, Any] = {
        "verdict": msgspec.to_builtins(verdict),
        "parts": {one.part: _part_document(one) for one in looked},
    }
    emit(document, json, lambda console: _show_status(console, looked, verdict))
    if verdict.state != "one":
        return MIXED
    return DIFFERS if any(one.differences for one in looked) else 0


def _part_document(one: Looked) -> dict[str, Any]:
    return {
        "database": one.database,
        "revision": one.at.revision,
        "releases": one.at.releases,
        "words": one.at.words,
        "differences": one.differences,
        "closed": one.door.closed,
        "sessions": [msgspec.to_builtins(session) for session in one.door.sessions],
        "parked": one.kept.parked,
        "set_aside": [msgspec.to_builtins(aside) for aside in one.kept.aside],
        "change": msgspec.to_builtins(one.change) if one.change else None,
        "step_open": one.run is not None,
        "remarks": one.remarks,
    }


def _show_status(console: Console, looked: list[Looked], verdict: recognise.Verdict) -> None:
    cells = [
        (
            one.part,
            one.at.revision or "?",
            f"OpenKAT {recognise.span(one.at.releases)}" if one.at.releases else one.at.words,
            f"{len(one.differences)} differences" if one.differences else "as it should be" if one.at.known else "",
            "closed" if one.door.closed else "open",
            str(len(one.door.sessions)),
        )
        for one in looked
    ]
    console.print(table(["part", "revision", "releases", "schema", "door", "sessions"], cells))
    for one in looked:
        lines = [f"differs: {line}" for line in one.differences]
        lines += [f"connected: {session}" for session in one.door.sessions]
        lines += [f"parked: {line}" for line in one.kept.parked]
        lines += [f"set aside: {aside.rows} of {aside.table} ({aside.reason})" for aside in one.kept.aside]
        lines += list(one.remarks)
        if one.change:
            state = "has not ended" if one.change.state == "running" else "is done; the doors are still closed"
            lines.append(f"the change to OpenKAT {one.change.target} {state}")
        for line in lines:
            console.print(f"{one.part}: {safe(line)}", markup=False)
    console.print(f"{verdict.words}.", markup=False, style="bold")
    for line in verdict.mend:
        console.print(line, markup=False)


@app.command
def plan(databases: Databases | None = None, /, *, to: str, sql: Flag = False, json: Json = False) -> int:
    """What going to a release will do to each part, step by step; changes nothing.

    Parameters
    ----------
    to
        The release: 1.18.2.
    sql
        Print the SQL texts too.
    """
    install = (databases or Databases()).install()
    release = _named(to)
    found = change.plans(install, release)
    at = recognise.verdict([change.look(install, part).at for part in install.places])
    start = at.releases[-1] if at.releases else None
    document = {
        "to": release,
        "parts": {part: [_hop_document(*one, sql=sql) for one in way] for part, way in found.items()},
        "before": [msgspec.to_builtins(one) for one in advice.before()],
        "after": [msgspec.to_builtins(one) for one in advice.after(start, release)],
    }

    def show(console: Console) -> None:
        _show_advice(console, "Before", advice.before())
        for part, way in found.items():
            if not way:
                console.print(f"{part}: nothing to do.", markup=False)
            for source, goal, steps in way:
                _show_plan(console, f"{part}: {source} to {goal}", steps, sql)
        _show_advice(console, "After", advice.after(start, release))

    emit(document, json, show)
    return 0


def _hop_document(source: str, goal: str, steps: Plan, *, sql: bool) -> dict[str, Any]:
    listed = []
    for step in steps.steps:
        one = {"kind": step.kind, "target": step.target, "words": step.words, "way_back": step.undo_words,
               "loss": step.loss, "lock": step.lock, "rows": step.rows, "seconds": step.seconds}  # fmt: skip
        listed.append(one | ({"sql": list(step.do), "sql_back": list(step.undo)} if sql else {}))
    return {"from": source, "to": goal, "steps": listed}


def _show_plan(console: Console, title: str, steps: Plan, sql: bool) -> None:
    cells = [(n, step.words, f"{step.rows:,}" if step.rows else "", step.loss) for n, step in enumerate(steps.steps, 1)]
    console.print(table(["", "step", "rows", "data"], cells, title=title, empty=f"{title}: no step."))
    if sql:
        for statement in steps.statements():
            console.print(f"{statement};", markup=False, highlight=False, soft_wrap=True)


def _show_advice(console: Console, title: str, listed: list[advice.Advice]) -> None:
    console.print(title, style="bold")
    for one in listed:
        console.print(f"  {one.words}", markup=False, soft_wrap=True)
        for name, commands in (("docker compose", one.compose), ("Debian packages", one.debian)):
            for command in commands:
                console.print(f"    {name}: {command}", markup=False, soft_wrap=True)


@app.command
def downgrade(
    databases: Databases | None = None,
    /,
    *,
    to: str,
    terminate: Flag = False,
    yes: Flag = False,
    backup: bool = True,
    prove: bool = True,
    backup_dir: Path = Path("openkat-backups"),
    json: Json = False,
) -> int:
    """Takes every database to an older release; the doors stay closed until `kat openkat open`.

    Interrupted, the same command goes on with it, and `kat openkat cancel` goes back.

    Parameters
    ----------
    to
        The release: 1.18.2.
    terminate
        End the sessions of others.
    yes
        Do not ask.
    backup
        Take a backup before anything is changed.
    prove
        Prove the backup by restoring it into a scratch database.
    backup_dir
        Where backups go.
    """
    return _change(databases, to, terminate, yes, backup, prove, backup_dir, json, older=True)


@app.command
def upgrade(
    databases: Databases | None = None,
    /,
    *,
    to: str,
    terminate: Flag = False,
    yes: Flag = False,
    backup: bool = True,
    prove: bool = True,
    backup_dir: Path = Path("openkat-backups"),
    json: Json = False,
) -> int:
    """Takes every database to a newer release, with all that was kept; the doors stay closed until `kat openkat open`.

    Parameters
    ----------
    to
        The release: 1.20.1.
    terminate
        End the sessions of others.
    yes
        Do not ask.
    backup
        Take a backup before anything is changed.
    prove
        Prove the backup by restoring it into a scratch database.
    backup_dir
        Where backups go.
    """
    return _change(databases, to, terminate, yes, backup, prove, backup_dir, json, older=False)


def _change(
    databases: Databases | None,
    to: str,
    terminate: bool,
    yes: bool,
    backup: bool,
    prove: bool,
    backup_dir: Path,
    json: bool,
    *,
    older: bool,
) -> int:
    install = (databases or Databases()).install()
    release = _named(to)
    looked = {part: change.look(install, part) for part in install.places}
    goal = change.goals(install, release)
    resumed = any(one.change and one.change.state == "running" for one in looked.values())
    if not resumed:
        _direction(looked, goal, release, older=older)
        found = change.plans(install, release)
        _ask(f"Take {', '.join(install.places)} to OpenKAT {release} in {_count(found)}?", yes)
    said = progress_console()
    made: dict[str, str] = {}

    def before() -> None:
        if not backup:
            return
        words = recognise.verdict([one.at for one in looked.values()]).words
        folder = backups.create(install, backup_dir, words, tell=lambda line: said.print(line, style="dim"))
        if prove:
            backups.prove(install, folder, tell=lambda line: said.print(line, style="dim"))
        made["backup"] = str(folder)

    passed = change.go(
        install,
        release,
        terminate=terminate,
        before=before,
        tell=lambda part, words: said.print(f"{part} {words}", style="dim", markup=False),
        report=lambda part, step: _step(said, part, step),
    )
    after = {part: change.look(install, part) for part in install.places}
    verdict = recognise.verdict([one.at for one in after.values()])
    start = recognise.verdict([one.at for one in looked.values()]).releases
    document = {
        "release": release,
        "verdict": msgspec.to_builtins(verdict),
        "passed": passed,
        "backup": made.get("backup"),
        "parts": {part: _part_document(one) for part, one in after.items()},
        "next": [msgspec.to_builtins(one) for one in advice.after(start[-1] if start else None, release)],
    }

    def show(console: Console) -> None:
        _show_status(console, list(after.values()), verdict)
        if made:
            console.print(f"The backup is in {made['backup']}.", markup=False)
        _show_advice(console, "Next", advice.after(start[-1] if start else None, release))

    emit(document, json, show)
    return 0


def _direction(looked: dict[Part, Looked], goal: dict[Part, str], release: str, *, older: bool) -> None:
    for part, one in looked.items():
        order = facts.chain(part)
        if one.at.revision in order and goal[part] != one.at.revision:
            lower = order.index(goal[part]) < order.index(one.at.revision)
            if lower != older:
                right = "downgrade" if lower else "upgrade"
                mixed = " (for mixed versions bring the parts together one by one)" if len(looked) > 1 else ""
                raise UsageError(
                    f"OpenKAT {release} is {'older' if lower else 'newer'} than what {part} is at ({one.at.words}): "
                    f"type `kat openkat {right} --to {release}` with --{part}{mixed}."
                )


def _count(found: dict[Part, list[tuple[str, str, Plan]]]) -> str:
    steps = sum(len(one[2].steps) for way in found.values() for one in way)
    return f"{steps} steps"


def _step(console: Console, part: Part, progress: Progress) -> None:
    if progress.moment in ("done", "undone"):
        rows = f", {progress.rows:,} rows" if progress.rows else ""
        line = f"{part}: {progress.number} of {progress.of}: {progress.step.words} ({progress.moment}{rows})"
        console.print(line, style="dim", markup=False)
    elif progress.moment == "waits":
        console.print(f"{part}: waits for a lock, held by {progress.said or 'others'}", style="dim", markup=False)


def _ask(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("Nobody is there to be asked; say --yes to begin without a question.")
    progress_console().print(f"{question} [y/N] ", end="", markup=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("Nothing has been changed.")


def _lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False)


def _named(release: str) -> str:
    facts.release(release)
    return release.removeprefix("v")


@app.command
def cancel(databases: Databases | None = None, /, *, json: Json = False) -> int:
    """Goes back to where a change began that was interrupted, or is done and not opened yet; doors stay closed."""
    install = (databases or Databases()).install()
    said = progress_console()
    back = change.cancel(install, report=lambda part, step: _step(said, part, step))
    lines = [f"{part} is at {revision} again." for part, revision in back.items()]
    emit({"back_at": back}, json, lambda console: _lines(console, [*lines, _CLOSED]))
    return 0


@app.command(name="close")
def close_(databases: Databases | None = None, /, *, terminate: Flag = False, json: Json = False) -> int:
    """Closes the doors: no part can connect to its database until `kat openkat open`.

    Parameters
    ----------
    terminate
        End the sessions of others.
    """
    install = (databases or Databases()).install()
    found = change.close_all(install, terminate=terminate)
    past = sorted({role for door in found for role in door.past})
    document = {"closed": list(install.places), "not_kept_out": past}

    def show(console: Console) -> None:
        console.print(f"Closed: {', '.join(install.places)}.", markup=False)
        if past:
            console.print(
                f"{', '.join(past)} can't be kept out, being superusers: stop what logs in as them.", markup=False
            )

    emit(document, json, show)
    return 0


@app.command(name="open")
def open_(databases: Databases | None = None, /, *, force: Flag = False, json: Json = False) -> int:
    """Lets the parts in again, when all of them are of one release.

    Parameters
    ----------
    force
        Although they are not, or a change has not ended.
    """
    install = (databases or Databases()).install()
    opened = change.open_all(install, force=force)
    words = f"Open: {', '.join(opened)}." if opened else "No door was closed."
    emit({"opened": opened}, json, lambda console: console.print(words, markup=False))
    return 0


@app.command(name="backup")
def backup_(
    databases: Databases | None = None,
    /,
    *,
    folder: Path = Path("openkat-backups"),
    terminate: Flag = False,
    prove: bool = True,
    json: Json = False,
) -> int:
    """Takes a backup of every database behind closed doors, and proves it; then the doors are opened again.

    Parameters
    ----------
    folder
        Where backups go.
    terminate
        End the sessions of others.
    prove
        Restore it into a scratch database and compare every row.
    """
    install = (databases or Databases()).install()
    looked = [change.look(install, part) for part in install.places]
    said = progress_console()
    change.close_all(install, terminate=terminate)
    try:
        words = recognise.verdict([one.at for one in looked]).words
        made = backups.create(install, folder, words, tell=lambda line: said.print(line, style="dim"))
        if prove:
            backups.prove(install, made, tell=lambda line: said.print(line, style="dim"))
    finally:
        # Doors that were closed before stay closed.
        if not any(one.door.closed for one in looked):
            change.open_all(install, force=True)
    emit({"backup": str(made), "proven": prove}, json, lambda console: console.print(
        f"The backup is in {made}{', and proven' if prove else ', not proven'}.", markup=False))  # fmt: skip
    return 0


@app.command
def verify(folder: Path, databases: Databases | None = None, /, *, json: Json = False) -> int:
    """Proves a backup: restores each database into a scratch one on its server, and compares every row.

    Parameters
    ----------
    folder
        The backup.
    """
    install = (databases or Databases()).install()
    said = progress_console()
    found = backups.prove(install, folder, tell=lambda line: said.print(line, style="dim"))
    rows = sum(one.rows for held in found.parts.values() for one in held.tables.values())
    document = {"backup": str(folder), "words": found.words, "proven": found.proven, "rows": rows}
    emit(document, json, lambda console: _lines(console, [f"The backup of {found.words} is whole: {rows:,} rows."]))
    return 0


@app.command
def restore(
    folder: Path,
    databases: Databases | None = None,
    /,
    *,
    terminate: Flag = False,
    yes: Flag = False,
    json: Json = False,
) -> int:
    """Puts a backup in the place of the databases; those of now are kept under other names. Doors stay closed.

    Parameters
    ----------
    folder
        The backup.
    terminate
        End the sessions of others.
    yes
        Do not ask.
    """
    install = (databases or Databases()).install()
    backups.read(folder)
    _ask(f"Put the backup {folder} in the place of {', '.join(install.places)}?", yes)
    change.close_all(install, terminate=terminate)
    said = progress_console()
    kept = backups.restore(install, folder, tell=lambda line: said.print(line, style="dim"))
    lines = [f"{part} is restored; what it was is kept as {name}." for part, name in kept.items()]
    emit({"kept": kept}, json, lambda console: _lines(console, [*lines, _CLOSED]))
    return 0


@app.command(name="unpark")
def unpark_(databases: Databases | None = None, /, *, terminate: Flag = False, json: Json = False) -> int:
    """Puts back what was kept, after a newer release has migrated by itself; reports what has no place any more.

    Parameters
    ----------
    terminate
        End the sessions of others while it is done.
    """
    install = (databases or Databases()).install()
    change.close_all(install, terminate=terminate)
    found = unpark.everything(install)
    change.open_all(install, force=True)

    def show(console: Console) -> None:
        for one in found:
            console.print(f"{one.part}: {one.what}: {one.back:,} back, {one.left:,} left; {one.words}", markup=False)
        if not found:
            console.print("Nothing was parked that has its place again.")

    emit({"unparked": [msgspec.to_builtins(one) for one in found]}, json, show)
    return 0


@app.command
def repair(databases: Databases | None = None, /, *, json: Json = False) -> int:
    """Gives schedules and queued tasks with scheduler ids of before 1.19 the form that the scheduler reads since."""
    count = change.repair((databases or Databases()).install())
    emit({"schedules": count}, json, lambda console: console.print(f"{count:,} schedules have the present form now."))
    return 0


@app.command
def forget(databases: Databases | None = None, /, *, yes: Flag = False, json: Json = False) -> int:
    """Drops the record of changes and everything parked. What is parked then is gone.

    Parameters
    ----------
    yes
        Do not ask.
    """
    install = (databases or Databases()).install()
    looked = [change.look(install, part) for part in install.places]
    kept = sum(len(one.kept.parked) + sum(aside.rows for aside in one.kept.aside) for one in looked)
    _ask(f"Drop the record of changes, and {kept} things that are parked or set aside?", yes)
    unpark.forget(install)
    emit({"dropped": kept}, json, lambda console: console.print("The record is gone.", markup=False))
    return 0


@app.command
def snapshot(
    part: Part, databases: Databases | None = None, /, *, release: str, folder: Path, json: Json = False
) -> int:
    """Writes the schema of a part's database into a catalogue, for --catalogue.

    Parameters
    ----------
    part
        scheduler, katalogus, bytes or rocky.
    release
        Which release the database is of.
    folder
        The catalogue.
    """
    install = (databases or Databases()).install()
    if part not in install.places:
        raise UsageError(f"The DSN of {part} is not given; say --{part}.")
    with install.places[part].session() as connection, connection.begin():
        at = place.recorded(connection, part)
        shape = hops.read(connection)
    name = at.revision if at.known and at.revision else _named(release)
    target = folder / part / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(target, shape.document() + b"\n")
    emit({"file": str(target), "tables": len(shape.tables)}, json,
         lambda console: console.print(f"{len(shape.tables)} tables in {target}.", markup=False))  # fmt: skip
    return 0
