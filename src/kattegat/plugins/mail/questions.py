"""DNS questions without input or output: what an evaluation needs to know, and the answers it gets.

An evaluation is a generator that yields a `Question`, is sent the `Answer`, and returns its result. The same
generator then runs against answers that were recorded earlier (`run` with `recorded`) and against a live resolver
(`run_async` in a scanner's fetch).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from typing import Literal, TypeAlias, TypeVar, cast

import msgspec

from kattegat.errors import KattegatError

RdType: TypeAlias = Literal["A", "AAAA", "MX", "PTR", "TXT"]
Status: TypeAlias = Literal["ok", "nxdomain", "nodata", "timeout", "servfail"]


class Question(msgspec.Struct, frozen=True):
    """A DNS question.

    `name` is in lower case without the final dot. Labels are joined by "." with no escapes: they may hold any ASCII
    character but a dot (SPF macros put spaces and slashes into names), so a name in the syntax of a zone file is not
    what this is; build the query from `labels`.
    """

    name: str
    rdtype: RdType

    @property
    def labels(self) -> tuple[bytes, ...]:
        """The labels in wire form, without the empty one of the root."""
        return tuple(label.encode("ascii") for label in self.name.split("."))


class Answer(msgspec.Struct, frozen=True):
    """What DNS said, after following aliases (CNAME, DNAME).

    For status "ok", `names` are addresses (A, AAAA) or host names without the final dot (MX in order of preference,
    "" for the root; PTR), and `texts` are TXT records, the character-strings of each joined (RFC 7208 section 3.3).
    "servfail" stands for every response code other than NOERROR and NXDOMAIN and for a failed DNSSEC validation.
    """

    status: Status
    names: tuple[str, ...] = ()
    texts: tuple[bytes, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether DNS gave no usable answer, so that nothing is known about the name."""
        return self.status in ("timeout", "servfail")

    @property
    def void(self) -> bool:
        """Whether this is a "void lookup" (RFC 7208 section 4.6.4): the name or the type does not exist."""
        return not (self.failed or self.names or self.texts)


class NotRecorded(KattegatError):  # noqa: N818 - says what happened, not what went wrong
    """The recorded answers do not hold the answer to `question`; the result of the evaluation is unknown."""

    def __init__(self, question: Question) -> None:
        self.question = question
        super().__init__(
            f"No {question.rdtype} answer for {question.name!r} was recorded: scan again to have it looked up."
        )


T = TypeVar("T")
Asking: TypeAlias = Generator[Question, Answer, T]


def join_texts(records: Iterable[Iterable[bytes]]) -> tuple[bytes, ...]:
    """TXT records, each a list of character-strings, as an `Answer` wants them: joined without a separator."""
    return tuple(b"".join(strings) for strings in records)


def recorded(answers: Mapping[tuple[str, str], Answer]) -> Callable[[Question], Answer]:
    """A resolver that knows only `answers`, by (name, record type); raises `NotRecorded` for any other question."""

    def answer(question: Question) -> Answer:
        try:
            return answers[question.name, question.rdtype]
        except KeyError:
            raise NotRecorded(question) from None

    return answer


def run(asking: Asking[T], answer: Callable[[Question], Answer]) -> T:
    """Run an evaluation to its end with a function that answers at once; what that function raises passes through."""
    try:
        question = next(asking)
        while True:
            question = asking.send(answer(question))
    except StopIteration as stop:
        return cast("T", stop.value)


async def run_async(asking: Asking[T], answer: Callable[[Question], Awaitable[Answer]]) -> T:
    """Run an evaluation to its end with a function that is awaited for each answer."""
    try:
        question = next(asking)
        while True:
            question = asking.send(await answer(question))
    except StopIteration as stop:
        return cast("T", stop.value)
