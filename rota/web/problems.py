"""Refusals, as ``application/problem+json`` (RFC 9457): what a verb raises, and what HTTP itself refuses.

The status says who has to act: 4xx the caller, 503 to wait, 500 us. What nobody has foreseen is logged under a number,
and the answer holds that number and nothing else.
"""

from __future__ import annotations

import json
import logging
import secrets
from typing import Any

from starlette.responses import Response

from rota.errors import DatabaseUnavailable, DatabaseVersion, Invalid, RotaError, describe_error

log = logging.getLogger("rota.web")

MEDIA_TYPE = "application/problem+json"
TYPES = "urn:problem-type:rota:"  # names, not addresses; docs/http.md says what each means
RETRY_AFTER_SECONDS = 5
VALUE_LENGTH_MAX = 1000

# fmt: off
STATUS_OF = {
    "not-found":            404,
    "already-exists":       409,
    "already-finished":     409,
    "conflict":             409,
    "state":                409,
    "run-failed":           409,
    "preempted":            409,
    "invalid":              422,
    "usage":                422,
    "not-supported":        422,
    "database-unavailable": 503,
    "database-version":     503,
    "database-refused":     500,
    "config":               500,
}
TITLES = {
    400: "The request cannot be read",
    401: "Say who you are",
    403: "Not allowed",
    404: "There is no such thing",
    405: "That is not done here",
    409: "The state of the world forbids it",
    413: "The body is too large",
    415: "The body is not JSON",
    421: "That is another server's name",
    429: "Too many attempts",
    422: "A value is refused",
    431: "The headers are too large",
    500: "Something went wrong here",
    503: "The database does not answer",
}
# fmt: on


class Refusal(Exception):
    """A request that HTTP itself refuses, before any verb is asked."""

    def __init__(self, status: int, code: str, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.facts = facts


def write_json(view: Any) -> bytes:
    """Write an answer; half of a surrogate pair, which JSON may hold and UTF-8 may not, as an escape."""
    text = json.dumps(view, ensure_ascii=False, default=str, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(view, default=str, separators=(",", ":")).encode()


def problem(status: int, code: str, detail: str, **facts: Any) -> Response:
    """Make the answer of a refusal."""
    shown = {name: _brief(value) for name, value in facts.items()}
    title = TITLES.get(status, "Refused")
    view = {"type": f"{TYPES}{code}", "title": title, "status": status, "detail": detail, "code": code} | shown
    headers = {"Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return Response(write_json(view), status, headers, MEDIA_TYPE)


def problem_of(error: Exception, *, status: int | None = None) -> Response:
    """Make the answer for what was raised, with the status that its kind has unless told."""
    if isinstance(error, Refusal):
        return problem(error.status, error.code, error.detail, **error.facts)
    if isinstance(error, RotaError):
        status = status or STATUS_OF.get(error.code, 500)
        if status >= 500 and not isinstance(error, DatabaseUnavailable | DatabaseVersion):
            return _unforeseen(error)
        facts = describe_error(error)
        code, message = facts.pop("code"), facts.pop("message")
        return problem(status, code, message, **facts)
    return _unforeseen(error)


def is_about(error: Invalid, target: str) -> bool:
    """Tell whether it is the target that was refused: what no name can be is not found at its address."""
    return error.value == target or (error.field in {"run", "backfill", "command"} and target.isdigit())


def _unforeseen(error: Exception) -> Response:
    number = secrets.token_hex(6)
    log.error("request failed, error %s", number, exc_info=error)
    return problem(500, "internal", f"see error {number} in the log of this server", error_id=number)


def _brief(value: Any) -> Any:
    # What was refused is quoted, and it may be all of a body.
    if len(text := json.dumps(value, ensure_ascii=True, default=str)) > VALUE_LENGTH_MAX:
        return text[:VALUE_LENGTH_MAX] + "..."
    return value
