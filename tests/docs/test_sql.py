"""What the pages show in SQL is taken by a database that has a job of that name, as it stands there."""

from __future__ import annotations

import pytest
from sqlalchemy import NullPool, create_engine

from rota import Rota
from tests.docs.pages import ROOT, Block, find_blocks

BLOCKS = [block for block in find_blocks(ROOT / "docs/sql.md") if block.language == "sql"]
OF_POSTGRESQL = ("rota_enqueue", "rota_ask")
BEFORE = (
    "create table invoice (customer varchar(20))",
    "insert into rota_command (verb) values ('status')",
)


@pytest.mark.every_database
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_the_statements_of_a_block_can_be_sent(database_url: str, block: Block) -> None:
    text = block.text
    engine = create_engine(database_url, poolclass=NullPool)
    if any(name in text for name in OF_POSTGRESQL) and engine.dialect.name != "postgresql":
        pytest.skip("a function of PostgreSQL")
    with Rota(database_url) as rota:
        rota.jobs.add("report", shell="true")
    statements = [one.strip() for one in text.split(";") if one.strip() not in {"", "begin", "commit"}]

    with engine.begin() as connection:
        for statement in (*BEFORE, *statements):
            connection.exec_driver_sql(statement)

    assert statements
