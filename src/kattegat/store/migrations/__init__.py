"""The revisions and Alembic's environment. Alembic imports this package to find them (`script_location`).

`alembic show` looks for a revision without ever running the environment, so what it looks in is made to know the stored
revisions from here.
"""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory


def _know_stored() -> None:
    original = ScriptDirectory.__init__
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def made(self: ScriptDirectory, dir: Any, *args: Any, **kw: Any) -> None:
        original(self, dir, *args, **kw)
        if Path(dir).resolve() == Path(__file__).resolve().parent:
            from kattegat.store import revisions

            revisions.adopt(self)

    ScriptDirectory.__init__ = made  # type: ignore[method-assign]


_know_stored()
