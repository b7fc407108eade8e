"""A ledger whose numbers begin far up, so that whatever keeps them in too few bits is found out."""

from __future__ import annotations

from sqlalchemy import NullPool, create_engine, text

from rota.store.tables import metadata

NUMBERED = tuple(table.name for table in metadata.sorted_tables if table.autoincrement_column is not None)
APART = 1000  # from the numbers of one table to those of the next: one in the place of another is seen


def begin_ids_at(url: str, first: int) -> dict[str, int]:
    """Let the next row of each table have a number from ``first`` on; return which number it has, by table."""
    firsts = {table: first + APART * index for index, table in enumerate(NUMBERED)}
    with create_engine(url, poolclass=NullPool).begin() as connection:
        for table, number in firsts.items():
            match connection.dialect.name:
                case "postgresql":
                    sequence = f"pg_get_serial_sequence('{table}', 'id')"
                    connection.execute(text(f"select setval({sequence}, {number}, false)"))
                case "sqlite":
                    connection.execute(text(f"delete from sqlite_sequence where name = '{table}'"))
                    connection.execute(text(f"insert into sqlite_sequence values ('{table}', {number - 1})"))
                case _:
                    connection.execute(text(f"alter table {table} auto_increment = {number}"))
    return firsts
