"""Column types and SQL expressions whose spelling differs between the databases.

``Instant`` keeps moments in UTC with microseconds, ``db_now`` is the database's own clock, and ``given_rows`` turns one
JSON parameter into a table, so that a batch of any size is one statement with a constant text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    Insert,
    Integer,
    LargeBinary,
    String,
    Text,
    bindparam,
    case,
    column,
    literal,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeDecorator, TypeEngine

# A row whose columns are asked for by name: how the driver's own type is spelt differs between versions.
AnyRow: TypeAlias = Any

T = TypeVar("T")

MYSQL = ("mysql", "mariadb")

INSTANT_FORMAT = "%Y-%m-%d %H:%M:%S.%f"


class Instant(TypeDecorator[datetime]):
    """A moment: aware and in UTC in Python; timestamptz, datetime(6), or sortable text in the database."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(String(26))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        assert value.tzinfo is not None, "a moment without a zone must not reach the database"
        moment = value.astimezone(UTC)
        if dialect.name == "postgresql":
            return moment
        if dialect.name in MYSQL:
            return moment.replace(tzinfo=None)
        return moment.strftime(INSTANT_FORMAT)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:  # SQLite keeps what it is given; whoever reads it sets such a row aside
                return None
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Before all moments: MariaDB finds what is not NULL in an index only as what is greater than something.
FIRST = literal(datetime(1, 1, 2, tzinfo=UTC), Instant())


# Exact comparison on every database: MySQL's default collations take "a" and "A" for the same name.
Name = String(200).with_variant(mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL)
Word = String(40).with_variant(mysql.VARCHAR(40, charset="ascii", collation="ascii_bin"), *MYSQL)
Token = String(64).with_variant(mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), *MYSQL)
LongText = Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL)
Blob = LargeBinary().with_variant(mysql.MEDIUMBLOB(), *MYSQL)
Id = BigInteger().with_variant(Integer(), "sqlite")
Number: Double[float] = Double()
YesNo = Boolean(create_constraint=False)


class db_now(FunctionElement[datetime]):  # noqa: N801 - it reads as the SQL function that it is
    """The database's clock at this statement, plus an offset in microseconds."""

    type = Instant()
    inherit_cache = True
    name = "db_now"

    def __init__(self, plus_microseconds: ColumnElement[Any] | int = 0) -> None:
        given = plus_microseconds if isinstance(plus_microseconds, ColumnElement) else literal(plus_microseconds)
        super().__init__(given)


class by_default(FunctionElement[Any]):  # noqa: N801
    """What a column has where somebody else's statement leaves it out: ``now``, or ``user``, as the server sees it.

    For rows that people write with nothing but a SQL prompt, where none of Rota's own functions is there.
    """

    inherit_cache = True
    name = "by_default"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__()


_BY_DEFAULT = {
    "postgresql": {"now": "clock_timestamp()", "user": "current_user"},
    "mysql": {"now": "(utc_timestamp(6))", "user": "(current_user())"},
    "sqlite": {"now": "(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')", "user": "'sql'"},
}
_BY_DEFAULT["mariadb"] = _BY_DEFAULT["mysql"]


@compiles(by_default)
def _write_default(element: by_default, compiler: SQLCompiler, **_: Any) -> str:
    return _BY_DEFAULT[compiler.dialect.name][element.what]


def db_now_plus(seconds: ColumnElement[Any]) -> db_now:
    """The database's clock plus ``seconds``, a column or a parameter."""
    return db_now(seconds * 1_000_000)


_as_of = bindparam("as_of", None, type_=Instant())
# What follows from a look goes by the moment of the look, or by now when that is earlier, or when it is given none: the
# clock may step between the two, either way, and each mention of ``db_now`` reads it anew.
AS_OF = case((_as_of < db_now(), _as_of), else_=db_now())


@compiles(db_now, "postgresql")
def _now_postgresql(element: db_now, compiler: SQLCompiler, **options: Any) -> str:
    # clock_timestamp(), not now(): the latter stands still during a transaction.
    return f"(clock_timestamp() + ({compiler.process(element.clauses, **options)}) * interval '1 microsecond')"


