"""`kat upgrade|downgrade|finalize|history`: changing the release of an install, forward and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kattegat.cli.install import Install, NoInstallError, actor, opened
from kattegat.cli.output import emit, progress_console, table
from kattegat.errors import KattegatError, UsageError
from kattegat.lifecycle import history as past
from kattegat.lifecycle import run, shown
from kattegat.lifecycle.preflight import RefusedError
from kattegat.lifecycle.run import Outcome, Wish
from kattegat.lifecycle.way import Way
from kattegat.reports.terminal import moment
from kattegat.schema import ledger, runs
from kattegat.schema.journal import Progress as StepProgress
from kattegat.store import forms, migrate, revisions
from kattegat.store import release as this_code

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]


class AskError(UsageError):
    """Nobody is there to be asked."""


class Terminal:
    """Tells a person what happens, on stderr; the plan and its SQL go to stdout."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.console = progress_console()
        self.document: dict[str, Any] = {}
        self._bars: Progress | None = None
        self._bar: Any = None
        self._of = ""

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Shows progress bars where somebody looks at them."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bars:
            self._bars = bars
            try:
                yield
            finally:
                self._bars, self._bar, self._of = None, None, ""

    def plan(self, found: Way, numbers: dict[str, int]) -> None:
        """Shows the plan."""
        self.document = shown.document(found, numbers)
        if self.json:
            return
        show_plan(Console(highlight=False, soft_wrap=False), found, self.document)

    def dry(self, found: Way) -> None:
        """Prints the SQL texts."""
        lines = shown.script(found)
        self.document["sql"] = found.plan.statements()
        if not self.json:
            sys.stdout.write("\n".join(lines) + ("\n" if lines else ""))

    def say(self, sentence: str) -> None:
        """A line on stderr."""
        self.console.print(sentence, style="dim", markup=False)

    def part(self, what: str, done: int, total: int) -> None:
        """The progress of a backup."""
        self._show(what, done, total, "")

    def step(self, progress: StepProgress) -> None:
        """The progress of a step."""
        place = f"step {progress.number} of {progress.of}"
        if progress.moment == "waits":
            self.say(f"{place} waits for a lock{f', held by {progress.said}' if progress.said else ''}.")
        elif progress.moment == "batch":
            rate = f"{progress.rows:,} rows, {progress.rows_per_second:,.0f} rows/s"
            self._show(progress.step.words, progress.rows, max(progress.step.rows, progress.rows), rate)
        elif progress.moment == "starts":
            self._show(f"{place}: {progress.step.words}", 0, 1, "")
        else:
            self._show(f"{place}: {progress.step.words}", 1, 1, "")
            rows = f", {progress.rows:,} rows" if progress.rows else ""
            self.say(f"{place}: {progress.step.words} ({progress.moment} in {shown.seconds(progress.seconds)}{rows})")

    def ask(self, question: str) -> bool:
        """Asks on the terminal; without one, raises `AskError`."""
        if not sys.stdin.isatty():
            raise AskError("Nobody is there to be asked; say --yes to begin without a question.")
        self.console.print(f"{question} [y/N] ", end="", markup=False)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def _show(self, what: str, done: int, total: int, said: str) -> None:
        if self._bars is None:
            return
        if what != self._of:
            if self._bar is not None:
                self._bars.remove_task(self._bar)
            self._bar, self._of = self._bars.add_task(what, total=total or None, said=said), what
        self._bars.update(self._bar, completed=done, total=total or None, said=said)


def show_plan(console: Console, found: Way, document: dict[str, Any]) -> None:
    """The plan for a person: what happens to which data, how it comes back."""
    console.print(f"{found.kind.capitalize()} from {found.start} to {found.end}", style="bold")
    cells = [
        (
            step["number"],
            step["words"],
            f"{step['rows']:,}" if step["rows"] else "",
            step["lock"].lower(),
            shown.seconds(step["seconds"]),
            step["data"],
            step["way_back"],
        )
        for step in document["steps"]
    ]
    if cells:
        console.print(table(["", "step", "rows", "lock", "takes", "data", "way back"], cells))
    console.print(shown.summary(document))


