"""What commands print: one JSON document with `--json`, else tables; progress goes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kattegat.errors import KattegatError
from kattegat.reports.terminal import safe


def console() -> Console:
    """Where results go."""
    return Console(soft_wrap=False, highlight=False)


def progress_console() -> Console:
    """Where progress and remarks go, so that results can be piped."""
    return Console(stderr=True, highlight=False)


def emit(document: Any, as_json: bool, show: Callable[[Console], None]) -> None:
    """Prints the document as JSON, or lets `show` print it for a person."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
        sys.stdout.flush()
    else:
        show(console())


def write_file(path: Path, content: bytes) -> None:
    """Writes a file that a person asked for; raises `KattegatError` with the reason if that can't be done."""
    try:
        path.write_bytes(content)
    except OSError as problem:
        raise KattegatError(f"{path} can't be written ({problem.strerror}); choose another file.") from None


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", empty: str = "") -> Table | Text:
    """A table of plain texts; `empty` is shown where there are no rows."""
    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    count = 0
    for row in rows:
        count += 1
        made.add_row(*(value if isinstance(value, Text) else Text(safe_cell(value)) for value in row))
    return made if count or not empty else Text(empty, style="dim")


def safe_cell(value: Any) -> str:
    """A value as a cell: nothing for None, no control characters."""
    return "" if value is None else "\n".join(safe(line) for line in str(value).split("\n"))
