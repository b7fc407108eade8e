"""Lists of things by name: filters, and pages that go on after the last one shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rota.web.pages.asked import Asked
from rota.web.pages.registry import Context
from rota.web.pages.writing import address

PAGE_THINGS = 50


def list_page(
    asked: Asked,
    word: str,
    path: str,
    filters: Sequence[str],
    *,
    flags: Sequence[str] = (),
    target: str | None = None,
    place: str = "after",
    limit: int | None = None,
) -> Context:
    """Return what a template shows of a page of a list: ``found``, the filters ``given``, and the pages around it.

    Raises:
        RotaError: as the verb.
    """
    given: dict[str, Any] = {name: asked.word(name) for name in filters if asked.word(name)}
    given |= {name: True for name in flags if asked.word(name)}
    here: Any = asked.word(place) or None
    if here is not None and here.isascii() and here.isdigit() and place == "before" and len(here) < 19:
        here = int(here)
    most = PAGE_THINGS if limit is None else limit
    found = asked.look(word, target, given | {"limit": most} | ({} if here is None else {place: here}))
    return {
        "found": list(found),
        "now": asked.now(),
        "given": {name: asked.word(name) for name in (*filters, *flags)},
        "first": address(path, **given) if here is not None else None,
        "next": None if found.next is None else address(path, **given, **{place: found.next}),
    }