def upgrade(
    *,
    to: Annotated[str | None, Parameter(name="--to")] = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
    backup: bool = True,
    resume: Annotated[bool, Parameter(negative="")] = False,
    cancel: Annotated[bool, Parameter(negative="")] = False,
    verify_all: Annotated[bool, Parameter(negative="")] = False,
    accept_plan: Annotated[tuple[str, ...], Parameter(name="--accept-plan")] = (),
    json: Json = False,
) -> int:
    """Takes the database to this release: shows the plan, makes and proves a backup, asks, changes, verifies.

    Parameters
    ----------
    to
        A release or revision, in place of this release.
    dry_run
        Shows the plan and the SQL that would run, and writes nothing.
    yes
        Begins without a question.
    backup
        Makes a backup and proves it first.
    resume
        Goes on with a change that was interrupted.
    cancel
        Takes back what a change that was interrupted has done.
    verify_all
        Compares the values of every column before and after, of large tables too.
    accept_plan
        The SHA-256 of a stored plan to run although its signature can't be verified.
    """
    wish = Wish(
        kind="upgrade",
        to=to,
        dry_run=dry_run,
        yes=yes,
        backup=backup,
        accept=accept_plan,
        everything=verify_all,
    )
    return _change(wish, resume=resume, cancel=cancel, json=json)


def downgrade(
    *,
    to: Annotated[str | None, Parameter(name="--to")] = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
    backup: bool = True,
    resume: Annotated[bool, Parameter(negative="")] = False,
    cancel: Annotated[bool, Parameter(negative="")] = False,
    verify_all: Annotated[bool, Parameter(negative="")] = False,
    accept_plan: Annotated[tuple[str, ...], Parameter(name="--accept-plan")] = (),
    json: Json = False,
) -> int:
    """Takes the database back without losing a row: to this release if the database is newer, else one release back.

    What the older release does not know is kept out of its sight, and comes back with the next upgrade.

    Parameters
    ----------
    to
        A release or revision.
    dry_run
        Shows the plan and the SQL that would run, and writes nothing.
    yes
        Begins without a question.
    backup
        Makes a backup and proves it first.
    resume
        Goes on with a change that was interrupted.
    cancel
        Takes back what a change that was interrupted has done.
    verify_all
        Compares the values of every column before and after, of large tables too.
    accept_plan
        The SHA-256 of a stored plan to run although its signature can't be verified.
    """
    wish = Wish(
        kind="downgrade",
        to=to,
        dry_run=dry_run,
        yes=yes,
        backup=backup,
        accept=accept_plan,
        everything=verify_all,
    )
    return _change(wish, resume=resume, cancel=cancel, json=json)


def _change(wish: Wish, *, resume: bool, cancel: bool, json: bool) -> int:
    _check(wish, resume=resume, cancel=cancel)
    terminal = Terminal(json=json)
    with opened(any_release=True) as install:
        with terminal.bars():
            if resume:
                outcome = run.resume(install.database, terminal)
            elif cancel:
                outcome = run.cancel(install.database, terminal)
            else:
                outcome = change(install, wish, terminal)
        if json:
            emit(terminal.document | {"outcome": outcome}, True, lambda _: None)
        elif outcome is not None:
            terminal.say(ended(outcome))
        elif not wish.dry_run:
            terminal.say("The change had ended already; the database is open again.")
    return 0


def change(install: Install, wish: Wish, terminal: Terminal) -> Outcome | None:
    """The whole procedure on an install; lists every problem where there are several."""
    try:
        return run.change(install.settings, install.database, wish, terminal)
    except RefusedError as problem:
        if len(problem.problems) > 1:
            for sentence in problem.problems:
                terminal.console.print(f"- {sentence}", markup=False)
            raise KattegatError(
                f"{len(problem.problems)} things stand against the {wish.kind} and are said above; nothing was changed."
            ) from problem
        raise


