"""The bookkeeper: the one thread of a node that keeps the books in the database.

It delivers ends, looks at what is due, lets the scheduler act, and claims what there are free slots for. It never
touches a process: what to start and what is acknowledged goes to the watch (``rota.engine.watch``) as messages, after
the commit.

Invariant: nothing is started before its claim, and its start mark, have been committed; no end is forgotten before the
database has it. Long, since all that its one thread does between two waits decides when it wakes next.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rota.engine.backoff import Backoff
from rota.engine.books import ENDS_MAX, Books
from rota.engine.scheduler import Answer, Scheduler
from rota.engine.settings import NodeSettings
from rota.errors import DatabaseRefused, DatabaseUnavailable
from rota.execution.linux import boottime
from rota.model.job import POOL_DEFAULT
from rota.model.keeping import format_keep
from rota.model.run import Claim, End, NodeIdentity, Report
from rota.model.states import NodeState
from rota.store.database import Database
from rota.store.leases import adopt_claims, claim_runs, mark_started
from rota.store.nodes import describe_node
from rota.store.outlook import Outlook
from rota.store.pool_rules import read_served

log = logging.getLogger("rota.worker")

GATHER_SECONDS = 0.01  # while other runs are about to end too, one transaction for several ends
POLL_SPREAD = 0.1  # of the time between two polls, by chance: nodes that start together do not look together for long
LOOK_AGAIN_SECONDS = 0.1
LOOK_TROUBLED_SECONDS_MAX = 1.0  # the same while something that is due fails again and again: nothing else waits longer
LOOK_AFTER_END_SECONDS = 0.2  # an end may let the next run of a queue go
HELD_BACK_SECONDS = 1.0  # until the next look while another node comes first for a run, for a while
NOT_TOLD_SECONDS = 1.0  # from one look to the next while a guardian is to be told to freeze, or thaw, its job
VAIN_CLAIMS_MAX = 3  # after so many, a pass leaves to others what is ready
RULES_SECONDS = 3.0  # from one reading of the rules of pools to the next, where there are any


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
class RenewalWanted:
    """To the watch: some run of this node is to be stopped, frozen or thawed; a renewal will say which."""


@dataclass(frozen=True, slots=True)
class Idle:
    """To the watch: there was nothing to do; a node that makes one pass may leave."""


Message = Start | Acknowledge | RenewalWanted | Idle


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
        answer: Answer | None = None,
    ) -> None:
        super().__init__(name="rota-bookkeeper", daemon=True)
        self._database = database
        self._settings = settings
        self._tell = tell
        self._scheduler = Scheduler(
            database,
            identity,
            settings.pools,
            settings.lease_seconds,
            clock=clock,
            environments=settings.environments,
        )
        self._scheduler.secrets = settings.secrets.offered()
        self._scheduler.labels = settings.labels
        self._scheduler.answer = answer
        self._clock = clock
        self._rules_at = 0.0  # by that clock: not before, the rules of pools are read again
        self._keep(settings)
        self._woken = threading.Condition()
        self._books = Books(
            database,
            actor=lambda: self._scheduler.identity.name,
            adopt=lambda claim_ids: adopt_claims(database, self._scheduler.identity, claim_ids),
        )
        self._held: set[str] = set()  # claims whose end is not in the database yet
        self._accepting = True
        self._is_described = True  # what the database says of this node is true
        self._stopping = False
        self._hinted = True
        self._backoff = Backoff()
        self._trouble = Backoff()  # of single duties, while the database answers
        self._look_at = 0.0
        self._more_ready = False
        self._frozen: frozenset[int] = frozenset()  # runs whose guardians were told to hold their processes
        self._is_drained = False  # somebody asked this node to claim nothing, which the database sees to
        self.last_good_round = time.monotonic()
        self.idle_rounds = 0  # looks in a row that found nothing to do
        self._vain_claims = 0  # claims in a row that got nothing although something was ready

    # What other threads say

    def hear_end(self, end: End) -> None:
        """Take over an end; it is kept until the database has it."""
        with self._woken:
            self._books.ends.append(end)
            self._woken.notify()

    def hear_report(self, report: Report) -> None:
        """Take over what a running job has told."""
        with self._woken:
            self._books.hear_report(report)
            self._woken.notify()

    def hear_adopted(self, claim_id: str) -> None:
        """Take over a claim whose worker is gone, and whose guardian goes on with this one."""
        with self._woken:
            self._held.add(claim_id)
            self._books.adopted.append(claim_id)
            self._woken.notify()

    def hear_dead_guardian(self, claim_id: str) -> None:
        """Take over that a guardian died with this claim: its job is gone, and nobody will tell its end."""
        with self._woken:
            self._books.dead.append(claim_id)
            self._woken.notify()

    def hear_frozen(self, run_ids: frozenset[int]) -> None:
        """Take over whose processes are held now: as long as the database wants others, renewals are asked for."""
        self._frozen = run_ids

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

    def deliver_rest(self) -> None:
        """Deliver the ends that came after the thread had ended: what it had claimed last may not have been started."""
        if self._books.ends and not self.is_alive():
            try:
                self._deliver()
            except (DatabaseUnavailable, DatabaseRefused) as error:
                log.warning("%d ends came too late for the database: %s", len(self._books.ends), error)

    def apply(self, settings: NodeSettings) -> None:
        """Work by new settings from the next round on."""
        with self._woken:
            self._settings = settings
            self._is_described = False
            self._scheduler.labels = settings.labels
            self._keep(settings)
            self._scheduler.environments = settings.environments
            self._hinted = True
            self._woken.notify()

    def _keep(self, settings: NodeSettings) -> None:
        tidier = self._scheduler.tidier
        tidier.keep_output_seconds, tidier.keep_runs = settings.keep_output_seconds, settings.keep_runs
        tidier.keep_audit_seconds = settings.keep_audit_seconds

    def rename(self, identity: NodeIdentity) -> None:
        """Claim under another name from now on."""
        self._scheduler.identity = identity
        self._is_described = False  # other rules of pools may name it

    @property
    def held_count(self) -> int:
        """How many claims are not ended in the database yet."""
        return len(self._held)

    @property
    def behind_seconds(self) -> float:
        """How long there has been no good round, though one was due."""
        since = self.last_good_round if self._backoff.failures else max(self.last_good_round, self._look_at)
        return max(0.0, time.monotonic() - since)

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
                    self._woken.wait(self._wait_seconds())
                if self._books.ends and not self._stopping:
                    self._woken.wait_for(self._has_gathered, GATHER_SECONDS)
                if self._stopping and not self._books.ends and not self._books.dead:
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
                if self._backoff.is_worth_a_line():
                    log.exception("a round failed, %d times in a row", self._backoff.failures)
            if self._stopping:
                return
            time.sleep(seconds)

    def _wait_seconds(self) -> float:
        look_seconds = max(0.0, self._look_at - time.monotonic())
        due_seconds = self._books.seconds_until_due()
        return look_seconds if due_seconds is None else min(look_seconds, due_seconds)

    def _has_reason(self) -> bool:
        return bool(
            self._stopping
            or self._hinted
            or self._books.is_due
            or not self._is_described
            or (self._more_ready and self.free > 0)
            or time.monotonic() >= self._look_at
        )

    def _has_gathered(self) -> bool:
        # Half of what is under way: the other half keeps the processors busy meanwhile.
        return self._stopping or len(self._books.ends) >= min(ENDS_MAX, max(1, len(self._held) // 2))

    def round(self) -> None:
        """Deliver what has ended, do what is due, claim what there is room for."""
        books = self._books
        books.bring_back()
        if books.dead:
            self._surrender()
        if books.adopted:
            books.adopt()
            self.idle_rounds = 0
        books.tell()
        if books.is_due:
            self._deliver()
        if self._scheduler.secrets != (offered := self._settings.secrets.offered()):
            self._scheduler.secrets = offered
            self._is_described = False
        if not self._is_described:
            self._describe()
        ready = self._more_ready
        if self._hinted or time.monotonic() >= self._look_at:
            ready = self._look_and_act()
        if ready and self.free > 0:
            self._claim()

    def _deliver(self) -> None:
        kept = self._books.deliver()
        if kept.waiting_seconds_min is not None:
            self._look_at = min(self._look_at, time.monotonic() + kept.waiting_seconds_min)
        self._look_at = min(self._look_at, time.monotonic() + LOOK_AFTER_END_SECONDS)
        self.idle_rounds = 0  # a retry may be due: a pass looks once more before it leaves
        self._held.difference_update(kept.claim_ids)
        self._hinted = self._hinted or kept.has_given_back
        self._tell(Acknowledge(kept.claim_ids))

    def _describe(self) -> None:
        self._is_described = True
        state = NodeState.ALIVE if self._accepting else NodeState.DRAINING
        settings, identity = self._settings, self._scheduler.identity
        try:
            self._scheduler.pools = describe_node(
                self._database,
                identity,
                state=state,
                pools=settings.pools,
                slots=settings.slots,
                environments=settings.environments.spelled,
                secrets=self._scheduler.secrets,
                labels=settings.labels,
                keep_runs=format_keep(settings.keep_runs),
                on_new_pool=tell_new_pool,
            )
        except BaseException:
            self._is_described = False
            raise

    def _surrender(self) -> None:
        self._held.difference_update(self._books.surrender())
        self.idle_rounds = 0
        self._hinted = True

    def _look_and_act(self) -> bool:
        self._hinted = False
        began_at = time.monotonic()
        outlook = self._scheduler.look()
        done = self._scheduler.round(outlook)
        is_told = (outlook.frozen_count, outlook.frozen_sum) == (len(self._frozen), sum(self._frozen))
        if outlook.has_cancelled or not is_told:
            self._tell(RenewalWanted())
        if outlook.is_drained != self._is_drained:
            self._hear_drained(is_drained=outlook.is_drained)
        has_moved = self._follow_rules(outlook)
        seconds = self._settings.poll_seconds or self._database.dialect.poll_seconds
        seconds *= random.uniform(1.0 - POLL_SPREAD, 1.0)
        # Counted from look to look. A database that takes long to answer is asked at most half of the time.
        seconds -= min(time.monotonic() - began_at, seconds / 2)
        if outlook.has_held_back:
            seconds = min(seconds, HELD_BACK_SECONDS)
        if not is_told:  # a renewal passes over a run that somebody has locked, and over a guardian that is silent
            seconds = min(seconds, NOT_TOLD_SECONDS)
        if outlook.has_rules:
            seconds = min(seconds, max(0.0, self._rules_at - self._clock()))
        again = LOOK_AGAIN_SECONDS
        if done.trouble is not None:
            backoff = self._tell_trouble(done.trouble)
            seconds = min(seconds, backoff)
            # It stays due, and hides when the next thing will be: looked at ever more rarely, and never too rarely.
            again = max(again, min(backoff, LOOK_TROUBLED_SECONDS_MAX))
        else:
            self._trouble.succeeded()
        if done.anything or has_moved:
            seconds = 0.0  # the outlook is out of date
        elif (ahead := self._scheduler.seconds_until_next(outlook)) is not None:
            # What is due and was not done is being done by another node, or locked by somebody: no reason to spin.
            seconds = min(seconds, ahead if ahead > 0 else again)
        if (tidying := self._scheduler.tidier.seconds_until_next) is not None:
            seconds = min(seconds, max(tidying, LOOK_AGAIN_SECONDS))
        self._look_at = time.monotonic() + seconds
        ready = outlook.has_ready or done.ready > 0
        # What is ready may be for others: locked by them, or under a mutex that is kept for a run before it.
        has_ready = ready and self._vain_claims < VAIN_CLAIMS_MAX
        self.idle_rounds = 0 if has_ready or done.anything or has_moved else self.idle_rounds + 1
        if self.idle_rounds:
            self._tell(Idle())
        return ready

    def _follow_rules(self, outlook: Outlook) -> bool:
        """Serve the pools whose rules name this node, and no others but its own; tell whether they have changed."""
        before, settings = self._scheduler.pools, self._settings
        now = self._clock()
        if now < self._rules_at or (not outlook.has_rules and before == settings.pools):
            return False
        self._rules_at = now + RULES_SECONDS
        name = self._scheduler.identity.name
        if read_served(self._database, settings.pools, name, settings.labels) == before:
            return False
        self._describe()
        log.info("serving pools %s from now on", ", ".join(self._scheduler.pools))
        return self._scheduler.pools != before

    def _hear_drained(self, *, is_drained: bool) -> None:
        # Not the same as leaving: it goes on with its runs, fires, and takes guardians over.
        self._is_drained = is_drained
        if is_drained:
            log.info("asked to drain: no new claims until `rota node resume %s`", self._scheduler.identity.name)
        elif self._accepting:
            log.info("resumed: claiming again")
        else:
            self._is_described = False  # it drains all the same, since it leaves, and says so again

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
        settings = self._settings
        claims = claim_runs(
            self._database,
            identity,
            self._scheduler.pools,
            wanted,
            settings.lease_seconds,
            settings.environments,
            self._scheduler.secrets,
            self._scheduler.labels,
        )
        self._more_ready = len(claims) >= wanted
        self._vain_claims = 0 if claims else self._vain_claims + 1
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
                    self._books.ends.append(
                        End(claim.claim_id, claim.run_id, "released", error_message="not allowed to start")
                    )
        self._start([claim for claim in claims if claim.claim_id in marked], before)

    def _start(self, claims: list[Claim], before: float) -> None:
        # Held first, then asked whether we still may: whoever stops us looks in the other order, and misses nothing.
        self._held.update(claim.claim_id for claim in claims)
        if not self._accepting:
            gone = "the worker is leaving"
            self._books.ends.extend(End(c.claim_id, c.run_id, "released", error_message=gone) for c in claims)
        elif claims:
            self._tell(Start(tuple(claims), before))


def tell_new_pool(name: str) -> None:
    """Say that this node is the first to name a pool: it may be mistyped."""
    if name != POOL_DEFAULT:  # which nobody has typed
        log.warning("pool %s was not known before: made", name)
