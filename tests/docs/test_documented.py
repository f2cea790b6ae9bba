"""The reference pages name everything that there is, and nothing that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cyclopts import App

from kattegat import registry
from kattegat.cli.main import app
from kattegat.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def commands(group: App, path: tuple[str, ...] = ()) -> list[str]:
    """Every command, as it is typed."""
    found: list[str] = []
    for name in group:
        if name.startswith("-"):
            continue
        below = group[name]
        inner = commands(below, (*path, name))
        found += inner or [" ".join(("kat", *path, name))]
    return found


def test_every_setting_is_documented() -> None:
    page = (DOCS / "reference" / "settings.md").read_text()
    assert set(re.findall(r"^\| `(KAT_\w+)`", page, re.MULTILINE)) == set(SETTINGS)


def test_every_command_is_documented() -> None:
    page = (DOCS / "reference" / "commands.md").read_text()
    rows = re.findall(r"^\| `(kat [^`]+)`", page, re.MULTILINE)
    documented = {re.sub(r" [A-Z].*$", "", row) for row in rows}
    assert documented == set(commands(app))


def test_every_scanner_and_check_is_documented() -> None:
    pages = "\n".join(path.read_text() for path in (DOCS / "reference" / "plugins").glob("*.md"))
    loaded = registry.load()
    missing = [name for name in [*loaded.scanners, *loaded.checks] if f"`{name}`" not in pages]
    assert missing == []


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT).as_posix() for path in [*DOCS.rglob("*.md"), ROOT / "README.md"])
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_table_of_openkats_finding_types_is_that_of_the_checks() -> None:
    page = (DOCS / "reference" / "openkat.md").read_text()
    table = {
        (name, check)
        for name, checks in re.findall(r"^\| ([A-Z][\w.-]+) \| (`.+`) \|$", page, re.MULTILINE)
        for check in re.findall(r"`([^`]+)`", checks)
    }
    assert table == {(name, spec.name) for spec in registry.load().checks.values() for name in spec.openkat}
