"""Time stamps (RFC 3161) of sealed roots: an authority signs that a chained hash existed at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import httpx
import rfc3161_client as rfc3161
from cryptography.x509 import Certificate
from sqlalchemy import Connection, text

from kattegat.errors import KattegatError

Ask = Callable[[bytes], bytes]
GRANTED = 0


class TimestampError(KattegatError):
    """No usable time stamp from the authority."""


def authority(url: str, *, seconds: float = 10.0) -> Ask:
    """A time-stamping authority reached over HTTP (RFC 3161 section 3.4)."""

    def ask(request: bytes) -> bytes:
        try:
            answer = httpx.post(
                url, content=request, headers={"Content-Type": "application/timestamp-query"}, timeout=seconds
            )
            answer.raise_for_status()
        except httpx.HTTPError as problem:
            raise TimestampError(
                f"The time-stamping authority {url} does not answer ({problem}); the root is sealed without its stamp."
            ) from problem
        return answer.content

    return ask


def stamp(conn: Connection, organisation_id: int, sequence: int, ask: Ask) -> bool:
    """Has a committed root stamped and keeps the response (DER TimeStampResp); False when it has one already.

    Raises `TimestampError` when the authority does not answer, refuses, or answers about something else.
    """
    chained = conn.execute(
        text(
            "SELECT chained FROM evidence_root WHERE organisation_id = :organisation AND sequence = :sequence"
            " AND timestamp_token IS NULL"
        ),
        {"organisation": organisation_id, "sequence": sequence},
    ).scalar_one_or_none()
    if chained is None:
        return False
    builder = rfc3161.TimestampRequestBuilder().data(bytes(chained)).hash_algorithm(rfc3161.HashAlgorithm.SHA256)
    request = builder.build()
    response = ask(request.as_bytes())
    problem = wrong(response, bytes(chained), nonce=request.nonce)
    if problem:
        raise TimestampError(f"The time-stamping authority's answer is of no use: {problem}.")
    conn.execute(
        text(
            "UPDATE evidence_root SET timestamp_token = :token"
            " WHERE organisation_id = :organisation AND sequence = :sequence"
        ),
        {"organisation": organisation_id, "sequence": sequence, "token": response},
    )
    return True


def wrong(
    response: bytes, chained: bytes, *, nonce: int | None = None, trusted: Sequence[Certificate] = ()
) -> str | None:
    """What is wrong with a stamp for this hash, or None. The signature is checked when `trusted` roots are given."""
    try:
        decoded = rfc3161.decode_timestamp_response(response)
        if decoded.status != GRANTED:
            return "the stamp was not granted"
        imprint = decoded.tst_info.message_imprint.message
    except ValueError as problem:
        return f"it is no time stamp ({problem})"
    if imprint != hashlib.sha256(chained).digest():
        return "it stamps something else"
    if nonce is not None and decoded.tst_info.nonce != nonce:
        return "it answers another request"
    if trusted:
        builder = rfc3161.VerifierBuilder()
        for certificate in trusted:
            builder = builder.add_root_certificate(certificate)
        try:
            builder.build().verify_message(decoded, chained)
        except rfc3161.VerificationError as problem:
            return f"its signature does not hold ({problem})"
    return None
