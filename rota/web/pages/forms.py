"""Forms: how they are read, the token without which they do nothing, and where one is after them.

Invariant: what a form sends is obeyed only with the token that the page it is on was given: another site can make a
browser send a form here, and cannot read our pages.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response

from rota.web.bodies import BODY_BYTES_MAX, read_bytes, split_pairs
from rota.web.gate import visitor_of
from rota.web.problems import Refusal

CSRF_COOKIE = "rota_csrf"
CSRF_FIELD = "csrf"
NOTICE_COOKIE = "rota_notice"
NOTICE_LENGTH_MAX = 1000
FIELDS_MAX = 2000
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,64}")
# An address of this server, and nothing that a browser could take for one of another: no //, no \, nothing invisible.
_OURS = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")


def csrf_of(request: Request) -> str:
    """Return the token of whoever asks.

    That of their session; without one that of their cookie, or a new one, which ``keep_csrf`` gives to them.
    """
    if (of_session := visitor_of(request).csrf) is not None:
        return of_session
    kept = request.cookies.get(CSRF_COOKIE, "")
    return kept if _TOKEN.fullmatch(kept) else secrets.token_urlsafe(32)


def keep_csrf(request: Request, answer: Response, token: str) -> None:
    """Give whoever asks the token, when they have not got it."""
    if visitor_of(request).csrf is None and request.cookies.get(CSRF_COOKIE) != token:
        answer.set_cookie(CSRF_COOKIE, token, path="/", httponly=True, samesite="strict")


def check_csrf(request: Request, fields: list[tuple[str, str]]) -> None:
    """Check that a form comes from a page of ours.

    Raises:
        Refusal: it has no token, or another one.
    """
    kept = visitor_of(request).csrf or request.cookies.get(CSRF_COOKIE, "")
    given = next((value for name, value in fields if name == CSRF_FIELD), "")
    if not _TOKEN.fullmatch(kept) or not hmac.compare_digest(kept.encode(), given.encode()):
        raise Refusal(403, "no-csrf-token", "this form was not sent from a page of this server: load the page again")


async def read_form(headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> list[tuple[str, str]]:
    """Read the fields of a form.

    Raises:
        Refusal: it is too large (413), of another kind (415), or cannot be read (400).
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "not-a-form", "send application/x-www-form-urlencoded, as a form does", value=kind)
    return split_pairs(await read_bytes(headers, stream), "form", BODY_BYTES_MAX, FIELDS_MAX)


def back_of(fields: list[tuple[str, str]], path: str) -> str:
    """Return the address to go back to: what the form says, if that is one of ours; else that of the form."""
    back = next((value for name, value in fields if name == "back"), "")
    return back if is_ours(back) else path


def is_ours(address: str) -> bool:
    """Tell whether an address leads to this server wherever it is written."""
    return _OURS.fullmatch(address) is not None


def next_of(pairs: list[tuple[str, str]]) -> str:
    """Return where to go after the log-in: to a page of ours, whatever was asked for."""
    to = next((value for name, value in pairs if name == "next"), "/")
    return to if is_ours(to) else "/"


def go_to(address: str, notice: str) -> Response:
    """Make the answer that sends a browser on to ``address``, where it shows ``notice``, if there is one."""
    assert is_ours(address)
    answer = Response(None, 303, {"Location": quote(address, safe="/?&=%#:+,;@!$'()*~"), "Cache-Control": "no-store"})
    if not notice:
        return answer
    if len(notice) > NOTICE_LENGTH_MAX:
        notice = notice[: NOTICE_LENGTH_MAX - 3] + "..."
    text = quote(notice.encode(errors="replace"), safe="")
    answer.set_cookie(NOTICE_COOKIE, text, max_age=60, path="/", httponly=True, samesite="strict")
    return answer


def notice_of(request: Request) -> str:
    """Return the notice that this page shows."""
    return unquote(request.cookies.get(NOTICE_COOKIE, ""), errors="replace")[:NOTICE_LENGTH_MAX]


def drop_notice(request: Request, answer: Response) -> None:
    """Show a notice once only."""
    if NOTICE_COOKIE in request.cookies:
        answer.delete_cookie(NOTICE_COOKIE, path="/", httponly=True, samesite="strict")
