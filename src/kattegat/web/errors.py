"""The one shape of an error over HTTP: `{"error": {"code": ..., "message": one sentence}}`."""

from __future__ import annotations

from typing import Any

import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException

from kattegat.errors import KattegatError, UsageError
from kattegat.store.database import DatabaseUnreachableError
from kattegat.store.release import WrongReleaseError

log = structlog.get_logger()


class RequestError(KattegatError):
    """A request that is refused: `status` is the HTTP status, `code` a word for programs."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        self.status = status
        self.code = code
        super().__init__(sentence)


CODES = {400: "bad_request", 401: "no_token", 404: "not_found", 405: "wrong_method", 413: "too_large"}


def _answer(status: int, code: str, message: str) -> Response[dict[str, Any]]:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(
        {"error": {"code": code, "message": message}}, status_code=status, media_type=MediaType.JSON, headers=headers
    )


def on_request_error(_: Request[Any, Any, Any], problem: RequestError) -> Response[dict[str, Any]]:
    """A refusal of ours."""
    return _answer(problem.status, problem.code, str(problem))


def on_http_error(_: Request[Any, Any, Any], problem: HTTPException) -> Response[dict[str, Any]]:
    """A refusal of the framework's: no such path, wrong method, body too large."""
    code = CODES.get(problem.status_code, "refused")
    return _answer(problem.status_code, code, str(problem.detail) or code)


def on_our_error(_: Request[Any, Any, Any], problem: KattegatError) -> Response[dict[str, Any]]:
    """An error with a sentence: something the install needs is away (503), or the request was wrong (400)."""
    if isinstance(problem, UsageError):
        return _answer(400, "bad_request", str(problem))
    log.error("a request failed", problem=str(problem))
    code = "database_away" if isinstance(problem, DatabaseUnreachableError) else "unavailable"
    if isinstance(problem, WrongReleaseError):
        code = "release_changed"
    return _answer(503, code, str(problem))


def on_bug(request: Request[Any, Any, Any], problem: Exception) -> Response[dict[str, Any]]:
    """Anything else is a bug: logged with its trace, nothing of it told."""
    log.error("a request broke", path=request.url.path, problem=repr(problem), exc_info=problem)
    return _answer(500, "broken", "Something here is broken; the log of the web process says what.")


HANDLERS: dict[Any, Any] = {
    RequestError: on_request_error,
    HTTPException: on_http_error,
    KattegatError: on_our_error,
    Exception: on_bug,
}
