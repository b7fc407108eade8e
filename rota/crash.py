"""Crash points: named places in the protocols at which a test can have the process that gets there killed.

``ROTA_CRASH_AT=claim.committed`` in the environment of a process has it send itself SIGKILL there, with ``@2`` behind
it at the second time. ``ROTA_CRASH_NOTE`` names a file that says so, made and synced just before; once it is there
nobody dies any more, so that whoever follows in the same environment carries on.

Called by everybody; costs a call and a comparison when the variable is not set. Nurseries, guardians and stand-ins get
it from their worker, jobs do not, but for the process of a transactional one, which is told. Few imports, and no Rota.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

AT_VARIABLE = "ROTA_CRASH_AT"
NOTE_VARIABLE = "ROTA_CRASH_NOTE"

# Where one can die: the process that gets there, and what it has done by then.
# fmt: off
POINTS = {
    "enqueue.inserted":      ("caller",   "in the transaction of an enqueue: rows are inserted, their events are not"),
    "enqueue.written":       ("caller",   "in the same transaction: all is written, before COMMIT"),
    "enqueue.committed":     ("caller",   "after COMMIT, before the caller knows its runs"),
    "periods.written":       ("worker",   "in the transaction of a look at periods: all is written, before COMMIT"),
    "periods.committed":     ("worker",   "after COMMIT: runs are made, or periods are finished"),
    "reprocess.written":     ("caller",   "in the transaction that takes periods back: all is written, before COMMIT"),
    "skip_periods.written":  ("caller",   "in the transaction that skips periods: all is written, before COMMIT"),
    "commands.answered":     ("worker",   "in the transaction of commands asked for with SQL: one is answered"),
    "commands.committed":    ("worker",   "after COMMIT"),
    "fire.decided":          ("worker",   "it is decided what becomes of the slots that are due; nothing is written"),
    "fire.moved":            ("worker",   "in the transaction of a firing: the cursors are moved"),
    "fire.inserted":         ("worker",   "in the same transaction: rows are inserted, their events are not"),
    "fire.written":          ("worker",   "in the same transaction: all is written, before COMMIT"),
    "fire.committed":        ("worker",   "after COMMIT"),
    "fan_out.inserted":      ("worker",   "in the transaction of a firing or an enqueue: a group's rows are inserted"),
    "advance.written":       ("worker",   "in the transaction that makes waiting runs ready, before COMMIT"),
    "advance.committed":     ("worker",   "after COMMIT"),
    "upstreams.written":     ("worker",   "in the transaction that lets go of what its upstreams held, before COMMIT"),
    "upstreams.committed":   ("worker",   "after COMMIT; what it let go is not ready yet"),
    "backfill.written":      ("worker",   "in the transaction of a step of a backfill: all is written, before COMMIT"),
    "backfill.committed":    ("worker",   "after COMMIT; what it made is not claimed yet"),
    "backfill.cancelled":    ("caller",   "in the transaction that cancels a backfill, before COMMIT"),
    "claim.before":          ("worker",   "there is something to claim; nothing is sent"),
    "claim.updated":         ("worker",   "in the transaction of a claim: the runs are its own, no attempt is opened"),
    "claim.written":         ("worker",   "in the same transaction: all is written, before COMMIT"),
    "claim.committed":       ("worker",   "after COMMIT, before the answer is used"),
    "mark.before":           ("worker",   "a claim of an at_most_once job is there; nothing is sent of its start mark"),
    "mark.written":          ("worker",   "in the transaction of the start mark, before COMMIT"),
    "mark.committed":        ("worker",   "after COMMIT, before anything is started"),
    "order.before":          ("worker",   "a run may start; no guardian knows of it"),
    "order.sent":            ("worker",   "the order is on its way to a guardian"),
    "guardian.before":       ("nursery",  "asked for a guardian, before it is forked"),
    "guardian.forked":       ("nursery",  "the guardian is forked"),
    "spawn.before":          ("guardian", "it has the order, and has forked nothing"),
    "spawn.forked":          ("guardian", "the job's process is forked; whether its program runs is not known"),
    "spawn.at_gate":         ("guardian", "a warm parent has forked the job's process, which waits to be let through"),
    "spawn.let_through":     ("guardian", "the process that a warm parent has forked may run"),
    "spawn.told":            ("guardian", "the job runs, and the worker is told so"),
    "renew.before":          ("worker",   "leases are to be renewed; nothing is sent"),
    "renew.written":         ("worker",   "in the transaction of a renewal, before COMMIT"),
    "renew.committed":       ("worker",   "after COMMIT, before any deadline is moved"),
    "end.reached":           ("guardian", "the job has ended and is cleared away; nobody is told"),
    "end.told":              ("guardian", "the worker is told the end, and has not acknowledged it"),
    "end.heard":             ("worker",   "a guardian has told an end; nothing of it is sent to the database"),
    "end.written":           ("worker",   "in the transaction of an end, before COMMIT"),
    "end.committed":         ("worker",   "after COMMIT, before the guardian or the journal is told"),
    "end.acknowledged":      ("worker",   "the end is acknowledged to its guardian, or dropped from the journal"),
    "end.taken":             ("guardian", "its end is acknowledged; what the journal has of it is still there"),
    "journal.written":       ("guardian", "an end is written into the journal, not synced, and not under its name"),
    "journal.kept":          ("guardian", "an end is in the journal under its name"),
    "rescue.written":        ("worker",   "in the transaction that takes away runs whose lease is over, before COMMIT"),
    "rescue.committed":      ("worker",   "after COMMIT"),
    "surrender.written":     ("worker",   "in the transaction that lets go of runs whose guardian died, before COMMIT"),
    "surrender.committed":   ("worker",   "after COMMIT"),
    "leave.before":          ("worker",   "told to leave its jobs to the next one; no lease was renewed for it"),
    "leave.renewed":         ("worker",   "the leases are renewed once more; the last ends are not delivered"),
    "adopt.let_in":          ("guardian", "it has let in another worker, and told it nothing"),
    "adopt.before":          ("worker",   "a guardian is taken over; the database does not know"),
    "adopt.written":         ("worker",   "in the transaction that says who has a run now, before COMMIT"),
    "adopt.committed":       ("worker",   "after COMMIT"),
    "stand_in.before":       ("nursery",  "a stand-in is called for, and not forked"),
    "stand_in.started":      ("stand-in", "it has the place of the stand-in, and has done nothing"),
    "stand_in.renewed":      ("stand-in", "it has renewed leases in the database; the guardians do not know"),
    "alert.made":            ("worker",   "in the transaction of what is told: the run that tells it is made"),
    "act.noted":             ("caller",   "in the transaction of what somebody does: its row of the audit is written"),
    "session.written":       ("caller",   "in the transaction of a log-in: the session is there, before COMMIT"),
    "session.committed":     ("caller",   "after COMMIT, before whoever logs in has its key"),
    "fold.added":            ("worker",   "in the transaction that folds tallies: added up, and not removed"),
    "fold.written":          ("worker",   "in the same transaction: all is written, before COMMIT"),
    "fold.committed":        ("worker",   "after COMMIT"),
    "counts.removed":        ("worker",   "in the transaction that removes old counts, before COMMIT"),
    "counts.committed":      ("worker",   "after COMMIT; the next batch is not begun"),
    "transaction.written":   ("job",      "in a job's own transaction: the end of its run is written, before COMMIT"),
    "transaction.committed": ("job",      "after COMMIT, before anybody is told"),
}
# fmt: on

_at: str | None = None
_left = 0  # until it is the time that was asked for
_asked: dict[str, str] = {}


def arm(environ: Mapping[str, str]) -> None:
    """Die where ``environ`` says, if it says so.

    Raises:
        ValueError: it names no such place.
    """
    global _at, _left
    text = environ.get(AT_VARIABLE)
    if not text:
        return
    name, counts, times = text.partition("@")
    times = times if counts else "1"
    if name not in POINTS or not times.isdecimal() or int(times) < 1:
        raise ValueError(f"{AT_VARIABLE}={text} names no place to die at: NAME or NAME@2, of rota/crash.py")
    _at, _left = name, int(times)
    _asked[AT_VARIABLE] = text
    if note := environ.get(NOTE_VARIABLE):  # others of these processes work in another folder
        _asked[NOTE_VARIABLE] = os.path.abspath(note)  # noqa: PTH100 - few imports


def environment() -> dict[str, str]:
    """Give the variables for a process that is to know of it too; empty when nobody is to die."""
    return dict(_asked)


def at(name: str) -> None:
    """Die here, if this is the place."""
    if _at is not None:
        _reach(name)


def _reach(name: str) -> None:
    global _left
    assert name in POINTS, f"{name!r} is not in the table of crash points"
    if name != _at:
        return
    _left -= 1
    if _left:
        return
    note = _asked.get(NOTE_VARIABLE)
    if note:
        try:
            descriptor = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return  # somebody has died here already
        os.write(descriptor, f"{name} {os.getpid()}\n".encode())
        os.fsync(descriptor)
    os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ)
