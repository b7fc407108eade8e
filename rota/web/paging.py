"""Pages over HTTP: the items, and an opaque key for the next ones.

A key holds where the list goes on and for which list and filters it was given; it is no secret, so what it guards
against is a mistake: a key of another list, with other filters, or cut off, is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rota.model.pages import Page
from rota.web.problems import Refusal

LIMIT_DEFAULT = 50
LIMIT_MAX = 500
# Of runs there may be so many that a filter that few of them pass must not look at all: ids looked at for one page.
WITHIN_DEFAULT = 50_000
WITHIN_MAX = 500_000
_CHECK_BYTES = 6


def show_page(name: str, filters: Mapping[str, Any], items: list[Any]) -> dict[str, Any]:
    """Show one page of the list ``name``, with the key of the next."""
    after = items.next if isinstance(items, Page) else None
    return {"items": list(items), "next": None if after is None else make_key(name, filters, after)}


def make_key(name: str, filters: Mapping[str, Any], after: str | int) -> str:
    """Make the key that ``read_key`` reads."""
    body = json.dumps(after).encode()
    return base64.urlsafe_b64encode(_check(name, filters, body) + body).decode().rstrip("=")


def read_key(name: str, filters: Mapping[str, Any], key: object) -> str | int:
    """Return where the list goes on.

    Raises:
        Refusal: the key is not one that was given for this list with these filters.
    """
    refusal = Refusal(400, "bad-page-key", "after is the `next` of a page of the same list with the same filters")
    if not isinstance(key, str):
        raise refusal
    try:
        raw = base64.b64decode(key.encode() + b"=" * (-len(key) % 4), altchars=b"-_", validate=True)
        after = json.loads(raw[_CHECK_BYTES:])
    except (binascii.Error, ValueError, RecursionError):
        raise refusal from None
    if raw[:_CHECK_BYTES] != _check(name, filters, raw[_CHECK_BYTES:]) or not isinstance(after, str | int):
        raise refusal
    return after


def _check(name: str, filters: Mapping[str, Any], body: bytes) -> bytes:
    asked = json.dumps([name, sorted(filters.items())], default=str).encode()
    return hashlib.blake2b(asked + b"\0" + body, digest_size=_CHECK_BYTES).digest()
