"""Users: who may log in, what each may do, and where they are logged in."""

from __future__ import annotations

from typing import Any

from rota.errors import Invalid, NotFound
from rota.model.accounts import AccountState, Source
from rota.model.roles import Role
from rota.web.pages.asked import Asked
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.things import ThingDeed, add_deeds, deeds_for, is_in
from rota.web.pages.writing import piece

BASE = "/users"
ROLES = [role.value for role in Role]
# fmt: off
DEEDS = {
    "enable":       ThingDeed("user.edit", "Enable", "may log in again", fits=is_in(AccountState.DISABLED.value),
                              parameters={"enable": True}),
    "disable":      ThingDeed("user.edit", "Disable", "may not log in any more",
                              "They are logged out everywhere, may not log in, and their tokens let nobody in.",
                              fits=is_in(AccountState.ACTIVE.value), parameters={"disable": True}),
    "end-sessions": ThingDeed("user.end-sessions", "End sessions", "is logged out everywhere",
                              "They are logged out everywhere, and may log in again.", ends_it=True),
    "delete":       ThingDeed("user.delete", "Delete", "was deleted",
                              "Their tokens and sessions go with them. What they did stays in the audit.",
                              fits=lambda view: view["state"] is not None, ends_it=True),
}
# fmt: on
add_deeds("user", BASE, DEEDS)


@page("/users", "users.html", title="Users", key="u", place=120, verb="user.list")
def show_users(asked: Asked) -> Context:
    users = asked.look("user.list")
    known = {one["name"] for one in users}
    sessions = asked.look("user.sessions")
    return {
        "users": users,
        "counts": {name: sum(one["user"] == name for one in sessions) for name in known},
        "guests": [one for one in sessions if one["user"] not in known],
        "now": asked.now(),
        "may_add": asked.may("user.add"),
        "is_open": is_open(asked),
    }


@page("/users/{name}", "user.html")
def show_user(asked: Asked) -> Context:
    name = asked.piece("name")
    user = find_user(asked, name)
    sessions = asked.look("user.sessions", None, {"user": name})
    if user is None and not sessions:
        raise NotFound("user", name)
    # Whom an OpenID provider has identified is somebody without being a user here.
    view = user or {"name": name, "role": sessions[0]["role"], "state": None}
    return {
        "user": view,
        "sessions": sessions,
        "tokens": [one for one in asked.look("token.list") if one["user"] == name] if asked.may("token.list") else [],
        "deeds": deeds_for(asked, DEEDS, view),
        "roles": ROLES,
        "may_edit": user is not None and asked.may("user.edit"),
        "may_set": user is not None and asked.may("user.passwd"),
        "now": asked.now(),
        "is_open": is_open(asked),
    }


@act("/users/{name}/role")
def set_role(asked: Asked) -> Done:
    name = asked.piece("name")
    view = asked.do("user.edit", name, {"role": asked.word("role")})
    return Done(f"user {name} is {view['role']}", f"{BASE}/{piece(name)}")


@act("/users/{name}/password")
def set_password(asked: Asked) -> Done:
    name = asked.piece("name")
    asked.check_may("user.passwd")
    asked.do("user.passwd", name, {"password": read_password(asked)})
    return Done(f"user {name} has another password, and is logged out everywhere", f"{BASE}/{piece(name)}")


@page("/new/user", "user_new.html")
def ask_for_user(asked: Asked) -> Context:
    asked.check_may("user.add")
    return {"roles": ROLES}


@act("/new/user")
def add_user(asked: Asked) -> Done:
    asked.check_may("user.add")
    given: dict[str, Any] = {"role": asked.word("role")}
    if asked.text("password") or asked.text("again"):
        given["password"] = read_password(asked)
    made = asked.do("user.add", asked.word("name"), given)
    return Done(f"user {made['name']} is {made['role']}", f"{BASE}/{piece(made['name'])}")


def read_password(asked: Asked) -> str:
    """Return the password that was typed twice, as it is.

    Raises:
        Invalid: it was typed differently; the error does not hold it.
    """
    password = asked.text("password")
    if password != asked.text("again"):
        raise Invalid("password", "(not shown)", "it was typed differently the second time: go back and type it again")
    return password


def find_user(asked: Asked, name: str) -> Any:
    """Return how a user is shown; None: there is none. There are few."""
    return next((one for one in asked.look("user.list") if one["name"] == name), None)


def is_open(asked: Asked) -> bool:
    """Tell whether nobody has to log in here."""
    return asked.identity.source is Source.LOCAL
