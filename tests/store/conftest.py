"""What tests of the store begin with: a database, and a clock that stands still."""

from __future__ import annotations

from tests.store.reused import database_url

__all__ = ["database_url"]
