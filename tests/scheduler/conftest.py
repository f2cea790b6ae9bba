"""What the tests of the scheduler share: an organisation, with assets put in by plain SQL."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Connection, text

from kattegat.model.assets import Asset, type_of
from kattegat.registry import Plugin, Registry
from kattegat.store.database import Database

AddAsset = Callable[..., int]


@pytest.fixture
def conn(database: Database) -> Iterator[Connection]:
    """One transaction of the queue's role, kept until the test ends."""
    with database.begin("kat_system") as connection:
        yield connection


@pytest.fixture
def organisation(database: Database) -> int:
    """An organisation, committed."""
    with database.begin("kat_system") as connection:
        made = connection.execute(text("INSERT INTO organisation (code, name) VALUES ('acme', 'Acme') RETURNING id"))
        return int(made.scalar_one())


@pytest.fixture
def add_asset(database: Database, organisation: int) -> AddAsset:
    """Call it with an asset for its id; `clearance`, `present`, `declared_clearance` as wished."""

    def add(asset: Asset, clearance: int = 0, *, present: bool = True, declared_clearance: int | None = None) -> int:
        with database.begin("kat_system") as connection:
            made = connection.execute(
                text(
                    "INSERT INTO asset (organisation_id, type, key, present, clearance, declared, declared_clearance)"
                    " VALUES (:organisation, :type, :key, :present, :clearance, :declared, :given) RETURNING id"
                ),
                {
                    "organisation": organisation,
                    "type": type_of(asset),
                    "key": asset.key,
                    "present": present,
                    "clearance": clearance,
                    "declared": declared_clearance is not None,
                    "given": declared_clearance,
                },
            )
            return int(made.scalar_one())

    return add


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """The plugin for tests."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "samples"))
    return importlib.import_module("katsample")


@pytest.fixture(scope="session")
def registry(sample: ModuleType) -> Registry:
    """A registry of the plugin for tests alone."""
    return Registry([Plugin("katsample", sample)])
