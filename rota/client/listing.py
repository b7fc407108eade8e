"""Lists, as applications see them: all of it, or a page of it that knows where the next one begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rota.errors import Invalid
from rota.model.pages import Page
from rota.model.values import check_whole

LIMIT_MAX = 1000
SEARCH_LENGTH_MAX = 200

View = dict[str, Any]


def check_search(value: object) -> str | None:
    """Return what names are searched for; nothing is everything.

    Raises:
        Invalid: it is no text, or longer than a name.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > SEARCH_LENGTH_MAX or "\0" in value:
        raise Invalid("search", value, f"it is part of a name: text of at most {SEARCH_LENGTH_MAX} characters")
    return value


def gather(
    fetch: Callable[[Any, int], list[View]], key: str, *, after: str | int | None, limit: int | None
) -> Page[View]:
    """Return up to ``limit`` items after ``after``, all of them without a limit, in bounded reads.

    ``fetch`` reads up to so many after one, which is named by its ``key``.

    Raises:
        Invalid: the limit is none.
    """
    most = None if limit is None else check_whole("limit", limit, 1, LIMIT_MAX) + 1
    found: list[View] = []
    while most is None or len(found) < most:
        portion = LIMIT_MAX if most is None else most - len(found)
        page = fetch(after, portion)
        found += page
        if len(page) < portion:
            break
        after = found[-1][key]
    if most is not None and len(found) == most:
        return Page(found[:-1], found[-2][key])
    return Page(found)
