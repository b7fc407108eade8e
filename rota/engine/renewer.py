"""The renewer: the second thread of a node that talks to the database, over a connection of its own.

It prolongs the leases of the claims it is given, all in one statement, and hears wake-ups in between, so that neither a
slow claim nor a long queue of ends ever delays a renewal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rota.engine.backoff import Backoff
from rota.engine.mailbox import Mailbox
from rota.errors import DatabaseRefused, DatabaseUnavailable
from rota.model.run import NodeIdentity
from rota.model.states import NodeState
from rota.store.database import Database
from rota.store.leases import renew_claims
from rota.store.skew import Skew
from rota.store.wakeup import Pulse

log = logging.getLogger("rota.worker")

WAIT_SECONDS_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class RenewalAsked:
    """From the watch: prolong these; ``asked_at`` (CLOCK_BOOTTIME) is what the new deadlines count from."""

    claims: dict[str, float]  # claim id: its lease in seconds
    asked_at: float


@dataclass(frozen=True, slots=True)
class Renewed:
    """To the watch: what the database said."""

    kept: dict[str, float]  # claim id: the new deadline
    lost: frozenset[str]
    cancelled: dict[str, str]
    frozen: frozenset[str]
    node_state: NodeState | None


class Renewer(threading.Thread):
    """Renews when asked, listens otherwise."""

    def __init__(
        self,
        database: Database,
        identity: NodeIdentity,
        lease_seconds: float,
        tell: Callable[[Renewed], None],
        hint: Callable[[], None],
        behind: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__(name="rota-renewer", daemon=True)
        self._database = database
        self.identity = identity
        self._lease_seconds = lease_seconds
        self._tell = tell
        self._hint = hint
        self._behind = behind  # how long the node's other loop has been without a good round, in seconds
        self._asked: Mailbox[RenewalAsked] = Mailbox()
        self._pulse = Pulse(database)
        self._skew = Skew()
        self._backoff = Backoff()
        self._stopping = False
        self._pending: RenewalAsked | None = None  # asked for, and not yet answered by the database

    def rename(self, identity: NodeIdentity) -> None:
        """Renew under another name from now on."""
        self.identity = identity
        self._skew.forget_written()

    def ask(self, asked: RenewalAsked) -> None:
        """Have these claims renewed as soon as possible. A newer request stands for an older one not yet begun."""
        self._asked.put(asked)

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._asked.put(RenewalAsked({}, 0.0))

    def run(self) -> None:
        """Renew and listen until stopped. No failure ends it."""
        while not self._stopping:
            try:
                if self._pulse.wait(0.0 if self._pending else WAIT_SECONDS_MAX, self._asked.fileno()):
                    self._hint()
                self.round(self._asked.take_all())
                self._backoff.succeeded()
                continue
            except DatabaseUnavailable as error:
                seconds = self._backoff.failed()
                if self._backoff.is_worth_a_line():
                    log.warning("renewing or listening failed %d times in a row: %s", self._backoff.failures, error)
            except DatabaseRefused as error:
                seconds = self._backoff.failed()
                if self._backoff.is_worth_a_line():
                    log.warning("a renewal was refused: %s", error)
            except Exception:  # the top of the loop
                seconds = self._backoff.failed()
                if self._backoff.is_worth_a_line():
                    log.exception("a renewal failed, %d times in a row", self._backoff.failures)
            if not self._stopping:
                time.sleep(min(seconds, self._lease_seconds / 10))
                self._hint()
        self._pulse.close()

    def round(self, asked: list[RenewalAsked]) -> None:
        """Renew what the newest request names; one that failed is sent again, with the deadlines it had."""
        newest = asked[-1] if asked else self._pending
        if newest is None or self._stopping:
            return
        self._pending = newest
        claims = newest.claims
        renewal = renew_claims(
            self._pulse,
            self.identity,
            claims,
            self._lease_seconds,
            leases=claims,
            skew=self._skew,
            behind_seconds=self._behind(),
        )
        self._pending = None
        self._tell(
            Renewed(
                kept={claim_id: newest.asked_at + newest.claims[claim_id] for claim_id in renewal.kept},
                lost=renewal.lost,
                cancelled=renewal.cancelled,
                frozen=renewal.frozen,
                node_state=renewal.node_state,
            )
        )
