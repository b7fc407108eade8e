"""Tokens: what programs show to act over HTTP.

Invariant: the secret of a token is on one page, the answer to the form that made it, and in no address, notice or row.
"""

from __future__ import annotations

from typing import Any

from rota.errors import NotFound
from rota.web.pages.asked import Asked
from rota.web.pages.registry import Context, Shown, act, page
from rota.web.pages.things import ThingDeed, add_deeds, deeds_for
from rota.web.pages.users import ROLES, is_open

BASE = "/tokens"
# fmt: off
DEEDS = {
    "revoke": ThingDeed("token.revoke", "Revoke", "is revoked",
                        "It lets nobody in any more, and stays in the list for a month.",
                        fits=lambda view: view["revoked_at"] is None),
    "delete": ThingDeed("token.delete", "Delete", "was deleted",
                        "It lets nobody in any more, and its name is free again.", ends_it=True),
}
# fmt: on
add_deeds("token", BASE, DEEDS)


@page("/tokens", "tokens.html", title="Tokens", key="t", place=130, verb="token.list")
def show_tokens(asked: Asked) -> Context:
    found = asked.look("token.list")
    return {"tokens": found, "now": asked.now(), "may_add": asked.may("token.add"), "is_open": is_open(asked)}


@page("/tokens/{name}", "token.html")
def show_token(asked: Asked) -> Context:
    name = asked.piece("name")
    view = next((one for one in asked.look("token.list") if one["name"] == name), None)
    if view is None:
        raise NotFound("token", name)
    return {"token": view, "now": asked.now(), "deeds": deeds_for(asked, DEEDS, view)}


@page("/new/token", "token_new.html")
def ask_for_token(asked: Asked) -> Context:
    asked.check_may("token.add")
    users = [one["name"] for one in asked.look("user.list")] if asked.may("user.list") else []
    return {"roles": ROLES, "users": users, "user": asked.word("user")}


@act("/new/token")
def add_token(asked: Asked) -> Shown:
    given: dict[str, Any] = {word: asked.word(word) for word in ("role", "user", "expires") if asked.word(word)}
    if scopes := asked.word("scopes").split():
        given["scopes"] = scopes
    return Shown("token_made.html", {"token": asked.do("token.add", asked.word("name"), given)})
