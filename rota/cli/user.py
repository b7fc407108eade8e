"""``rota user``: who may log in over HTTP, and what each may do then."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rota.cli.door import Door, Words, through_door
from rota.cli.screen import Columns, short_time
from rota.errors import Invalid

ROLES = Words("viewer", "operator", "admin")
COLUMNS: Columns = {
    "name": "name",
    "role": "role",
    "state": "state",
    "password": lambda view: short_time(view["password_at"]) if view["has_password"] else "none",
    "last log-in": lambda view: short_time(view["last_login_at"]),
    "created": lambda view: f"{short_time(view['created_at'])}, by {view['created_by']}",
}
SESSIONS: Columns = {
    "user": "user",
    "role": "role",
    "by": "source",
    "since": lambda view: short_time(view["created_at"]),
    "seen": lambda view: short_time(view["seen_at"]),
    "until": lambda view: short_time(view["expires_at"]),
    "address": "address",
    "browser": "user_agent",
}
PASSWORD_FILE = click.option(
    "--password-file",
    metavar="FILE",
    help="Holds the password, on one line; -: standard input. Else it is asked for.",
)


def has_terminal() -> bool:
    """Tell whether somebody can be asked."""
    return sys.stdin.isatty()


def read_password(name: str, file: str | None) -> str:
    """Read a password from a file, or ask for it twice. Never from an argument, which all users of a machine see."""
    if file is None:
        if not has_terminal():
            rule = "there is no terminal to ask on: `--password-file -` reads it from standard input, on one line"
            raise Invalid("password", None, rule)
        return str(click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True))
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("password_file", file, f"it cannot be read: {error}") from None
    password = text.removesuffix("\n").removesuffix("\r")
    if "\n" in password:
        raise Invalid("password_file", file, "it holds the password on one line, and nothing else")
    return password


@click.group()
def user() -> None:
    """Who may log in over HTTP, and what each may do then."""


@user.command()
@click.argument("name")
@click.option("--role", type=ROLES, required=True, help="viewer looks, operator acts on what there is, admin may all.")
@PASSWORD_FILE
@through_door
def add(door: Door, *, name: str, role: str, password_file: str | None) -> None:
    """Add a user. The password is asked for, or read from a file: 12 characters at least.

    The first admin is added like this, on a machine that reaches the database.
    """
    view = door.rota.users.add(name, role=role, password=read_password(name, password_file))
    door.screen.tell(f"user {name} is {view['role']}", view)


@user.command("list")
@through_door
def list_(door: Door) -> None:
    """List all users."""
    door.screen.show_list(door.rota.users.list(), COLUMNS, nothing="no users yet; add one with `rota user add`")


@user.command()
@click.argument("name")
@click.option("--role", type=ROLES, help="What they may do from now on.")
@click.option("--disable", is_flag=True, help="They may not log in any more, and their tokens let nobody in.")
@click.option("--enable", is_flag=True, help="They may again.")
@through_door
def edit(door: Door, *, name: str, role: str | None, disable: bool, enable: bool) -> None:
    """Change what a user may do, or whether they may log in. Their sessions end at once."""
    view = door.rota.users.edit(name, role=role, disable=disable, enable=enable)
    door.screen.tell(f"user {name} is {view['role']}, {view['state']}", view)


@user.command()
@click.argument("name")
@PASSWORD_FILE
@through_door
def passwd(door: Door, *, name: str, password_file: str | None) -> None:
    """Give a user another password. Their sessions end at once; tokens stay."""
    view = door.rota.users.passwd(name, read_password(name, password_file))
    door.screen.tell(f"user {name} has another password", view)


@user.command()
@click.option("--user", "name", metavar="NAME", help="Those of this one.")
@through_door
def sessions(door: Door, *, name: str | None) -> None:
    """List who is logged in, from where and until when."""
    door.screen.show_list(door.rota.users.sessions(name), SESSIONS, nothing="nobody is logged in")


@user.command("end-sessions")
@click.argument("name")
@through_door
def end_sessions(door: Door, *, name: str) -> None:
    """Log somebody out everywhere. They may log in again, unless they are disabled."""
    view = door.rota.users.end_sessions(name)
    door.screen.tell(f"sessions of {name} that were ended: {view['ended']}", view)


@user.command()
@click.argument("name")
@through_door
def delete(door: Door, *, name: str) -> None:
    """Delete a user with their tokens; their sessions end at once."""
    door.rota.users.delete(name)
    door.screen.tell(f"user {name} is deleted", {"name": name, "deleted": True})
