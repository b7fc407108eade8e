"""The bookkeeper: the one thread of a node that keeps the books in the database.

It delivers ends, looks at what is due, lets the scheduler act, and claims what there are free slots for. It never
touches a process: what to start and what is acknowledged goes to the watch (``rota.engine.watch``) as messages, after
the commit.

Invariant: nothing is started before its claim, and its start mark, have been committed; no end is forgotten before the
database has it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rota.engine.backoff import Backoff
from rota.engine.scheduler import Scheduler
from rota.engine.settings import NodeSettings
from rota.errors import DatabaseRefused, DatabaseUnavailable
from rota.execution.linux import boottime
from rota.model.run import Claim, End, NodeIdentity
from rota.model.states import NodeState
from rota.store.database import Database
from rota.store.endings import Delivered, end_runs, surrender_runs
from rota.store.leases import adopt_claims, claim_runs, mark_started
from rota.store.nodes import describe_node

log = logging.getLogger("rota.worker")

ENDS_MAX = 100
GATHER_SECONDS = 0.01  # while other runs are about to end too, one transaction for several ends
LOOK_AGAIN_SECONDS = 0.1
REFUSED_AGAIN_SECONDS = 30.0
LOOK_AFTER_END_SECONDS = 0.2  # an end may let the next run of a queue go


@dataclass(frozen=True, slots=True)
class Start:
    """To the watch: these may be spawned now."""

    claims: tuple[Claim, ...]
    counted_from: float  # CLOCK_BOOTTIME before the claim was sent: each lease ends so many seconds after it


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """To the watch: these ends are in the database."""

    claim_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """To the watch: some run of this node is to be stopped; a renewal will say which."""


@dataclass(frozen=True, slots=True)
class Idle:
    """To the watch: there was nothing to do; a node that makes one pass may leave."""


Message = Start | Acknowledge | CancelAsked | Idle


class Bookkeeper(threading.Thread):
    """Rounds over the database, as soon as there is a reason for one."""

    def __init__(
        self,
        database: Database,
        identity: NodeIdentity,
        settings: NodeSettings,
        tell: Callable[[Message], None],
        *,
        clock: Callable[[], float] = boottime,
    ) -> None:
        super().__init__(name="rota-bookkeeper", daemon=True)
        self._database = database
        self._settings = settings
        self._tell = tell
        self._scheduler = Scheduler(database, identity, settings.pools, settings.lease_seconds, clock=clock)
        self._woken = threading.Condition()
        self._ends: deque[End] = deque()
        self._refused: deque[tuple[float, End]] = deque()  # ends that cannot be recorded, and when to try again
        self._dead: deque[str] = deque()
        self._adopted: deque[str] = deque()
        self._held: set[str] = set()  # claims whose end is not in the database yet
        self._accepting = True
        self._is_described = True  # what the database says of this node is true
        self._stopping = False
        self._hinted = True
        self._backoff = Backoff()
        self._trouble = Backoff()  # of single duties, while the database answers
        self._look_at = 0.0
        self._more_ready = False
        self.last_good_round = 0.0  # monotonic
        self.idle_rounds = 0  # looks in a row that found nothing to do

    # What other threads say

    def hear_end(self, end: End) -> None:
        """Take over an end; it is kept until the database has it."""
        with self._woken:
            self._ends.append(end)
            self._woken.notify()

    def hear_adopted(self, claim_id: str) -> None:
        """Take over a claim whose worker is gone, and whose guardian goes on with this one."""
        with self._woken:
            self._held.add(claim_id)
            self._adopted.append(claim_id)
            self._woken.notify()

    def hear_dead_guardian(self, claim_id: str) -> None:
        """Take over that a guardian died with this claim: its job is gone, and nobody will tell its end."""
        with self._woken:
            self._dead.append(claim_id)
            self._woken.notify()

    def let_go(self, claim_id: str) -> None:
        """Take over that nobody waits for the end of this claim any more; one that comes is recorded all the same."""
        with self._woken:
            self._held.discard(claim_id)
            self._hinted = True
            self._woken.notify()

    def hint(self) -> None:
        """Say that something may have changed in the database."""
        with self._woken:
            self._hinted = True
            self._woken.notify()

    def stop_claiming(self, *, tell: bool = False) -> None:
        """Claim nothing any more, and ``tell`` the others; ends are still delivered, and schedules fired."""
        with self._woken:
            self._accepting = False
            self._is_described = self._is_described and not tell
            self._woken.notify()

    def stop(self) -> None:
        """End the thread after the round it is in."""
        with self._woken:
            self._stopping = True
            self._woken.notify()

    def apply(self, settings: NodeSettings) -> None:
        """Work by new settings from the next round on."""
        with self._woken:
            self._settings = settings
            self._is_described = False
            self._scheduler.pools = settings.pools
            self._hinted = True
            self._woken.notify()

    def rename(self, identity: NodeIdentity) -> None:
        """Claim under another name from now on."""
        self._scheduler.identity = identity

    @property
    def held_count(self) -> int:
        """How many claims are not ended in the database yet."""
        return len(self._held)

    @property
    def is_accepting(self) -> bool:
        """Tell whether this node takes on anything new."""
        return self._accepting

    @property
    def free(self) -> int:
        """How many runs may be claimed now."""
        return self._settings.slots - len(self._held) if self._accepting else 0

    # The thread

    def run(self) -> None:
        """Do rounds until stopped. No round's failure ends it."""
        while True:
            with self._woken:
                if not self._has_reason():
                    self._woken.wait(max(0.0, self._look_at - time.monotonic()))
                if self._ends and not self._stopping:
                    self._woken.wait_for(self._has_gathered, GATHER_SECONDS)
                if self._stopping and not self._ends and not self._dead:
                    return
            try:
                self.round()
                if self._backoff.succeeded():
                    log.info("the database answers again")
                self.last_good_round = time.monotonic()
                continue
            except DatabaseUnavailable as error:
                seconds = self._backoff.failed()
                if self._backoff.is_worth_a_line():
                    log.warning("round %d in a row failed: %s", self._backoff.failures, error)
            except DatabaseRefused as error:
                seconds = self._backoff.failed()
                if self._backoff.is_worth_a_line():
                    log.exception("a round was refused: %s", error)
            except Exception:  # the top of the loop: logged, counted, and tried again later
                seconds = self._backoff.failed()
                log.exception("a round failed")
            if self._stopping:
                return
            time.sleep(seconds)

    def _has_reason(self) -> bool:
        return bool(
            self._stopping
            or self._hinted
            or self._ends
            or self._dead
            or self._adopted
            or not self._is_described
            or (self._more_ready and self.free > 0)
            or time.monotonic() >= self._look_at
        )

    def _has_gathered(self) -> bool:
        # Half of what is under way: the other half keeps the processors busy meanwhile.
        return self._stopping or len(self._ends) >= min(ENDS_MAX, max(1, len(self._held) // 2))

    def round(self) -> None:
        """Deliver what has ended, do what is due, claim what there is room for."""
        if self._dead:
            self._surrender()
        if self._adopted:
            self._adopt()
        while self._refused and self._refused[0][0] <= time.monotonic():
            self._ends.append(self._refused.popleft()[1])
        if self._ends:
            self._deliver()
        if not self._is_described:
            self._describe()
        ready = self._more_ready
        if self._hinted or time.monotonic() >= self._look_at:
            ready = self._look_and_act()
        if ready and self.free > 0:
            self._claim()

    def _deliver(self) -> None:
        batch = [self._ends[i] for i in range(min(len(self._ends), ENDS_MAX))]
        refused: list[End] = []
        try:
            delivered = end_runs(self._database, batch)
        except DatabaseUnavailable:
            raise  # all of them are kept, and delivered when it is back
        except Exception as error:  # noqa: BLE001 - one end that cannot be recorded must not hold up the others
            log.error("a batch of %d ends was refused, delivering one by one: %s", len(batch), error)
            delivered, refused = self._deliver_one_by_one(batch)
        if delivered.waiting_seconds_min is not None:
            self._look_at = min(self._look_at, time.monotonic() + delivered.waiting_seconds_min)
        self._look_at = min(self._look_at, time.monotonic() + LOOK_AFTER_END_SECONDS)
        for _ in batch:
            self._ends.popleft()
        self._refused.extend((time.monotonic() + REFUSED_AGAIN_SECONDS, end) for end in refused)
        claim_ids = tuple(end.claim_id for end in batch if end not in refused)
        self.idle_rounds = 0  # a retry may be due: a pass looks once more before it leaves
        self._held.difference_update(claim_ids)
        if delivered.orphaned:
            log.warning("%d ends came after their lease and are kept as orphans", len(delivered.orphaned))
        if any(end.kind == "released" for end in batch):
            self._hinted = True
        self._tell(Acknowledge(claim_ids))

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

    def _describe(self) -> None:
        self._is_described = True
        state = NodeState.ALIVE if self._accepting else NodeState.DRAINING
        settings, identity = self._settings, self._scheduler.identity
        try:
            describe_node(self._database, identity, state=state, pools=settings.pools, slots=settings.slots)
        except BaseException:
            self._is_described = False
            raise

    def _adopt(self) -> None:
        claim_ids = list(self._adopted)
        adopt_claims(self._database, self._scheduler.identity, claim_ids)
        for _ in claim_ids:
            self._adopted.popleft()
        self.idle_rounds = 0

    def _surrender(self) -> None:
        claim_ids = list(self._dead)
        surrender_runs(self._database, claim_ids, actor=self._scheduler.identity.name)
        for _ in claim_ids:
            self._dead.popleft()
        self.idle_rounds = 0
        self._held.difference_update(claim_ids)
        self._hinted = True

    def _look_and_act(self) -> bool:
        self._hinted = False
        outlook = self._scheduler.look()
        done = self._scheduler.round(outlook)
        if outlook.has_cancelled:
            self._tell(CancelAsked())
        seconds = self._settings.poll_seconds or self._database.dialect.poll_seconds
        if done.trouble is not None:
            seconds = min(seconds, self._tell_trouble(done.trouble))
        else:
            self._trouble.succeeded()
        if done.anything:
            seconds = 0.0  # the outlook is out of date
        elif (ahead := self._scheduler.seconds_until_next(outlook)) is not None:
            # What is due and was not done is being done by another node, or locked by somebody: no reason to spin.
            seconds = min(seconds, ahead if ahead > 0 else LOOK_AGAIN_SECONDS)
        self._look_at = time.monotonic() + seconds
        ready = outlook.has_ready or done.ready > 0
        self.idle_rounds = 0 if ready or done.anything else self.idle_rounds + 1
        if self.idle_rounds:
            self._tell(Idle())
        return ready

    def _tell_trouble(self, trouble: Exception) -> float:
        # Claims go on, and so does everything else that was due; so this loop does not wait, as it does for a database.
        seconds = self._trouble.failed()
        if self._trouble.is_worth_a_line():
            log.error("something that is due failed, %d times in a row", self._trouble.failures, exc_info=trouble)
        return seconds

    def _claim(self) -> None:
        wanted = self.free
        before = boottime()
        identity = self._scheduler.identity
        claims = claim_runs(self._database, identity, self._settings.pools, wanted, self._settings.lease_seconds)
        self._more_ready = len(claims) >= wanted
        if not claims:
            return
        may_start = [claim for claim in claims if claim.marked]
        self._start(may_start, before)
        if len(may_start) < len(claims):
            self._mark_and_start([claim for claim in claims if not claim.marked], before)

    def _mark_and_start(self, claims: list[Claim], before: float) -> None:
        marked: frozenset[str] = frozenset()
        try:
            marked = mark_started(self._database, [claim.claim_id for claim in claims])
        finally:
            # A mark whose outcome is unknown is not followed by a start, so giving such a claim back tells the truth.
            for claim in claims:
                if claim.claim_id not in marked:
                    self._held.add(claim.claim_id)
                    self._ends.append(
                        End(claim.claim_id, claim.run_id, "released", error_message="not allowed to start")
                    )
        self._start([claim for claim in claims if claim.claim_id in marked], before)

    def _start(self, claims: list[Claim], before: float) -> None:
        # Held first, then asked whether we still may: whoever stops us looks in the other order, and misses nothing.
        self._held.update(claim.claim_id for claim in claims)
        if not self._accepting:
            for claim in claims:
                self._ends.append(End(claim.claim_id, claim.run_id, "released", error_message="the worker is leaving"))
        elif claims:
            self._tell(Start(tuple(claims), before))
