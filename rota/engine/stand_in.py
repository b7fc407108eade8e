"""The stand-in: what goes on for the guardians of a machine while it has no worker.

It takes over their runs, renews their leases, stops what is cancelled and brings ends into the database, over one
connection; it fires, claims and starts nothing. It leaves when nothing is left, or when a worker asks it to. One
thread: while the database does not answer, guardians count their leases down by themselves.

Started by the nursery (``rota.execution.stand_in``) with what ``program`` made, which it reads from standard input: the
password of the database is in no list of processes. Its log is ``stand-in.log`` in the worker's folder.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from pathlib import Path
from typing import Any

import rota
from rota import crash
from rota.engine.backoff import Backoff
from rota.engine.bookkeeper import Acknowledge
from rota.engine.books import Books
from rota.engine.renewer import RenewalAsked, Renewed
from rota.engine.settings import NodeSettings
from rota.engine.watch import Watch
from rota.errors import DatabaseRefused, DatabaseUnavailable
from rota.execution.crew import Crew
from rota.execution.linux import boottime, set_process_name
from rota.execution.stand_in import Place, Program
from rota.model.run import End, Report
from rota.store.database import Database
from rota.store.leases import renew_claims, tell_stand_in

log = logging.getLogger("rota.worker")

LOG_NAME = "stand-in.log"
LOG_BYTES_MAX = 1024 * 1024  # it begins anew above that
LOOK_SECONDS = 2.0  # how soon it sees that a run is to be cancelled
# A started guardian opens its door within moments; a worker's last ends are on disk by then.
QUIET_SECONDS = 1.0


def program(settings: NodeSettings, folder: Path) -> Program:
    """Describe the stand-in of a worker with these settings, whose guardians are in ``folder``."""
    root = str(Path(rota.__file__).parents[1])
    # Found where this program was found, whether it is installed or not; what is installed goes first.
    start = f"import sys; sys.path.append({root!r}); from rota.engine.stand_in import main; sys.exit(main())"
    told = {
        "database": settings.database_url,
        "folder": str(folder),
        "lease_seconds": settings.lease_seconds,
        "grace_seconds": settings.grace_seconds,
    }
    argv = [sys.executable, "-P", "-c", start]
    # No secret of a job, unless the database's driver may need it, which asks for these.
    environment = {
        name: value
        for name, value in settings.environment.items()
        if name not in settings.secrets.variables or name.startswith("PG")
    }
    return Program(argv, environment | crash.environment(), json.dumps(told).encode())


def main() -> int:
    """Stand in until nothing is left to do, and give the exit status."""
    set_process_name("rota-stand-in")
    told: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    folder = Path(told["folder"])
    if not folder.is_dir():
        return 0  # removed, with all that was left to do
    place = Place.take(str(folder))
    if place is None:
        return 0  # another one sees to it
    crash.at("stand_in.started")
    _log_to(folder / LOG_NAME)
    settings = NodeSettings(
        database_url=told["database"],
        state_dir=folder,
        lease_seconds=told["lease_seconds"],
        grace_seconds=told["grace_seconds"],
    )
    crew = Crew(folder)
    crew.open(nursery=False)
    database = Database(settings.database_url, connections_max=1, answer_seconds=settings.answer_seconds)
    try:
        StandIn(crew, settings, database, place).run()
    except Exception:  # the top of this process; the nursery starts another
        log.exception("the stand-in failed")
        return 1
    finally:
        crew.close()  # before a worker sees that this process has gone: then the doors are open
        database.close()
    return 0


def _log_to(path: Path) -> None:
    is_long = path.exists() and path.stat().st_size >= LOG_BYTES_MAX
    logging.basicConfig(
        filename=path,
        filemode="w" if is_long else "a",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


class StandIn:
    """Bookkeeper and renewer in one, for a watch that starts nothing."""

    is_accepting = True  # guardians that are there, that is; it claims nothing

    def __init__(self, crew: Crew, settings: NodeSettings, database: Database, place: Place) -> None:
        self._crew = crew
        self._settings = settings
        self._database = database
        self._place = place
        self._host = socket.gethostname()
        self._watch = Watch(crew, settings, self._host, renew_seconds_max=LOOK_SECONDS)
        self._books = Books(database, actor=lambda: f"stand-in on {self._host}", adopt=self._tell_adopted)
        self._asked: RenewalAsked | None = None  # and not yet answered by the database
        self._backoff = Backoff()
        self._try_at = 0.0  # monotonic: the database did not answer
        self._look_at = 0.0
        self._quiet_since: float | None = None

    def run(self) -> None:
        """Go on until nothing is left, or a worker is there."""
        log.info("standing in for a worker that is gone")
        while not self._place.is_wanted_back():
            self._watch.round(self, self, self._place.fileno(), until=boottime() + self._wait_seconds())
            self._keep_books()
            if self._has_been_quiet():
                log.info("nothing is left to stand in for")
                return
        log.info("a worker is back: leaving everything to it")

    def _wait_seconds(self) -> float:
        due_seconds = self._books.seconds_until_due()
        if due_seconds is None:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, max(due_seconds, self._try_at - time.monotonic()))

    def _has_been_quiet(self) -> bool:
        if not (self._crew.is_alone and self._books.is_empty and not self._watch.is_recovering):
            self._quiet_since = None
            return False
        now = boottime()
        if self._quiet_since is None:
            self._quiet_since = now
        self._watch.take_over(self)  # once more, for what has come meanwhile
        return now - self._quiet_since >= QUIET_SECONDS

    # What the watch tells

    def hear_end(self, end: End) -> None:
        """Take over an end; it is kept until the database has it."""
        self._books.ends.append(end)

    def hear_report(self, report: Report) -> None:
        """Take over what a running job has told."""
        self._books.hear_report(report)

    def hear_adopted(self, claim_id: str) -> None:
        """Take over a claim whose worker is gone."""
        self._books.adopted.append(claim_id)

    def hear_dead_guardian(self, claim_id: str) -> None:
        """Take over that a guardian died with this claim."""
        self._books.dead.append(claim_id)

    def hear_frozen(self, run_ids: frozenset[int]) -> None:
        """Take over whose processes are held now: each renewal asks."""

    def let_go(self, claim_id: str) -> None:
        """Take over that nobody waits for the end of this claim any more."""

    def ask(self, asked: RenewalAsked) -> None:
        """Have these claims renewed; a newer request stands for an older one."""
        self._asked = asked

    # The database

    def _tell_adopted(self, claim_ids: Any) -> frozenset[str]:
        tell_stand_in(self._database, claim_ids, host=self._host)
        return frozenset()

    def _keep_books(self) -> None:
        if time.monotonic() < self._try_at:
            return
        try:
            self._renew()
            self._books.bring_back()
            if self._books.dead:
                self._books.surrender()
            if self._books.adopted:
                self._books.adopt()
            self._books.tell()
            while self._books.ends:
                self._watch.tell(Acknowledge(self._books.deliver().claim_ids))
            if self._backoff.succeeded():
                log.info("the database answers again")
        except (DatabaseUnavailable, DatabaseRefused) as error:
            self._try_at = time.monotonic() + min(self._backoff.failed(), self._settings.lease_seconds / 10)
            if self._backoff.is_worth_a_line():
                log.warning("the database failed %d times in a row: %s", self._backoff.failures, error)

    def _renew(self) -> None:
        """Renew first: nothing else has a limit in time."""
        if self._asked is None:
            return
        asked = self._asked
        renewal = renew_claims(self._database, None, asked.claims, self._settings.lease_seconds, leases=asked.claims)
        if asked.claims:
            crash.at("stand_in.renewed")
        if self._asked is asked:
            self._asked = None
        self._watch.tell(
            Renewed(
                kept={claim_id: asked.asked_at + asked.claims[claim_id] for claim_id in renewal.kept},
                lost=renewal.lost,
                cancelled=renewal.cancelled,
                frozen=renewal.frozen,
                node_state=None,
            )
        )


if __name__ == "__main__":
    sys.exit(main())
