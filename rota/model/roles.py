"""Roles: who may do what. Each may do all that the one before it may."""

from __future__ import annotations

from enum import StrEnum

from rota.errors import Invalid


class Role(StrEnum):
    """Who may use a verb."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, other: Role) -> bool:
        """Tell whether whoever has this role may do what is for the other."""
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER = tuple(Role)


def check_role(value: object) -> Role:
    """Return the role of that name.

    Raises:
        Invalid: there is none.
    """
    if not isinstance(value, str) or value not in set(Role):
        raise Invalid("role", value, f"choose from {', '.join(_ORDER)}")
    return Role(value)


def least(*roles: Role) -> Role:
    """Return the one that may do the least."""
    return min(roles, key=_ORDER.index)
