"""What must be right before a change of release: every check looks, none changes anything, each says one sentence."""

from __future__ import annotations

from collections.abc import Iterable

from kattegat.errors import KattegatError
from kattegat.lifecycle import check_database, check_server
from kattegat.lifecycle.situation import Check, Situation


class RefusedError(KattegatError):
    """The change was not begun; `problems` are all that was found, one sentence each. Nothing has been changed."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(" ".join(self.problems))


def problems(situation: Situation, checks: Iterable[Check]) -> list[str]:
    """Every sentence, in the order of the checks."""
    return [sentence for check in checks for sentence in check(situation)]


# In this order: what a list needs is looked at by the list before it.
OF_SERVER: tuple[Check, ...] = (
    check_server.server_version,
    check_server.standby,
    check_server.read_only,
    check_server.replication_role,
    check_server.pooler,
    check_server.roles,
    check_server.rights,
)
OF_LEDGER: tuple[Check, ...] = (check_database.ours, check_database.ledger_whole)
OF_CHANGE: tuple[Check, ...] = (check_database.open_change, check_database.epoch, check_database.recorded)
OF_DATABASE: tuple[Check, ...] = (
    check_server.connections,
    check_server.event_triggers,
    check_server.prepared,
    check_server.replication,
    check_server.sessions,
    check_server.collation,
    check_database.numbers,
    check_database.fenced,
    check_database.damaged_indexes,
    check_database.unproven_constraints,
    check_database.folders,
)
OF_PLAN: tuple[Check, ...] = (check_database.room,)
