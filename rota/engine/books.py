"""What the attempts of a node have come to, until the database has it: ends, deaths of guardians, takings over.

Invariant: no end is forgotten before the database has it, and one that cannot be recorded holds up no other. Used by
the bookkeeper and by the stand-in, each in the one thread in which it writes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rota.errors import DatabaseUnavailable
from rota.model.run import End
from rota.store.database import Database
from rota.store.endings import Delivered, end_runs, surrender_runs

log = logging.getLogger("rota.worker")

ENDS_MAX = 100
REFUSED_AGAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What went into the database in one go."""

    claim_ids: tuple[str, ...] = ()  # whose ends are there now
    waiting_seconds_min: float | None = None  # until the first retry among them; None: no retry
    has_given_back: bool = False


class Books:
    """Queues towards the database. Whoever adds to them and whoever empties them may be two threads."""

    def __init__(self, database: Database, actor: Callable[[], str], adopt: Callable[[Sequence[str]], None]) -> None:
        self._database = database
        self._actor = actor
        self._adopt = adopt
        self.ends: deque[End] = deque()
        self.dead: deque[str] = deque()  # claims whose guardian died
        self.adopted: deque[str] = deque()  # claims whose worker is gone, and whose guardian goes on with this one
        self._refused: deque[tuple[float, End]] = deque()  # ends that cannot be recorded, and when to try again

    @property
    def is_due(self) -> bool:
        """Whether there is something to write now."""
        return bool(self.ends or self.dead or self.adopted or (self._refused and self._is_refused_due()))

    @property
    def is_empty(self) -> bool:
        """Whether the database has everything."""
        return not (self.ends or self.dead or self.adopted or self._refused)

    def surrender(self) -> tuple[str, ...]:
        """Let go of the claims whose guardian died, and return them; the database decides what follows.

        Raises:
            DatabaseUnavailable: they stay in the queue.
        """
        claim_ids = tuple(self.dead)
        surrender_runs(self._database, claim_ids, actor=self._actor())
        for _ in claim_ids:
            self.dead.popleft()
        return claim_ids

    def adopt(self) -> None:
        """Tell which runs have been taken over."""
        claim_ids = tuple(self.adopted)
        self._adopt(claim_ids)
        for _ in claim_ids:
            self.adopted.popleft()

    def _is_refused_due(self) -> bool:
        return self._refused[0][0] <= time.monotonic()

    def deliver(self) -> Kept:
        """Bring the next ends into the database: one transaction for a batch, or one by one if that is refused.

        Raises:
            DatabaseUnavailable: all of them are kept, to be delivered when it is back.
        """
        while self._refused and self._is_refused_due():
            self.ends.append(self._refused.popleft()[1])
        if not self.ends:
            return Kept()
        batch = [self.ends[i] for i in range(min(len(self.ends), ENDS_MAX))]
        refused: list[End] = []
        try:
            delivered = end_runs(self._database, batch)
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - one end that cannot be recorded must not hold up the others
            log.error("a batch of %d ends was refused, delivering one by one: %s", len(batch), error)
            delivered, refused = self._deliver_one_by_one(batch)
        for _ in batch:
            self.ends.popleft()
        self._refused.extend((time.monotonic() + REFUSED_AGAIN_SECONDS, end) for end in refused)
        if delivered.orphaned:
            log.warning("%d ends came after their lease and are kept as orphans", len(delivered.orphaned))
        return Kept(
            claim_ids=tuple(end.claim_id for end in batch if end not in refused),
            waiting_seconds_min=delivered.waiting_seconds_min,
            has_given_back=any(end.kind == "released" for end in batch),
        )

    def _deliver_one_by_one(self, batch: list[End]) -> tuple[Delivered, list[End]]:
        orphaned: set[str] = set()
        refused: list[End] = []
        for end in batch:
            bare = End(
                claim_id=end.claim_id,
                run_id=end.run_id,
                kind="bad_result",
                exit_code=end.exit_code,
                signal=end.signal,
                error_type="EndRefused",
                error_message="the database refused to keep how it ended; the worker's log has the reason",
            )
            for form in (end, bare):
                try:
                    orphaned |= end_runs(self._database, [form]).orphaned
                    break
                except DatabaseUnavailable:
                    raise
                except Exception:
                    log.exception("the end of run %d cannot be recorded", end.run_id)
            else:
                # Kept, with its lease and its place, and offered again: perhaps a right is missing for a while.
                refused.append(end)
        applied = frozenset(end.claim_id for end in batch if end not in refused) - orphaned
        return Delivered(applied, frozenset(orphaned), None), refused