def ended(outcome: Outcome) -> str:
    """How a change ended, in one sentence."""
    closed = f", closed to writers for {shown.seconds(outcome.closed)}" if outcome.closed is not None else ""
    where = f"Kattegat {outcome.release}" if outcome.release else "its release"
    said = "The database is for" if outcome.state == "done" else "Everything was taken back; the database is for"
    return f"{said} {where} (revision {outcome.revision}), after {shown.seconds(outcome.seconds)}{closed}."


def _check(wish: Wish, *, resume: bool, cancel: bool) -> None:
    if resume and cancel:
        raise UsageError("--resume goes on and --cancel goes back; say one of the two.")
    if (resume or cancel) and (wish.to or wish.dry_run or wish.accept):
        raise UsageError("--resume and --cancel go by what was begun; leave --to, --dry-run and --accept-plan out.")
    for text in wish.accept:
        if len(text) != 64 or any(letter not in "0123456789abcdef" for letter in text):
            raise UsageError(
                f"--accept-plan {text[:80]!r} is no SHA-256; it is 64 hexadecimal digits, as the error named it."
            )


def finalize(*, yes: Annotated[bool, Parameter(negative="")] = False, json: Json = False) -> int:
    """Lets this release write its newest forms of documents; from then on older releases can't read what is new.

    Parameters
    ----------
    yes
        Without a question.
    """
    terminal = Terminal(json=json)
    with opened() as install:
        here = this_code.this()
        with install.database.begin("kat_owner") as connection:
            last = forms.finalized(connection)
            waiting = forms.waiting(last, here.release)
        question = "Releases that don't read the new forms can't go on with this database afterwards. Finalize?"
        if waiting and not yes and not terminal.ask(question):
            raise run.DeclinedError("Nothing was changed.")
        with install.database.begin("kat_owner") as connection:
            forms.finalize(connection, forms.Finalized(release=here.release, by_whom=actor(), at=datetime.now(UTC)))
            oldest = forms.oldest_reader(connection)
            this_code.record(connection, this_code.Release(here.release, here.revision, oldest))
    document = {"release": here.release, "forms": waiting, "oldest_reader": oldest}
    said = (
        f"Finalized for Kattegat {here.release}: {len(waiting)} documents have a new form from now on."
        if waiting
        else f"Finalized for Kattegat {here.release}, which writes the same forms as before: going back stays possible."
    )
    emit(document, json, lambda console: console.print(said))
    return 0


def history(*, json: Json = False) -> int:
    """Who changed the release of this database when, from where, how long it took, with which result."""
    with opened(any_release=True) as install, install.database.begin("kat_owner") as connection:
        entries = past.entries(connection)
    cells = [
        (
            entry.id,
            moment(entry.started_at),
            entry.kind,
            _between(entry),
            entry.state + (f": {entry.reason}" if entry.reason else ""),
            "" if entry.seconds is None else shown.seconds(entry.seconds),
            f"{entry.by_whom} on {entry.host}",
            entry.backup,
        )
        for entry in entries
    ]
    columns = ["", "began (UTC)", "", "from, to", "result", "took", "by", "backup"]
    emit(
        {"changes": entries},
        json,
        lambda console: console.print(table(columns, cells, empty="The release of this database was never changed.")),
    )
    return 0


def _between(entry: past.Entry) -> str:
    one, other = entry.from_release or entry.from_revision, entry.to_release or entry.to_revision
    return f"{one} to {other}" if one or other else ""


def automatic() -> None:
    """What `kat up` does first where KAT_UPGRADE is auto: the whole procedure, if the database is for an older release.

    A change to this release that was interrupted is gone on with; everything else is left to whoever looks.
    """
    try:
        with opened(any_release=True) as install:
            with install.database.begin("kat_owner") as connection:
                found = migrate.current(connection)
                interrupted = runs.open_run(connection) if ledger.present(connection) else None
            terminal = Terminal(json=False)
            with terminal.bars():
                if interrupted is not None and interrupted.kind == "upgrade":
                    outcome = run.resume(install.database, terminal)
                elif found is not None and found != migrate.head() and found in revisions.files():
                    outcome = change(install, Wish(kind="upgrade", yes=True), terminal)
                else:
                    return
            if outcome is not None:
                terminal.say(ended(outcome))
    except NoInstallError:
        return
