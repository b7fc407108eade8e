"""Limits on log-in attempts: when the next one is looked at at all, decided from the failures there were lately.

The rules count three ways at once. One user from one address is the strict one: that is somebody guessing. One address,
whomever it names, is loose: an office has one address. One user, from wherever, is very loose: it slows down a crowd
of machines that guess one password together, and a stranger needs as many of them to keep that user out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

MEMORY_SECONDS = 3600.0  # failures count for so long


@dataclass(frozen=True, slots=True)
class Limit:
    """So many failures within a time are looked at; then there is a wait, which each further one doubles."""

    failures: int
    within_seconds: float = 300.0
    wait_seconds: float = 60.0
    wait_seconds_max: float = 900.0

    def wait_until(self, failures: Sequence[datetime]) -> datetime | None:
        """Return when the next attempt is looked at, after these failures of the last hour, oldest first.

        None: there is no wait.
        """
        reached = self._reached(failures)
        if reached is None:
            return None
        beyond = min(len(failures) - reached - 1, 10)
        wait = min(self.wait_seconds_max, self.wait_seconds * 2.0**beyond)
        return failures[-1] + timedelta(seconds=wait)

    def _reached(self, failures: Sequence[datetime]) -> int | None:
        """Return the place of the failure by which there were too many for the first time."""
        span = timedelta(seconds=self.within_seconds)
        for last in range(self.failures - 1, len(failures)):
            if failures[last] - failures[last - self.failures + 1] <= span:
                return last
        return None


PER_USER_AND_ADDRESS = Limit(5)
PER_ADDRESS = Limit(50)
PER_USER = Limit(200)


@dataclass(frozen=True, slots=True)
class Failure:
    """A log-in that did not succeed."""

    at: datetime
    name_hash: str
    address: str


def waits_until(failures: Sequence[Failure], name_hash: str, address: str, now: datetime) -> datetime | None:
    """Return until when log-ins of this name from this address are refused unseen; None: the next one is looked at.

    ``failures`` are those of the last hour of the name, or of the address, in any order. What is later than now was
    written before the clock was put back, and does not count.
    """
    known = sorted((one for one in failures if one.at <= now), key=lambda one: one.at)
    of_name = [one for one in known if one.name_hash == name_hash]
    of_address = [one for one in known if one.address == address]
    waits = (
        PER_USER_AND_ADDRESS.wait_until([one.at for one in of_name if one.address == address]),
        PER_ADDRESS.wait_until([one.at for one in of_address]),
        PER_USER.wait_until([one.at for one in of_name]),
    )
    return max((wait for wait in waits if wait is not None and wait > now), default=None)


def network_of(address: str | None) -> str:
    """Return what counts as one address: of IPv6 the network of 64 bits, which one subscriber has; without one, ''."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)
