"""Turns: what one transaction at a time does in the whole cluster. Whoever has locked the row of that name has it."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, exists, select

from rota.store.tables import lock
from rota.store.types import insert_if_new

PERIODS = "periods"
COMMANDS = "commands"
ROLLUPS = "rollups"
LOG_INS = "log-ins"

_turn = select(lock.c.name).where(lock.c.name == bindparam("turn", type_=lock.c.name.type))
WAIT_FOR_TURN = _turn.with_for_update()
TRY_TURN = _turn.with_for_update(skip_locked=True)
_new = bindparam("turn", type_=lock.c.name.type)
_RESTORE_TURN = insert_if_new(lock).from_select(["name"], select(_new).where(~exists().where(lock.c.name == _new)))


def take_turn(connection: Connection, turn: str, *, wait: bool = True) -> bool:
    """Have the turn until the end of this transaction; return False, if it is not waited for, when another has it."""
    of_turn = {"turn": turn}
    if connection.execute(WAIT_FOR_TURN if wait else TRY_TURN, of_turn).scalar() is not None:
        return True
    if connection.execute(_turn, of_turn).scalar() is not None:
        return False
    connection.execute(_RESTORE_TURN, of_turn)  # somebody has deleted the row
    return connection.execute(WAIT_FOR_TURN, of_turn).scalar() is not None
