"""What can be wrong with kept evidence, as errors with the data inside."""

from __future__ import annotations

from datetime import datetime

from kattegat.errors import KattegatError, UsageError


class EvidenceError(KattegatError):
    """Base of every error about one record of evidence (`organisation_id`, `evidence_id`)."""

    def __init__(self, organisation_id: int, evidence_id: int, sentence: str) -> None:
        self.organisation_id = organisation_id
        self.evidence_id = evidence_id
        super().__init__(sentence)


class UnknownEvidenceError(EvidenceError):
    """There is no such record in this organisation."""

    exit_code = 2

    def __init__(self, organisation_id: int, evidence_id: int) -> None:
        super().__init__(
            organisation_id,
            evidence_id,
            f"There is no evidence {evidence_id} in this organisation; take its number from `kat asset` or `kat scan`.",
        )


class MissingPackError(EvidenceError):
    """The object that holds the bytes is gone, or too short."""

    def __init__(self, organisation_id: int, evidence_id: int, pack: str, reason: str) -> None:
        self.pack = pack
        super().__init__(
            organisation_id,
            evidence_id,
            f"The bytes of evidence {evidence_id} are missing from the object store ({pack}: {reason}):"
            " restore that object from a backup.",
        )


class ChangedBytesError(EvidenceError):
    """The bytes, or what is recorded about them, are not what was stored."""

    def __init__(self, organisation_id: int, evidence_id: int, what: str) -> None:
        self.what = what
        super().__init__(
            organisation_id,
            evidence_id,
            f"Evidence {evidence_id} was changed after it was stored ({what}): do not rely on it, and restore its pack"
            " and row from a backup.",
        )


class DroppedError(EvidenceError):
    """Retention has dropped the bytes; the leaf is kept."""

    def __init__(self, organisation_id: int, evidence_id: int, at: datetime) -> None:
        self.at = at
        super().__init__(
            organisation_id,
            evidence_id,
            f"The bytes of evidence {evidence_id} were dropped by retention at {at:%Y-%m-%d %H:%M} UTC;"
            " scan again to get new ones.",
        )


class DestroyedKeyError(KattegatError):
    """The organisation's evidence key was destroyed: nothing of it can be read or written again."""

    def __init__(self, organisation_id: int, key_id: int, at: datetime | None) -> None:
        self.organisation_id = organisation_id
        self.key_id = key_id
        self.at = at
        when = f" at {at:%Y-%m-%d %H:%M} UTC" if at else ""
        super().__init__(
            f"The evidence key of organisation {organisation_id} was destroyed{when}, so its evidence can't be read"
            " any more; only a backup from before that time has it."
        )


class WrappedKeyError(KattegatError):
    """An organisation's key that the install key does not open."""

    def __init__(self, organisation_id: int, key_id: int) -> None:
        self.organisation_id = organisation_id
        self.key_id = key_id
        super().__init__(
            f"The install key does not open evidence key {key_id} of organisation {organisation_id}: one of the two"
            " was changed or replaced; restore secrets/install.key and the database from the same backup."
        )


class InstallKeyError(KattegatError):
    """The install key is missing though something was encrypted with it, or its file is damaged."""


class EntryError(UsageError):
    """An entry that can't be stored: nothing of its batch was stored."""

    def __init__(self, index: int, field: str, reason: str) -> None:
        self.index = index
        self.field = field
        super().__init__(f"Entry {index} of the batch can't be kept as evidence: {field} {reason}.")


class StoreError(KattegatError):
    """The object store does not answer or refuses."""


class SweepRoleError(UsageError):
    """A sweep by a role that does not see every row, and would take the objects of others for unused."""


class UnsealedError(EvidenceError):
    """The record is in no sealed root yet."""

    def __init__(self, organisation_id: int, evidence_id: int) -> None:
        super().__init__(
            organisation_id, evidence_id, f"Evidence {evidence_id} is not sealed yet; ask again in two minutes."
        )


class UnseenOrganisationError(UsageError):
    """An organisation that does not exist, or that this role does not see: its evidence can't be told from removed."""

    def __init__(self, organisation_id: int) -> None:
        self.organisation_id = organisation_id
        super().__init__(f"There is no organisation {organisation_id}, or it may not be seen here; choose another one.")
