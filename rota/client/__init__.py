"""The Python door: what applications import to define jobs, ask for runs and bring their own workers.

The names are loaded when first used: finding out where the database is must not import SQLAlchemy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rota.client.claims import Claim
    from rota.client.dispatch import Dispatch
    from rota.client.groups import GroupHandle
    from rota.client.rota import Rota
    from rota.client.runs import RunHandle

__all__ = ["Claim", "Dispatch", "GroupHandle", "Rota", "RunHandle"]

_HOMES = {
    "Claim": "rota.client.claims",
    "Dispatch": "rota.client.dispatch",
    "GroupHandle": "rota.client.groups",
    "Rota": "rota.client.rota",
    "RunHandle": "rota.client.runs",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
