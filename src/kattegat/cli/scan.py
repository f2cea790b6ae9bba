"""`kat scan`: from names to findings on the terminal."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import text

from kattegat import registry, settings
from kattegat.accounts import audit, consent, networks, organisations
from kattegat.checks import evaluate
from kattegat.cli import follow, given
from kattegat.cli.install import DEFAULT_ORGANISATION, Install, actor, opened
from kattegat.cli.output import emit, progress_console, write_file
from kattegat.cli.supervise import ROLES, ProcessesDiedError, Seat, Supervisor
from kattegat.errors import KattegatError, UsageError
from kattegat.inventory import declare
from kattegat.model import targets as parsing
from kattegat.model.assets import URL, Asset, Hostname, IPAddress, Website
from kattegat.model.verdict import SEVERITIES, rank
from kattegat.reports import contents as report
from kattegat.reports import page, terminal
from kattegat.scheduler import dispatch, job, plan, scans
from kattegat.store.database import DatabaseUnreachableError

STANDARD_INPUT = "/dev/stdin"
POLL_SECONDS = 0.25
STUCK_SECONDS = 900.0
SEEN_SECONDS = 5.0
MOST_DUE = 100_000
CONSENT = "By starting kat scan this person says that the organisation permits the scan of these targets."

RUNNER = text(
    """
    INSERT INTO runner (name, token_hash) VALUES ('local', :hash)
    ON CONFLICT (name) DO UPDATE SET token_hash = excluded.token_hash, revoked_at = NULL
    """
)


def scan(
    *targets: str,
    organisation: Annotated[str, Parameter(name="--organisation")] = DEFAULT_ORGANISATION,
    clearance: Annotated[int, Parameter(name="--clearance")] = 1,
    allow: Annotated[list[str] | None, Parameter(name="--allow")] = None,
    scanner: Annotated[list[str] | None, Parameter(name="--scanner")] = None,
    skip: Annotated[list[str] | None, Parameter(name="--skip")] = None,
    dns_server: Annotated[str | None, Parameter(name="--dns-server")] = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    html: Annotated[Path | None, Parameter(name="--html")] = None,
    fail_on: Annotated[str, Parameter(name="--fail-on")] = "low",
) -> int:
    """Scans targets and reports what is wrong, how that is known, and what could not be judged.

    Ends with 0 (nothing at or above --fail-on), 1 (findings), 2 (wrong usage) or 3 (not complete). Ctrl-C stops
    cleanly; the same command again goes on.

    Parameters
    ----------
    targets
        Host names, addresses, networks (192.0.2.0/24), URLs; `-` or the name of a file reads them, one a line.
    organisation
        Whose targets they are; made if it is new.
    clearance
        How intrusive the scan may be: 0 look-ups only, 1 what a visitor does, 2 usual ports and many requests,
        3 thorough, 4 may disturb.
    allow
        A private or loopback network (CIDR) that is the organisation's own. May be given more than once.
    scanner
        Run this scanner only. May be given more than once.
    skip
        Leave this scanner out. May be given more than once.
    dns_server
        The resolver to ask, ADDRESS[:PORT].
    json
        One JSON document on stdout.
    html
        Write the report to this file as one page.
    fail_on
        From which severity on findings make the exit code 1: critical, high, medium, low or recommendation.
    """
    if fail_on not in SEVERITIES:
        raise UsageError(f"--fail-on {fail_on!r} is no severity; it is one of {', '.join(SEVERITIES)}.")
    if not 0 <= clearance <= 4:
        raise UsageError(f"--clearance {clearance} is not a level; it is 0, 1, 2, 3 or 4.")
    assets = read_targets(targets)
    # All that was typed is looked at before anything is made or started.
    chosen = _choice(scanner, skip)
    organisations.check_code(organisation)
    given.check_networks(allow or ())
    if html is not None and not html.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {html.absolute().parent} for --html; make it first.")
    if dns_server is not None:
        os.environ["KAT_DNS_SERVER"] = dns_server
    given.check_resolver(settings.load().dns_server)
    remarks = progress_console()
    with opened(make=True, progress=lambda said: remarks.print(said, style="dim")) as install:
        if dns_server is not None and "web" in install.live():
            raise UsageError("This install is running with its own resolver: set KAT_DNS_SERVER for kat up instead.")
        contents = perform(install, remarks, organisation, assets, clearance, allow or [], chosen)
    if html is not None:
        write_file(html, page.render(contents).encode("utf-8", "replace"))
    emit(contents, json, lambda console: terminal.show(console, contents))
    if not contents.complete:
        remarks.print(f"kat: the scan is not complete: {terminal.safe(contents.incomplete_because)}", markup=False)
        return 3
    worst = min((rank(finding.severity) for finding in contents.findings), default=len(SEVERITIES))
    return 1 if worst <= rank(fail_on) else 0


def read_targets(arguments: tuple[str, ...]) -> list[Asset]:
    """The assets that the arguments name; raises `UsageError` when there are none."""
    found: dict[Asset, None] = {}
    for argument in arguments:
        if argument in ("-", STANDARD_INPUT):
            found.update(dict.fromkeys(_listed("standard input", sys.stdin.buffer.read)))
        elif _is_file(argument):
            found.update(dict.fromkeys(_listed(argument, Path(argument).read_bytes)))
        else:
            found[parsing.parse(argument)] = None
    if not found:
        raise UsageError("There is nothing to scan: name a host, an address, a network or a URL.")
    return list(found)


def _is_file(argument: str) -> bool:
    """Whether a target is the name of a list: a file, or a pipe such as `<(...)` of a shell."""
    try:
        return stat.S_IFMT(os.stat(argument).st_mode) in (stat.S_IFREG, stat.S_IFIFO)
    except (OSError, ValueError):
        return False


def _listed(name: str, read: Callable[[], bytes]) -> list[Asset]:
    try:
        lines = read().decode("utf-8").splitlines()
    except OSError as problem:
        raise UsageError(f"The list of targets {name} can't be read ({problem.strerror}).") from None
    except UnicodeDecodeError as problem:
        raise UsageError(f"The list of targets {name} is not UTF-8 text (byte {problem.start}).") from None
    try:
        return list(parsing.read(lines))
    except parsing.TargetError as problem:
        raise UsageError(f"{name}: {problem}") from None


def implied(asset: Asset) -> list[Asset]:
    """What a person who names this asset means too: a URL's website, and the host it is on."""
    if isinstance(asset, URL):
        return [asset, *implied(asset.website)]
    if isinstance(asset, Website):
        try:
            return [asset, IPAddress(asset.host)]
        except KattegatError:
            return [asset, Hostname(asset.host)]
    return [asset]