@compiles(db_now, "mysql")
@compiles(db_now, "mariadb")
def _now_mysql(element: db_now, compiler: SQLCompiler, **options: Any) -> str:
    return f"timestampadd(microsecond, {compiler.process(element.clauses, **options)}, utc_timestamp(6))"


@compiles(db_now, "sqlite")
def _now_sqlite(element: db_now, compiler: SQLCompiler, **options: Any) -> str:
    return f"rota_now({compiler.process(element.clauses, **options)})"  # registered on each connection


class seconds_since_1970(FunctionElement[int]):  # noqa: N801 - it reads as the SQL function that it is
    """A moment as whole seconds since 1970 began in UTC; the same on each evaluation, so a column may be made of it."""

    type = BigInteger()
    inherit_cache = True
    name = "seconds_since_1970"


@compiles(seconds_since_1970, "postgresql")
def _seconds_postgresql(element: seconds_since_1970, compiler: SQLCompiler, **options: Any) -> str:
    return f"extract(epoch from {compiler.process(element.clauses, **options)} at time zone 'UTC')::bigint"


@compiles(seconds_since_1970, "mysql")
@compiles(seconds_since_1970, "mariadb")
def _seconds_mysql(element: seconds_since_1970, compiler: SQLCompiler, **options: Any) -> str:
    return f"timestampdiff(second, '1970-01-01', {compiler.process(element.clauses, **options)})"


@compiles(seconds_since_1970, "sqlite")
def _seconds_sqlite(element: seconds_since_1970, compiler: SQLCompiler, **options: Any) -> str:
    return f"cast(strftime('%s', {compiler.process(element.clauses, **options)}) as integer)"


class seconds_between(FunctionElement[float]):  # noqa: N801
    """How many seconds the second moment lies behind the first, with their fraction."""

    type = Number
    inherit_cache = True
    name = "seconds_between"


