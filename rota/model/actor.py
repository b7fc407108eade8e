"""Who acts, and through which door: what the history and the audit say of it.

An ``Actor`` is the text that the history shows, and knows besides which door it came through. Whatever a node does by
itself is done in a plain text's name, and is no act of a person.
"""

from __future__ import annotations

from enum import StrEnum

ACTOR_LENGTH_MAX = 200
ADDRESS_LENGTH_MAX = 64


class Door(StrEnum):
    """How people reach Rota."""

    CLI = "cli"
    PYTHON = "python"
    HTTP = "http"
    PAGE = "page"
    SQL = "sql"


class Actor(str):
    """A name, at most 200 characters of it, with its ``door``, the network ``address`` it came from where there is
    one, and ``via``, the token by which it acts; None: by itself.
    """

    __slots__ = ("address", "door", "via")

    door: Door
    address: str | None
    via: str | None

    def __new__(cls, name: str, *, door: str, address: str | None = None, via: str | None = None) -> Actor:
        made = super().__new__(cls, name[:ACTOR_LENGTH_MAX])
        made.door = Door(door)
        # Whatever a proxy has written there.
        plain = "".join(sign for sign in address or "" if sign.isascii() and sign.isprintable())
        made.address = plain[:ADDRESS_LENGTH_MAX] or None
        made.via = via
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, str | None]]:
        return (str(self),), {"door": self.door, "address": self.address, "via": self.via}
