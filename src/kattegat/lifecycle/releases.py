"""Which release works on which revision of the schema, and what somebody who names one means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from importlib import resources

import msgspec
from msgspec import Struct

from kattegat.errors import UsageError
from kattegat.schema.stored import Stored
from kattegat.store import release as this_code


class Release(Struct, frozen=True):
    """A release; `revision` is the head of its migrations."""

    name: str
    revision: str
    date: date


class Target(Struct, frozen=True):
    """Where a change leads. `release` is None for a revision that is no release's."""

    release: str | None
    revision: str

    def __str__(self) -> str:
        return f"Kattegat {self.release} (revision {self.revision})" if self.release else f"revision {self.revision}"


class UnknownTargetError(UsageError):
    """A release or revision that neither this release nor the database knows."""

    def __init__(self, wanted: str, known: Sequence[str]) -> None:
        self.wanted = wanted
        self.known = tuple(known)
        super().__init__(
            f"There is no release or revision {wanted!r} that this release or the database knows; there are:"
            f" {', '.join(known)}."
        )


class NotHereError(UsageError):
    """An upgrade to a release whose files this one does not have."""

    def __init__(self, end: Target) -> None:
        self.end = end
        super().__init__(f"This code can't upgrade to {end}: install that release, and type kat upgrade there.")


class NothingOlderError(UsageError):
    """There is no release before the oldest one."""


class _File(Struct, frozen=True):
    release: list[Release]


def everything() -> list[Release]:
    """Every release that this code knows of, oldest first."""
    content = resources.files("kattegat.lifecycle").joinpath("releases.toml").read_bytes()
    return msgspec.toml.decode(content, type=_File).release


def number(name: str) -> tuple[int, ...]:
    """What releases are ordered by: (0, 2, 0) for `0.2.0` and for `0.2.0.dev1`."""
    found = re.match(r"\d+(?:\.\d+)*", name)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def known(stored: Sequence[Stored]) -> list[Target]:
    """Every release that can be named: those of the list, this code's, and those stored in the database."""
    here = this_code.this()
    found = {entry.name: entry.revision for entry in everything()}
    found.setdefault(here.release, here.revision)
    for row in stored:
        # The last revision of a release is the one that it works on.
        if row.release not in found or row.release not in {entry.name for entry in everything()}:
            found[row.release] = row.revision
    ordered = sorted(found.items(), key=lambda item: number(item[0]))
    return [Target(release=name, revision=revision) for name, revision in ordered]


def resolve(wanted: str, stored: Sequence[Stored], revisions: Sequence[str]) -> Target:
    """What `wanted` names: a release, else a revision. `revisions` are those of this code, oldest first.

    Raises `UnknownTargetError` that lists those there are.
    """
    targets = known(stored)
    for target in targets:
        if target.release == wanted:
            return target
    if revisions and wanted == revisions[-1]:
        return Target(release=this_code.this().release, revision=wanted)
    if wanted in {row.revision for row in stored} | set(revisions):
        return Target(release=of_revision(wanted, targets), revision=wanted)
    raise UnknownTargetError(wanted, [str(target) for target in targets])


def of_revision(revision: str, targets: Sequence[Target]) -> str | None:
    """The newest release that works on this revision."""
    names = [target.release for target in targets if target.revision == revision]
    return names[-1] if names else None


def before(current: str, recorded: str | None, own: Sequence[str]) -> Target:
    """Where `kat downgrade` leads when nothing is said: to this code if the database is newer, else one release back.

    `current` is the revision of the database, `recorded` the release that it is for, `own` the revisions of this code.
    Raises `NothingOlderError`.
    """
    here = this_code.this()
    if current not in own:
        return Target(release=here.release, revision=own[-1])
    at = recorded or of_revision(current, known([])) or here.release
    if number(here.release) < number(at):
        return Target(release=here.release, revision=own[-1])
    older = [entry for entry in everything() if number(entry.name) < number(at)]
    if not older:
        raise NothingOlderError(f"Kattegat {at} is the oldest release: there is none to go back to.")
    return Target(release=older[-1].name, revision=older[-1].revision)