@compiles(seconds_between, "postgresql")
def _between_postgresql(element: seconds_between, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (compiler.process(one, **options) for one in element.clauses)
    return f"cast(extract(epoch from {second} - {first}) as double precision)"


@compiles(seconds_between, "mysql")
@compiles(seconds_between, "mariadb")
def _between_mysql(element: seconds_between, compiler: SQLCompiler, **options: Any) -> str:
    return f"(timestampdiff(microsecond, {compiler.process(element.clauses, **options)}) / 1e6)"


@compiles(seconds_between, "sqlite")
def _between_sqlite(element: seconds_between, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (compiler.process(one, **options) for one in element.clauses)
    return f"((julianday({second}) - julianday({first})) * 86400.0)"


class insert_if_new(Insert):  # noqa: N801 - it reads as the SQL statement that it is
    """An insert that leaves out the rows whose unique key is there already, also one that was committed meanwhile."""

    inherit_cache = True


@compiles(insert_if_new, "postgresql")
@compiles(insert_if_new, "sqlite")
def _insert_if_new(element: insert_if_new, compiler: SQLCompiler, **options: Any) -> str:
    text: str = compiler.visit_insert(element, **options)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return f"{text} on conflict do nothing"


@compiles(insert_if_new, "mysql")
@compiles(insert_if_new, "mariadb")
def _insert_if_new_mysql(element: insert_if_new, compiler: SQLCompiler, **options: Any) -> str:
    table = element.table
    first = next(iter(table.primary_key)).name  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
    key = f"{table.name}.{first}"  # pyright: ignore[reportAttributeAccessIssue]
    text: str = compiler.visit_insert(element, **options)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return f"{text} on duplicate key update {key} = {key}"


_GIVEN_TYPES: dict[str, tuple[TypeEngine[Any], str, str]] = {
    # kind: type in Python, type in PostgreSQL, type in MySQL and MariaDB
    "id": (BigInteger(), "bigint", "bigint"),
    "number": (Number, "double precision", "double"),
    "flag": (Boolean(), "boolean", "tinyint"),
    "word": (Word, "text", "varchar(40) character set ascii collate ascii_bin"),
    "token": (Token, "text", "varchar(64) character set ascii collate ascii_bin"),
    "name": (Name, "text", "varchar(200) character set utf8mb4 collate utf8mb4_bin"),
    "text": (LongText, "text", "longtext character set utf8mb4 collate utf8mb4_bin"),
    "instant": (Instant(), "timestamp", "datetime(6)"),
}


class _GivenRows(FunctionElement[Any]):
    """One JSON parameter as a table; see ``given_rows``."""

    name = "given_rows"
    inherit_cache = True
    _traverse_internals = [*FunctionElement._traverse_internals, ("signature", InternalTraversal.dp_string)]  # noqa: SLF001, RUF012  # pyright: ignore

    def __init__(self, parameter: str, signature: str) -> None:
        self.signature = signature
        super().__init__(bindparam(parameter, type_=Text()))

    @property
    def columns_given(self) -> list[tuple[str, str]]:
        return [(name, kind) for name, _, kind in (part.partition(":") for part in self.signature.split(","))]


def given_rows(parameter: str, **columns: str) -> TableValuedAlias:
    """Name a table whose rows come from one JSON parameter; fill it with ``encode_rows``.

    ``columns`` maps a name to a kind: id, number, flag, token, name, text or instant.
    """
    signature = ",".join(f"{name}:{kind}" for name, kind in columns.items())
    return _GivenRows(parameter, signature).table_valued(
        *(column(name, _GIVEN_TYPES[kind][0]) for name, kind in columns.items()), name=f"given_{parameter}"
    )


# MariaDB takes statements of 16 MiB, and escaping can make four bytes of one.
PORTION_BYTES_MAX = 2 * 1024 * 1024


def in_portions(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Split ``items``, of ``size_of`` bytes each, into portions of which a server takes each in one statement."""
    portion: list[T] = []
    size = 0
    for item in items:
        of_item = size_of(item)
        if portion and size + of_item > PORTION_BYTES_MAX:
            yield portion
            portion, size = [], 0
        portion.append(item)
        size += of_item
    if portion:
        yield portion


def encode_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as the JSON that ``given_rows`` reads. A missing value and None are both NULL."""
    return json.dumps(
        [
            {
                name: value.astimezone(UTC).strftime(INSTANT_FORMAT) if isinstance(value, datetime) else value
                for name, value in row.items()
                if value is not None
            }
            for row in rows
        ],
        ensure_ascii=False,
    )


@compiles(_GivenRows, "postgresql")
def _given_postgresql(element: _GivenRows, compiler: SQLCompiler, **options: Any) -> str:
    # Moments come without an offset, and are in UTC whatever the session's zone: a caller's connection has its own.
    fields = ", ".join(f"{name} {_GIVEN_TYPES[kind][1]}" for name, kind in element.columns_given)
    names = ", ".join(
        f"{name} at time zone 'UTC' as {name}" if kind == "instant" else name for name, kind in element.columns_given
    )
    parameter = compiler.process(element.clauses, **options)
    return f"(select {names} from jsonb_to_recordset(cast({parameter} as jsonb)) as fields ({fields}))"


@compiles(_GivenRows, "mysql")
@compiles(_GivenRows, "mariadb")
def _given_mysql(element: _GivenRows, compiler: SQLCompiler, **options: Any) -> str:
    names = ", ".join(f"{name} {_GIVEN_TYPES[kind][2]} path '$.{name}'" for name, kind in element.columns_given)
    parameter = compiler.process(element.clauses, **options)
    return f"(select * from json_table({parameter}, '$[*]' columns ({names})) as fields)"


@compiles(_GivenRows, "sqlite")
def _given_sqlite(element: _GivenRows, compiler: SQLCompiler, **options: Any) -> str:
    names = ", ".join(f"json_extract(value, '$.{name}') as {name}" for name, _ in element.columns_given)
    return f"(select {names} from json_each({compiler.process(element.clauses, **options)}))"
