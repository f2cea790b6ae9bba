"""Which part a database belongs to, which releases its revision belongs to, and whether the parts fit together.

Pure functions of what was read. Revision ids repeat between parts (`0003` is in three of them), so a part is known by
its tables, and a revision is looked up only within its part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from kattegat.lifecycle.openkat import facts
from kattegat.lifecycle.openkat.facts import OWN_APPS, PARTS, Part

# All of the first and one of the second are there at every revision of the part.
_TELLING: dict[Part, tuple[frozenset[str], frozenset[str]]] = {
    "scheduler": (frozenset({"alembic_version", "tasks"}), frozenset({"tasks"})),
    "katalogus": (frozenset({"alembic_version", "organisation"}), frozenset({"setting", "settings", "boefje"})),
    "bytes": (frozenset({"alembic_version", "boefje_meta", "normalizer_meta"}), frozenset({"boefje_meta"})),
    "rocky": (frozenset({"django_migrations", "tools_organization"}), frozenset({"account_katuser"})),
}
TITLES: dict[Part, str] = {
    "scheduler": "the scheduler (Mula)",
    "katalogus": "KATalogus",
    "bytes": "Bytes",
    "rocky": "Rocky",
}

Migrations = Mapping[str, Set[str]]  # Django app -> names of applied migrations


class At(Struct, frozen=True):
    """Where a part's database is. `revision` is the Alembic revision, or the name of Rocky's schema (the first release
    with it, `1.19`); "" where none is recorded. `releases` are those it belongs to, oldest first."""

    part: Part
    revision: str
    releases: tuple[str, ...]
    words: str  # `0010, OpenKAT 1.19.0–1.20.1 and main`
    known: bool = True  # a revision of this part that the facts have


class Verdict(Struct, frozen=True):
    """How the parts fit together. `releases` are those that all of them belong to; where there is none, `closest` is
    the release that most parts are at, `off` the others, and `mend` what would make them one."""

    state: Literal["one", "mixed", "unknown"]
    releases: tuple[str, ...]
    words: str
    closest: str | None = None
    off: tuple[Part, ...] = ()
    mend: tuple[str, ...] = ()


def part_of(tables: Iterable[str]) -> Part | None:
    """The part that a database with these (unqualified) table names belongs to, or None."""
    have = set(tables)
    found = [part for part, (every, one) in _TELLING.items() if every <= have and one & have]
    return found[0] if len(found) == 1 else None


def at_revisions(part: Part, recorded: Iterable[str]) -> At:
    """Where an Alembic part is, by the rows of its `alembic_version`."""
    rows = sorted(recorded)
    known = facts.catalogue(part).revisions
    if not rows:
        return At(part, "", (), "no revision is recorded", known=False)
    if len(rows) > 1:
        merge = next((name for name, one in known.items() if sorted(one.follows) == rows), None)
        which = f"which {merge} merges" if merge else "which no revision merges"
        return At(part, " ".join(rows), (), f"{' and '.join(rows)} at once, {which}", known=False)
    revision = rows[0]
    if revision not in known:
        others = [TITLES[other] for other in PARTS if other != part and revision in facts.catalogue(other).revisions]
        hint = f" ({', '.join(others)} has one of that name)" if others else ""
        return At(part, revision, (), f"{revision}, which no release known here has{hint}", known=False)
    releases = releases_at(part, revision)
    if releases:
        return At(part, revision, releases, f"{revision}, OpenKAT {span(releases)}")
    return At(part, revision, (), f"{revision}, {_between(part, revision)}")


def releases_at(part: Part, revision: str) -> tuple[str, ...]:
    """The releases whose part is at this revision (for Rocky: has this schema), oldest first."""
    found = []
    for name in facts.releases():
        try:
            if facts.revision_of(part, name) == revision:
                found.append(name)
        except facts.NoSnapshotError:
            continue
    return tuple(found)


def _between(part: Part, revision: str) -> str:
    order = facts.chain(part)
    heads = [(name, order.index(facts.revision_of(part, name))) for name in facts.releases()]
    here = order.index(revision)
    before = [name for name, at in heads if at < here]
    after = [name for name, at in heads if at > here]
    if not before:
        return f"older than OpenKAT {after[0]}"
    return f"between OpenKAT {before[-1]} and {after[0]}" if after else f"newer than OpenKAT {before[-1]}"


def originals(applied: Migrations) -> dict[str, frozenset[str]]:
    """Applied migrations of OpenKAT's own apps with every squashed one replaced by those that it stands for: an install
    may have recorded the originals, the squashed ones, or both."""
    replaces = facts.catalogue("rocky").replaces
    result: dict[str, frozenset[str]] = {}
    for app in OWN_APPS:
        names: set[str] = set()
        for name in applied.get(app, ()):
            stands_for = replaces.get(f"{app}.{name}")
            names.update(one.partition(".")[2] for one in stands_for) if stands_for else names.add(name)
        if names:
            result[app] = frozenset(names)
    return result


def migrations_of(release: str) -> dict[str, tuple[str, ...]]:
    """The migrations of OpenKAT's own apps that the code of a release records as applied, squashed ones included."""
    order = list(facts.releases())
    upto = order.index(release.removeprefix("v"))
    known = facts.catalogue("rocky").migrations
    result = {app: tuple(name for name, first in known[app].items() if order.index(first) <= upto)
              for app in OWN_APPS}  # fmt: skip
    return {app: names for app, names in result.items() if names}


