"""What verifying found."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One thing that is not as it was stored: a sentence, and the records (`record` to `until`) or root it is about.

    `kind` is one of number, duplicate, missing, leaf, metadata, tree, content, pack, row, key, drop, root, chain,
    anchor, cut_off, timestamp.
    """

    kind: str
    text: str
    record: int | None = None
    until: int | None = None
    root: int | None = None


class VerifyReport(msgspec.Struct):
    """The result of verifying one organisation. `ok` when there is no problem.

    `intact` records were checked in full (bytes too when `deep`), `dropped` ones as far as their leaf, `destroyed` ones
    as well, their key being gone. `unused_packs` are objects that no row needs: left by a crash, or to be swept.
    """

    organisation_id: int
    deep: bool
    records: int = 0
    intact: int = 0
    dropped: int = 0
    destroyed: int = 0
    missing: int = 0
    unsealed: int = 0
    roots: int = 0
    anchored: int = 0
    timestamped: int = 0
    unused_packs: list[str] = []
    problems: list[Problem] = []

    @property
    def ok(self) -> bool:
        """Whether everything is as it was stored."""
        return not self.problems

    def add(
        self, kind: str, sentence: str, record: int | None = None, *, until: int | None = None, root: int | None = None
    ) -> None:
        """Notes a problem."""
        self.problems.append(Problem(kind, f"{sentence}.", record, record if until is None else until, root))
