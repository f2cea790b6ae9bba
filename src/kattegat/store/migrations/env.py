"""Alembic's environment: the connection of the caller, or the install's own as `kat_owner`."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection

from kattegat.settings import load
from kattegat.store.tables import PARTITIONED, metadata


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Partitions are made at run time and are no drift."""
    if kind == "table" and name is not None:
        return not any(name.startswith(f"{table}_2") for table in PARTITIONED)
    return True


def run(connection: Connection) -> None:
    """Runs the asked-for command on this connection."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=include_name,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    from kattegat.store.database import open_database

    database = open_database(load())
    with database.engine("kat_owner").connect() as own:
        run(own)
        own.commit()
    database.close()
