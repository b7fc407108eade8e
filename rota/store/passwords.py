"""Passwords, hashed with Argon2id.

The parameters are above the least that OWASP names (46 MiB and one pass, or 19 MiB and two). At most a few are hashed
at the same moment in one process, so that a flood of log-ins takes time, and not all memory.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

from rota.errors import NotSupported

if TYPE_CHECKING:
    from argon2 import PasswordHasher

PASSES = 2
MEMORY_KIB = 47104
LANES = 1
AT_ONCE_MAX = 4

_turns = threading.BoundedSemaphore(AT_ONCE_MAX)


@cache
def _hasher() -> PasswordHasher:
    try:
        from argon2 import PasswordHasher
    except ModuleNotFoundError as error:
        raise NotSupported("passwords need the package argon2-cffi: pip install 'rota[web]'") from error
    return PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)


@cache
def _nobodys() -> str:
    """The hash that stands for a user who is not there: looking takes as long as for one who is."""
    return _hasher().hash("nobody has this password")


def hash_password(password: str) -> str:
    """Return what is kept of a password that has been checked and normalized.

    Raises:
        NotSupported: the package for it is not installed.
    """
    with _turns:
        return _hasher().hash(password)


def is_password(password: str | None, kept: str | None) -> bool:
    """Tell whether this is the password of which ``kept`` is kept; as slowly where there is none on either side."""
    from argon2.exceptions import InvalidHashError, VerificationError

    with _turns:
        try:
            is_right = _hasher().verify(kept or _nobodys(), password or "")
        except VerificationError:
            return False
        except InvalidHashError:  # somebody has written into the row by hand
            return False
    return is_right and kept is not None and password is not None


def is_outdated(kept: str) -> bool:
    """Tell whether what is kept was made with other parameters than today's."""
    return _hasher().check_needs_rehash(kept)
