"""A backup of a test's database: all rows, and the counters of their numbers, put back as a dump is, below whoever
works there."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert, select, text

from rota.store.database import Database
from rota.store.tables import metadata


class Backup:
    """What stood in a database when this was made."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._with(self._read)

    def put_back(self) -> None:
        """Let the same stand there again, and nothing else."""
        self._with(self._write)
        self._with(self._put_counters_back)

    def _with(self, work: Any) -> None:
        database = Database(self._url)
        try:
            database.write(work, repeatable=False)
        finally:
            database.close()

    def _read(self, connection: Connection) -> None:
        for table in metadata.sorted_tables:
            columns = [column for column in table.columns if column.computed is None]
            self._rows[table.name] = [dict(row) for row in connection.execute(select(*columns)).mappings()]

    def _write(self, connection: Connection) -> None:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
        for table in metadata.sorted_tables:
            if rows := self._rows[table.name]:
                connection.execute(insert(table), rows)

    def _put_counters_back(self, connection: Connection) -> None:
        for table in metadata.sorted_tables:
            column = table.autoincrement_column
            if column is None:
                continue
            last = max((row[column.name] for row in self._rows[table.name]), default=0)
            if connection.dialect.name == "postgresql":
                counter = f"pg_get_serial_sequence('{table.name}', '{column.name}')"
                connection.execute(text(f"select setval({counter}, {last + 1}, false)"))
            elif connection.dialect.name == "sqlite":
                connection.execute(text(f"update sqlite_sequence set seq = {last} where name = '{table.name}'"))
            else:
                connection.execute(text(f"alter table {table.name} auto_increment = {last + 1}"))
