"""Whether anybody could log in, and what a user whom a proxy names may do."""

from __future__ import annotations

import pytest

from rota import Rota
from rota.model.roles import Role
from rota.store.accounts import can_anybody_log_in, read_role
from rota.store.tables import token
from rota.store.types import db_now
from tests.store.reused import database_url

__all__ = ["database_url"]
PASSWORD = "correct horse battery"


@pytest.fixture
def rota(database_url):
    with Rota(database_url) as made:
        yield made


def test_nobody_can_where_there_is_nobody(rota):
    assert not can_anybody_log_in(rota.database, by_name=False)
    assert not can_anybody_log_in(rota.database, by_name=True)


def test_a_user_with_a_password_can_unless_disabled(rota):
    rota.users.add("ann", role="viewer", password=PASSWORD)
    assert can_anybody_log_in(rota.database, by_name=False)

    rota.users.edit("ann", disable=True)
    assert not can_anybody_log_in(rota.database, by_name=True)


def test_one_without_can_where_a_proxy_names_them(rota):
    rota.users.add("ann", role="viewer")

    assert not can_anybody_log_in(rota.database, by_name=False)
    assert can_anybody_log_in(rota.database, by_name=True)


def test_a_token_lets_in_until_it_is_over(rota):
    rota.users.add("ann", role="viewer")
    rota.tokens.add("of-ann", user="ann")
    assert can_anybody_log_in(rota.database, by_name=False)
    rota.users.edit("ann", disable=True)
    assert not can_anybody_log_in(rota.database, by_name=False)

    rota.tokens.add("nobodys", role="viewer")
    assert can_anybody_log_in(rota.database, by_name=False)
    rota.database.write(lambda c: c.execute(token.update().values(expires_at=db_now())), repeatable=True)
    assert not can_anybody_log_in(rota.database, by_name=False)

    rota.tokens.add("another", role="viewer")
    rota.tokens.revoke("another")
    assert not can_anybody_log_in(rota.database, by_name=False)


def test_the_role_is_the_users_own_and_names_are_exact(rota):
    rota.users.add("ann", role="operator")

    assert read_role(rota.database, "ann") is Role.OPERATOR
    assert [read_role(rota.database, name) for name in ("Ann", "bob", "")] == [None] * 3
    rota.users.edit("ann", disable=True)
    assert read_role(rota.database, "ann") is None
