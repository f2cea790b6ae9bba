"""`kat evidence show|verify|reparse`: the raw bytes, proof that they are whole, and reading them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import Progress
from sqlalchemy import Connection, text

from kattegat.cli import look
from kattegat.cli.install import DEFAULT_ORGANISATION, Install, opened
from kattegat.cli.output import emit, progress_console, table, write_file
from kattegat.evidence import vault, verify
from kattegat.evidence.report import VerifyReport
from kattegat.model.evidence import Evidence
from kattegat.reports.terminal import moment
from kattegat.scheduler import queue

app = App(name="evidence", help="The raw bytes of scans.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]
Organisation = Annotated[str, Parameter(name="--organisation", help="Whose: the organisation's code.")]

LISTED = text(
    """
    SELECT id, recorded_at, scanner, asset_type, asset_key, vantage, size, dropped_at FROM evidence
    WHERE organisation_id = :organisation AND (CAST(:type AS text) IS NULL OR (asset_type = :type AND asset_key = :key))
    ORDER BY recorded_at DESC, id DESC LIMIT :limit
    """
)
# The newest evidence of each source, with its run: what an ingest task of a scan is made of.
REPARSE = text(
    """
    SELECT DISTINCT ON (r.source_id) r.source_id, r.evidence_id, r.started_at, r.ended_at, s.scanner, s.vantage
    FROM run r JOIN source s ON s.organisation_id = r.organisation_id AND s.id = r.source_id
    WHERE r.organisation_id = :organisation AND r.evidence_id IS NOT NULL AND r.outcome = 'ok'
      AND (CAST(:scanner AS text) IS NULL OR s.scanner = :scanner)
      AND EXISTS (SELECT 1 FROM evidence e WHERE e.organisation_id = r.organisation_id AND e.id = r.evidence_id
                  AND e.dropped_at IS NULL)
    ORDER BY r.source_id, r.started_at DESC
    """
)


@app.command
def show(
    which: str | None = None,
    /,
    *,
    organisation: Organisation = DEFAULT_ORGANISATION,
    save: Path | None = None,
    limit: int = 50,
    json: Json = False,
) -> int:
    """Lists evidence, or shows one record with its parts.

    Parameters
    ----------
    which
        The number of a record, or the key of an asset whose records are listed; all without it.
    save
        Write the record's bytes to this file (as a scanner's recorded evidence).
    limit
        How many rows at most.
    """
    look.check_limit(limit)
    with opened() as install:
        number = install.organisation(organisation)
        with install.database.begin("kat_system") as connection:
            # Not isdigit() alone, nor more digits than a record's number has.
            if which is None or not (which.isascii() and which.isdigit() and len(which) <= 18):
                return _list(connection, number, which, limit, json)
            stored = vault.get(connection, vault.open_vault(install.settings), number, int(which))
    if save is not None:
        write_file(save, stored.content)
    document: dict[str, Any] = {
        "id": stored.id,
        "scanner": stored.scanner,
        "plugin_version": stored.plugin_version,
        "asset": {"type": stored.asset_type, "key": stored.asset_key},
        "vantage": stored.vantage,
        "runner": stored.runner,
        "started_at": stored.started_at,
        "ended_at": stored.ended_at,
        "detail": stored.detail,
        "size": stored.size,
        "content_hash": stored.content_hash.hex(),
        "leaf": stored.leaf.hex(),
        "parts": [
            {"name": part.name, "size": len(part.content), "notes": part.notes, "text": _shown(part.content)}
            for part in Evidence.unpack(stored.content).parts
        ]
        if stored.content
        else [],
    }

    def words(console: Console) -> None:
        for key, value in document.items():
            if key != "parts":
                said = value if isinstance(value, str | int) else msgspec.json.encode(value).decode()
                console.print(f"{key.replace('_', ' ')}: {said}", markup=False)
        rows = [(part["name"], part["size"], msgspec.json.encode(part["notes"]).decode(), part["text"][:400])
                for part in document["parts"]]  # fmt: skip
        console.print(table(["part", "bytes", "notes", "content"], rows, title="Parts", empty="No bytes were kept."))

    emit(document, json, words)
    return 0


def _shown(content: bytes) -> str:
    """Bytes for eyes: text where it is text, else hexadecimal."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.hex(" ")


def _list(connection: Connection, number: int, key: str | None, limit: int, json: bool) -> int:
    asset = look.find(connection, number, key, None, None) if key is not None else None
    rows = connection.execute(
        LISTED,
        {"organisation": number, "limit": limit, "type": asset.type if asset else None}
        | {"key": asset.key if asset else None},
    ).all()
    document = {"evidence": [row._asdict() for row in rows]}

    def words(console: Console) -> None:
        cells = [(r.id, moment(r.recorded_at), r.scanner, r.asset_key, r.size, "dropped" if r.dropped_at else "")
                 for r in rows]  # fmt: skip
        columns = ["id", "recorded (UTC)", "scanner", "asset", "bytes", ""]
        console.print(table(columns, cells, empty="There is no evidence yet."))

    emit(document, json, words)
    return 0


@app.command(name="verify")
def verify_(
    *,
    organisation: Organisation = DEFAULT_ORGANISATION,
    quick: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Proves that no record was changed, removed, reordered or cut off. Ends with 3 when one was.

    Parameters
    ----------
    quick
        Without reading the packs: rows, roots and anchors only.
    """
    with opened() as install:
        number = install.organisation(organisation)
        with install.database.begin("kat_system") as connection, Progress(console=progress_console()) as progress:
            bar = progress.add_task("Verifying", total=None)
            report = verify.verify(
                connection,
                vault.open_vault(install.settings),
                number,
                deep=not quick,
                progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    emit(report, json, lambda console: _verdict(console, report))
    return 3 if report.problems else 0


def _verdict(console: Console, report: VerifyReport) -> None:
    for problem in report.problems:
        console.print(problem.text, style="red", markup=False)
    said = {name: getattr(report, name) for name in report.__struct_fields__ if name != "problems"}
    console.print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items()), markup=False)
    if not report.problems:
        console.print("The evidence is whole.", style="green")


@app.command
def reparse(
    *, organisation: Organisation = DEFAULT_ORGANISATION, scanner: str | None = None, json: Json = False
) -> int:
    """Has the newest evidence of every source read again, after a parser was mended. Nothing is sent to any target.

    Parameters
    ----------
    scanner
        Only this scanner's.
    """
    with opened() as install:
        if scanner is not None:
            install.registry.scanner(scanner)
        number = install.organisation(organisation)
        with install.database.begin("kat_system") as connection:
            rows = connection.execute(REPARSE, {"organisation": number, "scanner": scanner}).all()
            known = install.registry.scanners
            tasks = queue.push(
                connection, [_ingest(install, number, row) for row in rows if row.scanner in known], by="reparse"
            )
        waits = "" if "worker" in install.live() else " A worker does it: kat up starts one."
    document: dict[str, Any] = {"sources": len(rows), "queued": len(tasks)}
    emit(document, json, lambda console: console.print(f"{len(tasks)} of {len(rows)} sources are read again.{waits}"))
    return 0


def _ingest(install: Install, organisation: int, row: Any) -> queue.NewTask:
    return queue.NewTask(
        "ingest",
        organisation,
        row.source_id,
        row.scanner,
        payload={
            "evidence_id": row.evidence_id,
            "outcome": "ok",
            "reason": "",
            "started_at": row.started_at.isoformat(),
            "ended_at": row.ended_at.isoformat(),
            "plugin_version": install.registry.scanner(row.scanner).version,
        },
    )
