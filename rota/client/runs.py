"""Runs, as applications see them: a list of all, and a handle for one.

A handle is a number and a connection: it holds no state of the run, so what it tells is what the database says now.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rota.errors import Conflict, Invalid, RunFailed, RunTimeout
from rota.model.durations import parse_duration
from rota.model.instants import check_zone, parse_instant
from rota.model.pages import Page
from rota.model.states import RunState
from rota.model.transcript import Part, arrange, join
from rota.model.values import ID_MAX, check_id, check_whole
from rota.store import interventions
from rota.store.downstream import read_downstream
from rota.store.groups import read_group
from rota.store.runs import LIST_MAX, Ended, list_runs, read_ended, read_run, read_transcript

if TYPE_CHECKING:
    from datetime import timedelta

    from rota.client.groups import GroupHandle
    from rota.client.rota import Rota

WAIT_SECONDS_MIN = 0.02
WAIT_SECONDS_MAX = 1.0
FOLLOW_SECONDS = 0.5
STREAMS = ("stdout", "stderr")
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)

Sleep = Callable[[float], None]


def check_run_id(value: object) -> int:
    """Read the number of a run, also when it comes as text.

    Raises:
        Invalid: it is no number that a run could have.
    """
    return check_id("run", value)


@dataclass(frozen=True, slots=True)
class Output:
    """Some of what an attempt wrote."""

    attempt: int
    started_at: str | None
    parts: list[Part]
    seen: dict[str, int] = field(default_factory=dict[str, int])  # up to which position of each stream


def _chosen(parts: list[Part], stream: str | None) -> list[Part]:
    return [part for part in parts if stream in (None, part.stream)]


def _check_output(attempt: int | None, stream: str | None) -> None:
    if attempt is not None and (isinstance(attempt, bool) or attempt < 1):
        raise Invalid("attempt", attempt, "attempts are counted from 1")
    if stream is not None and stream not in STREAMS:
        raise Invalid("stream", stream, f"choose from {', '.join(STREAMS)}")


class RunHandle:
    """One run: look at it, wait for it, act on it.

    ``is_new`` is False where a request has got the run that held its key, instead of one of its own.
    """

    def __init__(self, rota: Rota, run_id: int, *, is_new: bool = True, sleep: Sleep = time.sleep) -> None:
        self._rota = rota
        self.id = run_id
        self.is_new = is_new
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    def show(self) -> dict[str, Any]:
        """Return all that is known about the run, its attempts and events.

        Raises:
            NotFound: there is no such run.
        """
        return read_run(self._rota.database, self.id)

    def _ended(self) -> Ended:
        return read_ended(self._rota.database, self.id)

    @property
    def state(self) -> str:
        """The state the run is in now."""
        return self._ended().state

    @property
    def result(self) -> Any:
        """What the run returned.

        Raises:
            RunFailed: it ended, and did not succeed.
            Conflict: it has not ended: wait for it.
        """
        ended = self._ended()
        if not ended.is_finished:
            raise Conflict(f"run {self.id} is {ended.state} and has no result yet: wait for it with .wait()")
        if ended.state != RunState.SUCCEEDED.value:
            raise RunFailed(self.id, ended.state, ended.text)
        return ended.result

    def wait(self, timeout: str | float | timedelta | None = None) -> RunHandle:
        """Wait until the run has ended, however it did; return the handle. Look at ``.state`` or ``.result`` then.

        Raises:
            RunTimeout: it has not ended within ``timeout``; it goes on.
        """
        seconds = None if timeout is None else parse_duration("timeout", timeout, zero_ok=True)
        ends = None if seconds is None else time.monotonic() + seconds
        pause = WAIT_SECONDS_MIN
        while not self._ended().is_finished:
            left = None if ends is None else ends - time.monotonic()
            if seconds is not None and left is not None and left <= 0:
                raise RunTimeout(self.id, seconds)
            # Quick at first, for runs that end at once; then no more than a statement a second.
            self._sleep(min(pause * random.uniform(0.8, 1.2), left if left is not None else pause))
            pause = min(WAIT_SECONDS_MAX, pause * 1.5)
        return self

    def logs(self, attempt: int | None = None, stream: str | None = None) -> bytes:
        """Return what an attempt wrote, the last one unless told, on both streams or on one of stdout and stderr.

        In the order in which it came; of a job that runs, what is known of it now. Of more than the cap of a stream
        (1 MiB by default), its head and its tail.

        Raises:
            NotFound: there is no such run, or it has no such attempt.
        """
        return join(self.transcript(attempt, stream)[1])

    def transcript(self, attempt: int | None = None, stream: str | None = None) -> tuple[str | None, list[Part]]:
        """Return when an attempt started, and what it wrote as parts, each with the moment at which it came.

        Raises:
            NotFound: there is no such run, or it has no such attempt.
        """
        _check_output(attempt, stream)
        found = read_transcript(self._rota.database, self.id, attempt_number=attempt)
        pieces = [piece for piece in found.pieces if stream in (None, piece.stream)]
        return found.started_at, arrange(pieces)

    def read_output(self, attempt: int | None = None, seen: Mapping[str, int] | None = None) -> Output:
        """Return what an attempt, the last one unless told, wrote after the positions ``seen`` of its streams.

        ``seen`` of what is returned is up to where each stream was read. Before the first attempt, its number is 0.

        Raises:
            NotFound: there is no such run, or it has no such attempt.
        """
        _check_output(attempt, None)
        found = read_transcript(self._rota.database, self.id, attempt_number=attempt, seen=seen)
        positions = dict(seen or {})
        parts = arrange(found.pieces, positions)
        return Output(found.attempt or 0, found.started_at, parts, positions)

    def follow(self, stream: str | None = None) -> Iterator[Output]:
        """Give what the run writes as it comes, from the beginning of its last attempt until the run has ended.

        Asks the database twice a second. An attempt that follows is announced by an ``Output`` without parts.

        Raises:
            NotFound: there is no such run.
        """
        _check_output(None, stream)
        attempt: int | None = None
        seen: dict[str, int] = {}
        while True:
            has_ended = self._ended().is_written  # before the output is read: nothing comes after it
            found = read_transcript(self._rota.database, self.id, seen=seen)
            if found.attempt != attempt:
                # The one before may have written something last that nobody has seen.
                if attempt is not None:
                    rest = read_transcript(self._rota.database, self.id, attempt_number=attempt, seen=seen)
                    yield Output(attempt, rest.started_at, _chosen(arrange(rest.pieces, seen), stream))
                attempt, seen = found.attempt, {}
                assert attempt is not None
                yield Output(attempt, found.started_at, [])
                found = read_transcript(self._rota.database, self.id, attempt_number=attempt)
            if attempt is not None and found.pieces:
                yield Output(attempt, found.started_at, _chosen(arrange(found.pieces, seen), stream))
            if has_ended:
                return
            self._sleep(FOLLOW_SECONDS)

    def cancel(self) -> str:
        """Withdraw the run, or have its node stop it; return its state: ``cancelled``, or ``running`` until it stopped.

        Raises:
            AlreadyFinished: it has ended.
        """
        return interventions.cancel_run(self._rota.database, self.id, actor=self._rota.actor)

    def freeze(self) -> bool:
        """Hold all processes of a running run where they are, until it is thawed or stopped. Its lease goes on.

        Returns:
            False: its node was asked to before, and nothing is changed.

        Raises:
            Conflict: it is not running, or is being cancelled.
        """
        return interventions.freeze_run(self._rota.database, self.id, actor=self._rota.actor)

    def thaw(self) -> bool:
        """Let the processes of a frozen run go on. The time it was frozen does not count towards its time limit.

        Returns:
            False: it is not frozen, and nothing is changed.

        Raises:
            Conflict: it is not running.
        """
        return interventions.thaw_run(self._rota.database, self.id, actor=self._rota.actor)

    def rerun(self, *, force: bool = False, downstream: bool = False) -> RunHandle:
        """Have a finished run done again: the same run, its next attempt.

        With ``force`` whatever became of what its job runs after. With ``downstream`` what ``downstream()`` names is
        done again after it, in the order of the dependencies.

        Raises:
            Conflict: it has not ended, another run holds its key now, it builds on what is not done, or what builds on
                it is running; nothing was changed.
        """
        interventions.rerun_run(
            self._rota.database, self.id, actor=self._rota.actor, force=force, downstream=downstream
        )
        return self

    def downstream(self) -> list[dict[str, Any]]:
        """Return what builds on the run, and is done again with it if that is asked for: id, job, slot, state of each.

        Raises:
            Conflict: it is of no slot, or there is too much.
        """
        return read_downstream(self._rota.database, self.id)

    def skip(self) -> None:
        """Do without a run that has not started.

        Raises:
            AlreadyFinished: it has ended.
            Conflict: it is running.
        """
        interventions.skip_run(self._rota.database, self.id, actor=self._rota.actor)

    def mark_succeeded(self) -> None:
        """Let a run that ended otherwise count as done.

        Raises:
            Conflict: it has not ended.
        """
        interventions.mark_succeeded(self._rota.database, self.id, actor=self._rota.actor)


class Runs:
    """All runs: ``rota.runs``."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def __getitem__(self, run_id: int | str) -> RunHandle:
        return RunHandle(self._rota, check_run_id(run_id))

    def list(
        self,
        job: str | None = None,
        schedule: str | None = None,
        state: str | Sequence[str] | None = None,
        since: str | datetime | None = None,
        limit: int = 50,
        before: int | None = None,
        group: str | None = None,
        within: int | None = None,
        *,
        until: str | datetime | None = None,
        first: str | datetime | None = None,
        end: str | datetime | None = None,
        brief: bool = False,
    ) -> Page[dict[str, Any]]:
        """Return runs, newest first: of a job, schedule or group, in one state or several, asked for since
        a moment and ``until`` another one.

        ``next`` of what is returned is the ``before`` of the next page: the id of its last run. With ``within``, no
        more than so many ids are looked at: a page may hold less than ``limit`` then, or nothing, and have a ``next``.

        With ``first`` or ``end``, those of ``job`` whose slot or period, or the moment at which they were asked for,
        lies in [first, end), the latest first. ``brief``: without ``attempts``, ``events`` and ``error``.

        Raises:
            Invalid: a value breaks its rule; or ``first`` or ``end`` without ``job``.
            NotFound: there is neither such a job or schedule nor a run of it, or no such group; or in a list by time,
                the run ``before`` is not kept any more.
        """
        if isinstance(limit, bool) or not 1 <= limit <= LIST_MAX:
            raise Invalid("limit", limit, f"1 to {LIST_MAX}; page with before")
        states = [state] if isinstance(state, str) else list(state or ())
        known = [known.value for known in RunState]
        for given in states:
            if given not in known:
                raise Invalid("state", given, f"choose from {', '.join(known)}")
        zone = check_zone("tz", self._rota.default_zone)
        moment = parse_instant("since", since, zone) if since is not None else None
        limit_at = parse_instant("until", until, zone) if until is not None else None
        span = None
        if first is not None or end is not None:
            if job is None:
                field, value = ("from", first) if first is not None else ("to", end)
                raise Invalid(field, value, "a list by the time of slots is of one job: name it")
            span = (
                EARLIEST if first is None else parse_instant("from", first, zone),
                LATEST if end is None else parse_instant("to", end, zone),
            )
        found = list_runs(
            self._rota.database,
            job=job,
            schedule=schedule,
            states=[str(given) for given in states],
            since=moment,
            until=limit_at,
            before=check_run_id(before) if before is not None else None,
            group=group,
            limit=limit,
            within=None if within is None else check_whole("within", within, 1, ID_MAX),
            span=span,
            is_brief=brief,
        )
        if not found and found.next is None and before is None:
            # A name that was mistyped must not look like a job that never ran.
            self._refuse_unknown(job, schedule)
            if group is not None:
                self.group(group).show()
        return found

    def group(self, group: str) -> GroupHandle:
        """Return a handle for the runs of a group: those of one slot, or of one request, on all nodes of a pool.

        Raises:
            NotFound: there is no such group.
        """
        from rota.client.groups import GroupHandle

        runs = read_group(self._rota.database, group)["runs"]
        return GroupHandle(self._rota, min(one["id"] for one in runs), group)

    def _refuse_unknown(self, job: str | None, schedule: str | None) -> None:
        database = self._rota.database
        if job is not None and not list_runs(database, job=job, limit=1):
            self._rota.jobs.show(job)
        if schedule is not None and not list_runs(database, schedule=schedule, limit=1):
            self._rota.schedules[schedule].show()