def _choice(scanner: list[str] | None, skip: list[str] | None) -> scans.Choice:
    for name in [*(scanner or ()), *(skip or ())]:
        registry.load().scanner(name)
    return scans.Choice(tuple(scanner) if scanner else None, tuple(skip or ()))


def perform(
    install: Install,
    remarks: Console,
    code: str,
    assets: list[Asset],
    clearance: int,
    allow: list[str],
    chosen: scans.Choice,
) -> report.Contents:
    """Declares the targets, has them scanned, and puts the report together, also of a scan that was stopped."""
    by = actor()
    labels = [asset.key for asset in assets]
    started = install.patiently(lambda: _start(install, by, code, assets, labels, clearance, allow, chosen))
    stopped = ""
    outcome: scans.Outcome = "complete"
    try:
        with interruptible(), processes(install, remarks) as supervisor:
            stopped = _follow(install, remarks, supervisor, started)
    except KeyboardInterrupt:
        outcome, stopped = "stopped", "it was stopped; the same command again goes on where it ended"
    except (ProcessesDiedError, DatabaseUnreachableError) as problem:
        stopped = str(problem)
    return install.patiently(lambda: _end(install, started, code, labels, chosen, outcome, stopped))


class Started(NamedTuple):
    """A scan under way: whose, of which assets, since when."""

    organisation: int
    ids: list[int]
    scan: scans.Opened


def _start(
    install: Install,
    by: str,
    code: str,
    assets: list[Asset],
    labels: list[str],
    clearance: int,
    allow: list[str],
    chosen: scans.Choice,
) -> Started:
    with install.database.begin("kat_system") as connection:
        organisation = organisations.ensure(connection, code, actor=by).id
        if not consent.in_force(connection, organisation):
            consent.grant(connection, organisation, by, CONSENT)
        for network in allow:
            networks.declare(connection, organisation, network, actor=by)
        everything = list(dict.fromkeys(part for asset in assets for part in implied(asset)))
        ids = declare.declare(connection, organisation, [(asset, clearance) for asset in everything], by)
        opened_scan = scans.open_(connection, organisation, labels, chosen, by, clearance=clearance)
        # One row for the act, which names all that it declared.
        declared = {"declared": [str(asset) for asset in everything], "clearance": clearance}
        audit.write(connection, by, "scan.start", str(opened_scan.id), declared, organisation)
        plan.plan(connection, organisation, None, install.registry, only=chosen.only, skip=chosen.skip)
        dispatch.request(connection, organisation, follow.sources(connection, organisation, ids), by)
    return Started(organisation, ids, opened_scan)


