"""A worker application: handlers chosen by the name of the job, with hooks before and after.

Invariant: one bad run stops nobody: whatever a handler or a hook raises ends that run only, and the loop goes on, also
while the database is away. Called by applications that bring their own worker.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rota.errors import AlreadyFinished, DatabaseError, Invalid, Preempted
from rota.model.outcomes import Release, Retry, Skip

if TYPE_CHECKING:
    from rota.client.claims import Claim
    from rota.client.rota import Rota

log = logging.getLogger("rota.dispatch")

IDLE_SECONDS = 1.0
TROUBLE_SECONDS_MAX = 30.0

Handler = Callable[["Claim"], Any]
Before = Callable[["Claim"], Any]
After = Callable[["Claim", "BaseException | None"], Any]


class Dispatch:
    """Routes from the names of jobs to handlers.

    A string matches the whole name, a compiled pattern too; the first match wins. A handler is called with the
    ``Claim``; what it returns is the run's result, and what it raises ends the attempt: ``Skip``, ``Retry`` and
    ``Release`` as they say, anything else as failed.

    ``before`` hooks are called with the claim; one that returns False has the run skipped, and no handler is called.
    ``after`` hooks are called with the claim and what was raised, or None, whatever happened; what they raise is
    logged.

    Raises:
        Invalid: a route is neither text nor a compiled pattern, or a handler cannot be called.
    """

    def __init__(
        self,
        routes: Mapping[str | re.Pattern[str], Handler],
        *,
        before: Sequence[Before] = (),
        after: Sequence[After] = (),
    ) -> None:
        for route, handler in routes.items():
            if not isinstance(route, str | re.Pattern):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may err
                raise Invalid("route", route, "a route is the name of a job, or a compiled pattern")
            if not callable(handler):
                raise Invalid("handler", handler, f"the handler of {_describe(route)} must be callable")
        self._routes = list(routes.items())
        self._before = list(before)
        self._after = list(after)

    def find(self, job: str) -> Handler | None:
        """Return the handler of the first route that matches the whole of ``job``."""
        for route, handler in self._routes:
            if route == job if isinstance(route, str) else route.fullmatch(job):
                return handler
        return None

    def run_once(self, rota: Rota, pool: str = "default", *, lease: str | float | timedelta = 60) -> bool:
        """Take one run of ``pool`` and see it to its end; tell whether there was one.

        Raises:
            DatabaseUnavailable: nobody answers. A run that was taken ends with its lease.
        """
        claim = rota.poll(pool, lease=lease)
        if claim is None:
            return False
        handler = self.find(claim.job)
        if handler is None:
            routed = ", ".join(_describe(route) for route, _ in self._routes) or "nothing"
            with _told(claim):
                claim.refuse(f"no handler for job {claim.job!r}: this worker routes {routed}")
            return True
        error: BaseException | None = None
        with Heart(claim):
            try:
                error = self._handle(claim, handler)
            except BaseException:  # the process is to stop: another node shall have the run at once
                with _told(claim):
                    claim.release("its worker was stopped")
                raise
            finally:
                self._call_after(claim, error)
        return True

    def _handle(self, claim: Claim, handler: Handler) -> BaseException | None:
        try:
            for hook in self._before:
                if hook(claim) is False:
                    raise Skip(f"the hook {_name(hook)} refused it")
            result = handler(claim)
        except Exception as error:  # noqa: BLE001 - whatever the handler raises is its run's end
            with _told(claim):
                _end_badly(claim, error)
            return error
        with _told(claim):
            if not claim.is_ended:
                try:
                    claim.finish(result)
                except Invalid as error:  # the result is not JSON
                    claim.fail(error)
                    return error
        return None

    def _call_after(self, claim: Claim, error: BaseException | None) -> None:
        for hook in self._after:
            try:
                hook(claim, error)
            except Exception:
                log.exception("the hook %s failed after run %s", _name(hook), claim.run_id)

    def run(
        self,
        rota: Rota,
        pool: str = "default",
        *,
        lease: str | float | timedelta = 60,
        stop: threading.Event | None = None,
    ) -> int:
        """See runs of ``pool`` to their ends until ``stop`` is set; return how many. Waits for the database."""
        stopped = stop or threading.Event()
        done, trouble = 0, 0.0
        while not stopped.is_set():
            try:
                found = self.run_once(rota, pool, lease=lease)
            except DatabaseError:
                trouble = min(TROUBLE_SECONDS_MAX, max(IDLE_SECONDS, trouble * 2))
                log.exception("the database cannot be used; trying again in %.0f s", trouble)
                stopped.wait(trouble * random.uniform(0.5, 1.5))
                continue
            trouble = 0.0
            done += found
            if not found:
                stopped.wait(IDLE_SECONDS * random.uniform(0.5, 1.5))
        return done


class Heart:
    """Renews a claim from a thread, every third of its lease unless told, until the run ended or the lease is gone."""

    def __init__(self, claim: Claim, *, every_seconds: float | None = None) -> None:
        self._claim = claim
        self._every_seconds = claim.lease_seconds / 3 if every_seconds is None else every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"rota-heart-{claim.run_id}", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._every_seconds):
            try:
                self._claim.heartbeat()
            except (Preempted, AlreadyFinished):
                return
            except DatabaseError as error:
                log.warning("the lease of run %s was not renewed: %s", self._claim.run_id, error)


@contextlib.contextmanager
def _told(claim: Claim) -> Generator[None]:
    """Let an end that no longer counts be no error of the loop: somebody else has the run."""
    try:
        yield
    except Preempted:
        log.warning("run %s was taken away before its end was told", claim.run_id)
    except AlreadyFinished:
        pass  # the handler ended it by itself


def _end_badly(claim: Claim, error: Exception) -> None:
    if claim.is_ended:
        return
    match error:
        case Skip():
            claim.skip(str(error))
        case Release():
            claim.release(str(error))
        case Retry():
            claim.retry(error.after_seconds, str(error))
        case Preempted():
            raise error
        case _:
            claim.fail(error)


def _describe(route: str | re.Pattern[str]) -> str:
    return repr(route) if isinstance(route, str) else f"/{route.pattern}/"


def _name(hook: object) -> str:
    return getattr(hook, "__qualname__", None) or type(hook).__name__
