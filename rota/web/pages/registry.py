"""Which pages there are, and what can be done from them.

Invariant: a page only looks, and is a GET; what acts is a POST with a token (see ``forms``), and goes through verbs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import Response

from rota.model.accounts import Identity
from rota.verbs.table import find_verb
from rota.web.pages.asked import Asked

Context = dict[str, Any]  # what the template is given
View = Callable[[Asked], Context | Response]


@dataclass(frozen=True, slots=True)
class Shown:
    """What an act answers with at once, on a page of its own: what is shown once, and nowhere again."""

    template: str
    context: Context


@dataclass(frozen=True, slots=True)
class Done:
    """What an act has done, as a sentence, and the address to go on at; None: that of the form."""

    notice: str
    to: str | None = None


Deed = Callable[[Asked], Done | Shown]
V = TypeVar("V", bound=View)
D = TypeVar("D", bound=Deed)


@dataclass(frozen=True, slots=True)
class Page:
    """One page. With a ``title`` it stands in the navigation, at its ``place``; g and then ``key`` lead to it.

    One that is ``live`` renews itself after so many seconds. One with a ``verb`` is only for those who may use that.
    """

    path: str
    template: str
    view: View
    title: str | None
    key: str | None
    place: int
    live: int
    verb: str | None


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that forms do."""

    path: str
    deed: Deed


PAGES: list[Page] = []
ACTS: list[Act] = []


def page(
    path: str,
    template: str = "",
    *,
    title: str | None = None,
    key: str | None = None,
    place: int = 100,
    live: int = 0,
    verb: str | None = None,
) -> Callable[[V], V]:
    """Make the function below a page: it returns what ``template`` is given, or an answer of another kind.

    ``path`` may name pieces, as in ``/runs/{run}``, which ``Asked.piece`` returns. One without goes before those.
    """

    def add(view: V) -> V:
        assert key is None or key not in {one.key for one in PAGES}
        PAGES.append(Page(path, template, view, title, key, place, live, verb))
        return view

    return add


def act(path: str) -> Callable[[D], D]:
    """Make the function below what a form at ``path`` does; it says what was done."""

    def add(deed: D) -> D:
        ACTS.append(Act(path, deed))
        return deed

    return add


def navigation(identity: Identity | None) -> list[Page]:
    """Return the pages of the navigation, in their order: those that somebody may see."""
    if identity is None:
        return []
    shown = (
        one for one in PAGES
        if one.title is not None and (one.verb is None or identity.may(find_verb(one.verb)))
    )  # fmt: skip
    return sorted(shown, key=lambda one: one.place)