def at_migrations(applied: Migrations) -> At:
    """Where Rocky is, by its `django_migrations`."""
    have = originals(applied)
    if not have:
        return At("rocky", "", (), "none of OpenKAT's migrations is recorded", known=False)
    known = facts.catalogue("rocky").migrations
    strange = [f"{app}.{name}" for app, names in have.items() for name in sorted(names - known.get(app, {}).keys())]
    if strange:
        return At("rocky", strange[-1], (), f"{', '.join(strange)}, which no release known here has", known=False)
    fits = [name for name in facts.releases() if originals(_sets(migrations_of(name))) == have]
    if not fits:
        last = ", ".join(f"{app} {max(names)}" for app, names in have.items())
        return At("rocky", "", (), f"{last}: between releases", known=False)
    try:
        schema = facts.revision_of("rocky", fits[-1])
    except facts.NoSnapshotError:
        return At("rocky", "", tuple(fits), f"the schema of OpenKAT {span(fits)}")
    if schema in ("1.15", "1.16"):
        # One schema; the code of 1.16 records the squashed migrations beside those that they stand for.
        squashed = any(name.partition(".")[2] in applied.get(name.partition(".")[0], ()) for name in
                       facts.catalogue("rocky").replaces)  # fmt: skip
        schema = "1.16" if squashed else "1.15"
    return At("rocky", schema, tuple(fits), f"the schema of {schema}, OpenKAT {span(fits)}")


def _sets(migrations: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    return {app: frozenset(names) for app, names in migrations.items()}


def span(releases: Iterable[str]) -> str:
    """`1.19.0–1.19.1`; runs of consecutive releases joined by commas, `main` by its name."""
    order = list(facts.releases())
    numbered = sorted(order.index(name) for name in releases if name != "main")
    runs: list[list[int]] = []
    for at in numbered:
        if runs and runs[-1][-1] == at - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    words = [order[run[0]] if len(run) == 1 else f"{order[run[0]]}–{order[run[-1]]}" for run in runs]
    if "main" in releases:
        words.append("main")
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def verdict(parts: Iterable[At]) -> Verdict:
    """Whether the parts are of one release; where not, which are off and what would mend it."""
    found = list(parts)
    if not found:
        return Verdict("unknown", (), "No part was given.")
    order = list(facts.releases())
    common = [name for name in order if all(name in at.releases for at in found)]
    if common:
        return Verdict("one", tuple(common), f"OpenKAT {span(common)}")
    closest = _closest(found, order)
    if closest is None:
        words = "; ".join(f"{at.part} is at {at.words}" for at in found)
        return Verdict("unknown", (), f"No release is recognised: {words}", off=tuple(at.part for at in found))
    fitting = [at for at in found if closest in at.releases]
    off = [at for at in found if closest not in at.releases]
    together = [name for name in order if all(name in at.releases for at in fitting)]
    return Verdict(
        "mixed",
        (),
        f"mixed versions: {_listed([at.part for at in fitting])} "
        f"{'is' if len(fitting) == 1 else 'are'} of OpenKAT {span(together)}, but "
        + "; ".join(f"{at.part} is at {at.words}" for at in off),
        closest=closest,
        off=tuple(at.part for at in off),
        mend=tuple(_mend(at, closest) for at in off),
    )


def _closest(found: list[At], order: list[str]) -> str | None:
    """The release that most parts are at; of several the one with the least way to go for the others, then the newest
    (numbered ones before main)."""
    best: tuple[int, int, bool, int] | None = None
    closest = None
    for place, name in enumerate(order):
        fits = sum(name in at.releases for at in found)
        if not fits:
            continue
        score = (fits, -sum(_way(at, name) for at in found), name != "main", place)
        if best is None or score > best:
            best, closest = score, name
    return closest


def _way(at: At, release: str) -> int:
    """How many revisions, or migrations of Rocky's, lie between; a large number where nobody knows."""
    if release in at.releases:
        return 0
    if at.part == "rocky":
        if not at.releases:
            return 1000
        mine, theirs = (
            {(app, name) for app, names in originals(_sets(migrations_of(one))).items() for name in names}
            for one in (at.releases[-1], release)
        )
        return len(mine ^ theirs)
    order = facts.chain(at.part)
    if at.revision not in order:
        return 1000
    return abs(order.index(at.revision) - order.index(facts.revision_of(at.part, release)))


def _mend(at: At, release: str) -> str:
    if not at.known:
        return (
            f"{at.part}: start the release that made this revision again, or restore its database; "
            f"then `kat openkat status` tells what is left to do."
        )
    try:
        goal = facts.revision_of(at.part, release)
    except facts.NoSnapshotError as problem:
        return str(problem)
    order = facts.chain(at.part)
    direction = "downgrade" if at.revision in order and order.index(at.revision) > order.index(goal) else "upgrade"
    return f"{at.part}: `kat openkat {direction} --to {release}` takes it to {goal}."


def _listed(names: list[Part]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def path(part: Part, start: str, goal: str) -> tuple[str, ...]:
    """The revisions to pass from one to another, both included, downwards or upwards in the part's line.

    Where the line forks (Bytes' 0011 and 0011_2 both follow 0010) a side that is neither start nor goal is left out.
    """
    order = facts.chain(part)
    first, last = order.index(start), order.index(goal)
    line = order[first : last + 1] if first <= last else order[last : first + 1][::-1]
    known = facts.catalogue(part).revisions
    forked = {name for one in known.values() if len(one.follows) > 1 for name in one.follows}
    return tuple(name for name in line if name in (start, goal) or name not in forked)


def neighbours(part: Part, start: str, goal: str) -> tuple[tuple[str, str], ...]:
    """The single steps of `path`."""
    return tuple(pairwise(path(part, start, goal)))
