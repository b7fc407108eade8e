"""What tests of the verbs begin with: an emptied database, as those of the store."""

from __future__ import annotations

from tests.store.reused import database_url

__all__ = ["database_url"]
