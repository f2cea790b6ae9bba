"""The web application: the door for runners, the health of the install, and a page that says what this is."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, MediaType, Response, get
from sqlalchemy.exc import SQLAlchemyError

from kattegat.errors import KattegatError
from kattegat.evidence import vault as vaults
from kattegat.evidence.vault import Entry, Vault
from kattegat.registry import Registry
from kattegat.scheduler import beat, job
from kattegat.settings import Settings
from kattegat.store import migrate
from kattegat.store.database import Database
from kattegat.web import door
from kattegat.web.errors import HANDLERS

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Kattegat</title></head>
<body>
<h1>Kattegat</h1>
<p>This is an install of Kattegat, which keeps watch over the systems of one or many organisations.</p>
<p>It is used with the command <code>kat</code> on this machine: <code>kat status</code>, <code>kat findings</code>,
<code>kat assets</code>. Whether it works: <a href="/health">/health</a>.</p>
</body>
</html>
"""


def create_app(
    database: Database,
    vault: Vault,
    registry: Registry,
    settings: Settings,
    *,
    options: job.Options = job.in_force,
) -> Litestar:
    """The application of this install; `options` gives the settings in force for an organisation's scans."""

    def keep(conn: Any, organisation_id: int, entry: Entry) -> int:
        return vaults.put(conn, vault, organisation_id, [entry])[0]

    @get("/health", sync_to_thread=True)
    def health() -> Response[dict[str, Any]]:
        try:
            with database.begin("kat_system") as conn:
                revision = migrate.current(conn)
        except (KattegatError, SQLAlchemyError):
            return Response(
                {"status": "unavailable", "release": beat.release(), "database": "does not answer"}, status_code=503
            )
        return Response({"status": "ok", "release": beat.release(), "database": "answers", "revision": revision})

    @get("/", media_type=MediaType.HTML, sync_to_thread=False)
    def page() -> str:
        return PAGE

    entrance = door.Door(database, registry, keep, options=options, seconds=settings.scan_seconds or 300)
    return Litestar(
        [door.routes(entrance), health, page], exception_handlers=HANDLERS, openapi_config=None, logging_config=None
    )
