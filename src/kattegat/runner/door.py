"""The runner's side of the door: the messages of `model.work` over HTTPS or a Unix socket."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from kattegat.errors import KattegatError, UsageError
from kattegat.model.work import Claim, Heartbeat, Jobs, Leases, PermitCall, Permits, Receipt

A = TypeVar("A")
CONTENT = "application/msgpack"


class DoorAway(KattegatError):  # noqa: N818 - as the sentence says it
    """The door gave no answer that can be worked with: it is away, or busy, or has not let us in. Try again later."""


class DoorBusy(DoorAway):
    """The door can't take this one message yet, and may take others."""


class DoorRefused(KattegatError):  # noqa: N818
    """The door will not take this message, however often it is sent."""


class DoorOtherRelease(KattegatError):  # noqa: N818
    """The install behind the door is of another release, and takes nothing from this one."""

    exit_code = 4  # as every process of ours that ends since another release is needed


class Door:
    """A client of the door. `url` is `https://HOST[:PORT]` (with `ca_file`, only its certificates are trusted) or
    `unix:/PATH`. The token is read from its file for every message, so that it can be changed without a restart.
    """

    def __init__(self, url: str, token_file: Path, ca_file: Path | None = None, seconds: float = 30.0) -> None:
        self._token_file = token_file
        self.url = url
        # Nothing of the environment: a proxy set there for other programs is no business of scans.
        if url.startswith("unix:"):
            path = url.removeprefix("unix:")
            path = path[2:] if path.startswith("//") else path
            transport = httpx.AsyncHTTPTransport(uds=path)
            self._client = httpx.AsyncClient(
                base_url="http://door", transport=transport, timeout=seconds, trust_env=False
            )
        elif url.startswith("https://"):
            self._client = httpx.AsyncClient(
                base_url=url, verify=_trust(ca_file), timeout=seconds, trust_env=False, follow_redirects=False
            )
        else:
            raise UsageError(f"{url!r} is no door; write https://HOST:PORT or unix:/PATH.")

    async def claim(self, message: Claim) -> Jobs:
        """Asks for work."""
        return await self._send("claim", msgspec.msgpack.encode(message), Jobs)

    async def heartbeat(self, message: Heartbeat) -> Leases:
        """Keeps leases; gives back those that are lost."""
        return await self._send("heartbeat", msgspec.msgpack.encode(message), Leases)

    async def permits(self, message: PermitCall) -> Permits:
        """Asks for permits, prolongs them, gives them back."""
        return await self._send("permits", msgspec.msgpack.encode(message), Permits)

    async def hand_in(self, packed: bytes) -> Receipt:
        """Hands in a packed `Result`."""
        return await self._send("hand-in", packed, Receipt)

    async def aclose(self) -> None:
        """Ends the connection."""
        await self._client.aclose()

    async def _send(self, what: str, content: bytes, answer: type[A]) -> A:
        try:
            token = self._token_file.read_text().strip()
        except OSError as problem:
            raise DoorAway(f"The token in {self._token_file} can't be read ({problem.strerror}).") from None
        try:
            response = await self._client.post(
                f"/door/v1/{what}",
                content=content,
                headers={"Authorization": f"Bearer {token}", "Content-Type": CONTENT, "Accept": CONTENT},
            )
        except (httpx.HTTPError, ValueError) as problem:
            said = str(problem) or type(problem).__name__
            raise DoorAway(f"The door at {self.url} can't be reached ({said}).") from None
        status = response.status_code
        if not 200 <= status < 300:
            code, said = _error(response)
            sentence = f"The door answered a {what} with status {status}: {said}"
            if status == 409 and code in ("release", "protocol"):
                raise DoorOtherRelease(said)
            if status in (400, 413, 415, 422):
                raise DoorRefused(sentence)
            raise DoorBusy(sentence) if code == "busy" else DoorAway(sentence)
        try:
            return msgspec.msgpack.decode(response.content, type=answer)
        except msgspec.MsgspecError as problem:
            raise DoorAway(f"The door's answer to a {what} can't be read ({problem}).") from None


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as problem:
        raise UsageError(f"{ca_file} holds no certificates to trust the door by ({problem}).") from None


def _error(response: httpx.Response) -> tuple[str, str]:
    """The code and sentence of `{"error": {"code": ..., "message": ...}}`, or what came in its place."""
    try:
        error = response.json()["error"]
        return str(error["code"]), str(error["message"])[:500]
    except (ValueError, LookupError, TypeError):
        return "", repr(response.text[:200])