def _end(
    install: Install,
    started: Started,
    code: str,
    labels: list[str],
    chosen: scans.Choice,
    outcome: scans.Outcome,
    stopped: str,
) -> report.Contents:
    organisation, ids, opened_scan = started
    with install.database.begin("kat_system") as connection:
        silent = follow.unmeasured(connection, organisation, ids)
        if silent and not stopped:
            key, reason = silent[0]
            others = f" (and {len(silent) - 1} more)" if len(silent) > 1 else ""
            stopped = f"nothing could be measured of {key.removeprefix('internet|')}{others}: {reason}"
        if stopped and outcome == "complete":
            outcome = "incomplete"
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        evaluate.evaluate_due(
            connection, install.registry, now, most=MOST_DUE, options=job.in_force, organisation=organisation
        )
        ended = scans.close(connection, organisation, opened_scan.id, outcome, stopped)
        described = report.Scan(opened_scan.id, organisation, code, labels, ids, opened_scan.started_at, ended, stopped)
        contents = report.build(connection, described, install.registry)
        if chosen != scans.Choice(None, ()) and install.live():
            # What this scan left out is watched again by the install that goes on running.
            plan.plan(connection, organisation, None, install.registry)
    return contents


def _follow(install: Install, remarks: Console, supervisor: Watcher, started: Started) -> str:
    """Shows progress until nothing is left to do; gives the reason if that does not come about."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=remarks)
    bar = progress.add_task("Scanning", total=None)
    moved, seen = time.monotonic(), (-1, -1, -1)
    by = actor()
    asked: set[int] = set()
    told = 0.0

    def look() -> follow.State:
        supervisor.look()
        nonlocal told
        scan = (started.organisation, started.ids, started.scan.started_at)
        with install.database.begin("kat_system") as connection:
            if time.monotonic() - told > SEEN_SECONDS:
                scans.seen(connection, started.organisation, started.scan.id)
                told = time.monotonic()
            # Each once, or a scan whose runner has a slow clock would ask for the same again and again.
            late = set(follow.overlooked(connection, *scan)) - asked
            if late:
                dispatch.request(connection, started.organisation, late, by)
                asked.update(late)
            return follow.state(connection, *scan)

    with Live(progress, console=remarks, refresh_per_second=5, transient=True):
        while True:
            state = install.patiently(
                look, waiting=lambda: progress.update(bar, description="Waiting for the database")
            )
            doing = ", ".join(state.running[:2]) + (" …" if len(state.running) > 2 else "")
            progress.update(
                bar, total=state.sources, completed=state.done, description=f"Scanning {terminal.safe(doing)[:60]:<60}"
            )
            if state.finished:
                return ""
            now = (state.sources, state.done, state.open_tasks)
            if now != seen:
                moved, seen = time.monotonic(), now
            elif time.monotonic() - moved > STUCK_SECONDS:
                left = state.sources - state.done
                return f"{left} scans have not moved for {STUCK_SECONDS / 60:.0f} minutes; kat tasks shows them"
            time.sleep(POLL_SECONDS)


class Watcher:
    """Sees to it that the processes of the install run: those of `kat up`, or our own for as long as the scan takes."""

    def __init__(self, install: Install, remarks: Console) -> None:
        self._install = install
        self._remarks = remarks
        self._own: Supervisor | None = None
        self._seat: Seat | None = None
        self._looked = 0.0

    def look(self) -> None:
        """To be called often: starts what is missing. Raises `WrongReleaseError` when the release was changed."""
        self._install.check_release()
        if self._own is not None:
            self._own.look()
        elif time.monotonic() - self._looked > 5:
            self._looked = time.monotonic()
            # A process of kat up that has died just now is kat up's to start again, not ours.
            if not set(ROLES) - {"runner"} <= self._install.live() and (seat := Seat.take(self._install.settings)):
                self._seat = seat
                self._own = Supervisor(self._install.settings, runner_token(self._install), http=False)
                self._own.start()

    def stop(self) -> None:
        """Stops our own processes, if we started any."""
        if self._own is not None:
            self._own.stop()
        if self._seat is not None:
            self._seat.leave()


@contextmanager
def interruptible() -> Iterator[None]:
    """Being told to end, or losing the terminal, stops a scan as Ctrl-C does: its processes must not stay behind."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    former = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def processes(install: Install, remarks: Console) -> Iterator[Watcher]:
    """A watcher that is stopped whatever happens."""
    watcher = Watcher(install, remarks)
    try:
        yield watcher
    finally:
        watcher.stop()


def runner_token(install: Install) -> Path:
    """The file with the token of this machine's own runner; a new token is made each time, the last one is void."""
    token = secrets.token_urlsafe(32)
    path = install.settings.data_dir / "secrets" / "runner.token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)
    fresh.replace(path)
    with install.database.begin("kat_system") as connection:
        connection.execute(RUNNER, {"hash": hashlib.sha256(token.encode()).digest()})
    return path
