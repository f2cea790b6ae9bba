"""Sequences that are no identity column's own: parked and brought back, made, owned, counting otherwise."""

from __future__ import annotations

from typing import Any

import msgspec

from kattegat.schema import ddl
from kattegat.schema.draft import Draft, away, either, home, note, returned
from kattegat.schema.ledger import Entry
from kattegat.schema.shape import Sequence


def park_sequence(draft: Draft, name: str, shape: Sequence) -> None:
    """Parks a sequence that the target does not know; it keeps its place."""
    entry = draft.id()
    draft.add(
        "park sequence",
        name,
        f"the sequence {name} is parked",
        _park_sequence(name, entry, shape),
        _back_sequence(name, entry),
        undo_words=f"the sequence {name} comes back where it had got to",
        loss="parked",
    )


def make_sequence(draft: Draft, name: str, shape: Sequence) -> None:
    """Makes a sequence; once parked, it is brought back instead. Which column owns it is said later."""
    entry = draft.id()
    make = [ddl.create_sequence(name, shape), *([ddl.set_owner(name, "sequence", shape.owner)] if shape.owner else [])]
    make += ddl.grants(name, "sequence", {}, shape.grants)
    draft.add(
        "make sequence",
        name,
        f"the sequence {name} is made",
        [either(entry, _back_sequence(name, entry), make)],
        _park_sequence(name, entry, shape),
        undo_words=f"the sequence {name} is parked",
        loss="made",
    )


def bring_back_sequence(draft: Draft, name: str, before: Entry, shape: Sequence) -> None:
    """Brings back a sequence that an earlier change has parked."""
    words = f"the sequence {name} comes back where it had got to"
    draft.add("bring back sequence", name, words, _back_sequence(name, before.id),
              _park_sequence(name, before.id, shape), undo_words=f"the sequence {name} is parked")  # fmt: skip


def free_sequence(draft: Draft, name: str, shape: Sequence) -> None:
    """Takes a sequence from the column that owns it, which it would have to follow."""
    owner = ddl.split_column(shape.owned_by or "", draft.source.tables)
    if owner:
        words, back = f"the sequence {name} belongs to no column", f"the sequence {name} belongs to {shape.owned_by}"
        draft.add("free sequence", name, words, [ddl.own_sequence(name, None)], [ddl.own_sequence(name, owner)],
                  undo_words=back)  # fmt: skip


def own_sequence(draft: Draft, name: str, shape: Sequence) -> None:
    """Gives a sequence to the column of the target that owns it."""
    owner = ddl.split_column(shape.owned_by or "", draft.target.tables)
    if owner:
        words, back = f"the sequence {name} belongs to {shape.owned_by}", f"the sequence {name} belongs to no column"
        draft.add("own sequence", name, words, [ddl.own_sequence(name, owner)], [ddl.own_sequence(name, None)],
                  undo_words=back)  # fmt: skip


def alter_sequence(draft: Draft, name: str, mine: Sequence, theirs: Sequence) -> None:
    """How a sequence counts, and who may use it."""
    do, undo = [], []
    apart: dict[str, Any] = {"owned_by": None, "owner": "", "grants": {}}
    if msgspec.structs.replace(mine, **apart) != msgspec.structs.replace(theirs, **apart):
        there, back = draft.id(), draft.id()
        do.append(_count(name, theirs, keep=there, keep_back=back))
        undo.append(_count(name, mine, keep=back, keep_back=there))
    do += ddl.grants(name, "sequence", mine.grants, theirs.grants)
    undo += ddl.grants(name, "sequence", theirs.grants, mine.grants)
    if do:
        draft.add("change sequence", name, f"the sequence {name} counts otherwise, or others may use it", do, undo)


def _count(name: str, shape: Sequence, *, keep: int, keep_back: int) -> str:
    """One statement that changes how a sequence counts. Where it had got to out of the new bounds is kept for the way
    back, so that no number is given twice then."""
    place = ddl.name(name)
    told = f"{ddl.literal(name)}, {ddl.literal(name)}, pg_catalog.jsonb_build_object('last', was)"
    further = "greatest" if shape.increment > 0 else "least"
    return f"""DO $kat_n$
DECLARE
    was bigint;
    called boolean;
    kept bigint := (SELECT (e.shape->>'last')::bigint FROM parked.entry AS e
        WHERE e.id = {keep_back} AND e.state = 'parked');
    now bigint;
BEGIN
    SELECT last_value, is_called INTO was, called FROM {place};
    now := greatest({shape.minimum}, least({shape.maximum}, {further}(was, kept)));
    IF was NOT BETWEEN {shape.minimum} AND {shape.maximum} THEN
        PERFORM parked.note({keep}, 'counter', {told});
    END IF;
    EXECUTE {ddl.literal(ddl.alter_sequence(name, shape) + " RESTART WITH ")} || now;
    PERFORM pg_catalog.setval({ddl.literal(place)}::regclass, now, now = kept OR (now = was AND called));
    PERFORM parked.returned({keep_back});
END $kat_n$"""  # noqa: S608


def _park_sequence(name: str, entry: int, shape: Sequence) -> list[str]:
    return [
        *away("SEQUENCE", name, entry, f"s{entry}"),
        note(entry, "sequence", name, f"parked.s{entry}", shape),
    ]


def _back_sequence(name: str, entry: int) -> list[str]:
    return [*home("SEQUENCE", name, entry, f"s{entry}"), returned(entry)]
