"""The errors that reach a person: each prints as one sentence that says what is wrong and what to do next."""

from __future__ import annotations


class KattegatError(Exception):
    """Base of every error of ours. `str(error)` is one sentence for a person; subclasses carry the data as attributes.

    `exit_code` is what the `kat` command ends with when this error reaches it: 2 for wrong usage, 3 for a job that
    could not be completed, 4 where another release is needed.
    """

    exit_code = 3


class UsageError(KattegatError):
    """What was typed is wrong; nothing has been done."""

    exit_code = 2


class KeyFormatError(UsageError):
    """A text that is no key of its asset type."""

    def __init__(self, type_: str, text: str, reason: str) -> None:
        self.type = type_
        self.text = text
        self.reason = reason
        shown = text if len(text) <= 80 else text[:77] + "..."
        super().__init__(f"{shown!r} is not a {type_} key: {reason}.")
