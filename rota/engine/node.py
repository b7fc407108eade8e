"""A node: one machine's share of the work, from its registration to its goodbye.

Three threads: the watch (main, guardians and signals), the bookkeeper and the renewer (one database connection each).
``Node.run`` is what ``rota worker``, ``rota up`` and ``rota tick`` do. A little long, since beginning, changing its
name, handing over and leaving are one life.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import FrameType

from rota import __version__, crash
from rota.engine.backoff import Backoff
from rota.engine.bookkeeper import Bookkeeper, tell_new_pool
from rota.engine.renewer import Renewer
from rota.engine.scheduler import Answer
from rota.engine.settings import NodeSettings
from rota.engine.stand_in import program
from rota.engine.watch import Watch
from rota.engine.zone_data import zone_data_version
from rota.errors import ConfigError, RotaError
from rota.execution.crew import Crew
from rota.execution.delegation import Delegation, find_delegation
from rota.execution.linux import boottime
from rota.model.keeping import format_keep
from rota.model.run import NodeIdentity
from rota.model.states import NodeState, OnTerm
from rota.store.database import Database
from rota.store.migrate import check_schema
from rota.store.nodes import leave_node, register_node

log = logging.getLogger("rota.worker")

INLINE_SECONDS = 3.0  # for executors that are to be killed, and for the ends of their runs to reach the database
RELEASE_GRACE_SECONDS = 1.0  # after a second signal, another node is to start the runs within two seconds
GOODBYE_SECONDS = 10.0  # how long the last ends may take to reach the database
HAND_OVER_SECONDS = 1.0  # the same for a worker that leaves its jobs to the next one

TICK_BESIDE_ANOTHER = 3  # exit status: this pass is done, and another one was at work when it began


class RunUntil(Enum):
    """When a node leaves by itself."""

    STOPPED = "stopped"  # never: a signal ends it
    IDLE = "idle"  # when nothing is left to do now: one pass


class Node:
    """A worker with its scheduler, in this process."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        run_until: RunUntil = RunUntil.STOPPED,
        reload: Callable[[], NodeSettings] | None = None,
        reopen_logs: Callable[[], None] | None = None,
        on_ready: Callable[[str], None] | None = None,
        answer: Answer | None = None,
    ) -> None:
        """Make one. ``answer`` carries out commands that are asked for with SQL; without it other nodes do."""
        self.settings = settings
        self._answer = answer
        self._run_until = run_until
        self._reload = reload
        self._reopen_logs = reopen_logs
        self._on_ready = on_ready
        self._stops_asked = 0
        self._leaves_jobs = False  # to the next worker of this machine: goes at once
        self._is_leaving = False  # claims nothing any more, and goes when it holds nothing
        self._drain_ends_at: float | None = None
        self._inline_ends_at: float | None = None  # what runs in executor processes may go on so long after TERM
        self._inline_gone_at: float | None = None  # and is waited for so long
        self._leaves_at: float | None = None  # whatever it holds then: a database that is away must not keep it here
        self._signals: list[int] = []
        self._reading = threading.Lock()
        self._settings_read: deque[NodeSettings] = deque()  # anew, and not in force yet
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._name_lost = False
        self._nameless = Backoff()  # asked in vain for another name, with each renewal
        self._given = Delegation("", "not looked for")

    # Signals only leave a note: what they ask for is done between two rounds of the watch.

    def stop(self) -> None:
        """Ask the node to drain and leave; a second time: to stop its jobs and give their runs back at once."""
        self._note(signal.SIGINT, None)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # the node has left already
            os.eventfd_write(self._wake_fd, 1)

    def install_signal_handlers(self) -> None:
        """Take over this process's signals; only from its main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._note)

    def run(self) -> int:
        """Work until told to stop, or until one pass is done; return the exit status.

        Raises:
            RotaError: the node could not begin: wrong database, schema or name. Nothing was claimed.
        """
        settings = self.settings
        database = Database(settings.database_url, connections_max=2, answer_seconds=settings.answer_seconds)
        try:
            check_schema(database)
            return self._run(database)
        finally:
            database.close()
            fd, self._wake_fd = self._wake_fd, -1  # its number may soon be that of another file
            os.close(fd)

    def _run(self, database: Database) -> int:
        own_folder(self.settings.state_dir)
        beside_another = self._run_until is RunUntil.IDLE and not self._take_tick_lock()
        given = self._given = find_delegation(self.settings.cgroup)
        log.info("cgroups: %s", given.text)
        folder = self.settings.state_dir / f"g{database.fingerprint()}"  # another database must not get our ends
        crew = Crew(
            folder,
            reuse=self.settings.reuse,
            warm_reuse=self.settings.warm_reuse,
            output_bytes_max=self.settings.output_bytes_max,
            stand_in=program(self.settings, folder),
            cgroups=given.folder,
        )
        crew.open()
        try:
            identity = self._register(database)
        except BaseException:
            crew.close()
            raise
        watch = Watch(crew, self.settings, identity.name)
        bookkeeper = Bookkeeper(database, identity, self.settings, watch.tell, answer=self._answer)
        renewer = Renewer(
            database,
            identity,
            self.settings.lease_seconds,
            watch.tell,
            bookkeeper.hint,
            lambda: bookkeeper.behind_seconds,
        )

        def name_lost() -> None:
            self._name_lost = True

        watch.on_name_lost = name_lost
        try:
            if swept := crew.sweep():
                log.warning("killed %d processes that guardians of an earlier worker had left", swept)
            watch.take_over(bookkeeper)
            bookkeeper.start()
            renewer.start()
            log.info("node %s: pools %s, %d slots", identity.name, ", ".join(self.settings.pools), self.settings.slots)
            if self._on_ready is not None:
                self._on_ready(identity.name)
            while not self._is_done(watch, bookkeeper):
                watch.round(bookkeeper, renewer, self._wake_fd, until=self._wakes_at)
                self._hear_signals(watch, bookkeeper)
                if self._name_lost:
                    self._name_lost = False
                    identity = self._take_another_name(database, identity, watch, bookkeeper, renewer)
            if self._hand_over(watch, bookkeeper, renewer):
                self._say_goodbye(database, identity, watch, bookkeeper, renewer)
        finally:
            bookkeeper.stop()
            renewer.stop()
            bookkeeper.join(self._goodbye_seconds)
            renewer.join(self._goodbye_seconds)
            crew.close()
        return TICK_BESIDE_ANOTHER if beside_another else 0

    @property
    def _wakes_at(self) -> float | None:
        return min((at for at in (self._drain_ends_at, self._inline_ends_at, self._inline_gone_at) if at), default=None)

    @property
    def _goodbye_seconds(self) -> float:
        return HAND_OVER_SECONDS if self._leaves_jobs else GOODBYE_SECONDS

    def _hand_over(self, watch: Watch, bookkeeper: Bookkeeper, renewer: Renewer) -> bool:
        """Leave what runs to whoever comes next; tell whether the database takes a goodbye."""
        if not self._leaves_jobs:
            return True
        crash.at("leave.before")
        bookkeeper.stop()
        bookkeeper.join(HAND_OVER_SECONDS)
        is_told = watch.hand_over(bookkeeper, renewer, self._wake_fd, seconds_max=HAND_OVER_SECONDS)
        crash.at("leave.renewed")
        bookkeeper.deliver_rest()
        log.info("leaving at once: %d runs go on, and the next worker takes them over", watch.count)
        return is_told

    def _take_another_name(
        self, database: Database, identity: NodeIdentity, watch: Watch, bookkeeper: Bookkeeper, renewer: Renewer
    ) -> NodeIdentity:
        try:
            identity = self._register(database)
        except RotaError as error:
            # Its jobs are held by their claims, not by its name: they go on, and the next renewal asks again.
            self._nameless.failed()
            if self._nameless.is_worth_a_line():
                log.error("the node's name went to another process, and there is no other one yet: %s", error)
            watch.node_state = NodeState.ALIVE
            return identity
        self._nameless.succeeded()
        log.warning("the node's name went to another process: working as %s from now on", identity.name)
        watch.rename(identity.name)
        bookkeeper.rename(identity)
        renewer.rename(identity)
        return identity

    def _register(self, database: Database) -> NodeIdentity:
        boot_id = this_boot()
        identity = NodeIdentity(name="", holder=secrets.token_hex(16), boot_id=boot_id)
        name = register_node(
            database,
            identity,
            host=socket.gethostname(),
            pid=os.getpid(),
            pid_started=process_started(os.getpid()) or 0,
            pools=self.settings.pools,
            slots=self.settings.slots,
            environments=self.settings.environments.spelled,
            secrets=self.settings.secrets.offered(),
            labels=self.settings.labels,
            cgroups=self._given.text,
            version=__version__,
            zone_data_version=zone_data_version(),
            keep_runs=format_keep(self.settings.keep_runs),
            lease_seconds=self.settings.lease_seconds,
            wanted=self.settings.name,
            is_dead=is_dead_process,
            on_new_pool=tell_new_pool,
        )
        return NodeIdentity(name=name, holder=identity.holder, boot_id=boot_id)

    def _is_done(self, watch: Watch, bookkeeper: Bookkeeper) -> bool:
        holds_nothing = watch.count == 0 and bookkeeper.held_count == 0
        if self._run_until is RunUntil.IDLE and holds_nothing and bookkeeper.idle_rounds > 0 and not self._is_leaving:
            # A claim may be under way. From here on it is given back, or was made before and is seen as held.
            bookkeeper.stop_claiming()
            self._is_leaving = True
            holds_nothing = bookkeeper.held_count == 0
        if self._leaves_at is not None and boottime() >= self._leaves_at and not holds_nothing:
            log.error(
                "leaving with %d ends that the database does not take: guardians keep them in %s for the next worker",
                bookkeeper.held_count,
                self.settings.state_dir,
            )
            return True
        return self._is_leaving and (holds_nothing or (self._leaves_jobs and self._is_done_inline(watch)))

    def _is_done_inline(self, watch: Watch) -> bool:
        """Tell whether nothing is left that would be cut off by leaving, or it has had its time."""
        return not watch.inline_count or (self._inline_gone_at is not None and boottime() >= self._inline_gone_at)

    def _hear_signals(self, watch: Watch, bookkeeper: Bookkeeper) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        while self._signals:
            number = self._signals.pop(0)
            if number in {signal.SIGHUP, signal.SIGUSR1}:
                if self._reload is not None:
                    self._begin_to_read_settings(self._reload)
            elif number == signal.SIGUSR2:
                if self._reopen_logs is not None:
                    self._reopen_logs()
                log.info("log files are open anew")
            else:
                self._hear_stop(number, watch, bookkeeper)
        while self._settings_read:
            self._take_over_settings(self._settings_read.popleft(), watch, bookkeeper)
        if self._inline_ends_at is not None and boottime() >= self._inline_ends_at:
            self._inline_ends_at = None
            self._inline_gone_at = boottime() + RELEASE_GRACE_SECONDS + INLINE_SECONDS
            log.warning("%d runs in executor processes have not ended in time: giving them back", watch.inline_count)
            watch.stop_inline("released", min(RELEASE_GRACE_SECONDS, self.settings.grace_seconds))
        if self._drain_ends_at is not None and boottime() >= self._drain_ends_at:
            self._drain_ends_at = None
            log.warning("%d runs have not ended in time: giving them back", watch.count)
            self._give_back(watch, self.settings.grace_seconds)

    def _hear_stop(self, number: int, watch: Watch, bookkeeper: Bookkeeper) -> None:
        if self._leaves_jobs:
            return  # whatever is asked for now, they are left to the next one
        self._stops_asked += 1
        self._is_leaving = True
        self._leaves_jobs = number == signal.SIGTERM and self._stops_asked == 1 and self._leaves_on_term()
        bookkeeper.stop_claiming(tell=not self._leaves_jobs)
        if self._leaves_jobs:
            log.info("leaving")
            watch.close_inline()
            if watch.inline_count:
                seconds = self.settings.grace_seconds
                log.info("%d runs in executor processes may take %g s to end", watch.inline_count, seconds)
                self._inline_ends_at = boottime() + seconds
        elif self._stops_asked == 1:
            seconds = self.settings.drain_timeout_seconds
            log.info(
                "draining: no new claims, %d runs may take %g s to end; again to give them back", watch.count, seconds
            )
            self._drain_ends_at = boottime() + seconds
        elif self._stops_asked == 2:
            self._drain_ends_at = None
            log.info("stopping %d jobs and giving their runs back", watch.count)
            self._give_back(watch, min(RELEASE_GRACE_SECONDS, self.settings.grace_seconds))

    def _leaves_on_term(self) -> bool:
        match self.settings.on_term:
            case OnTerm.AUTO:
                return os.getpid() != 1
            case choice:
                return choice is OnTerm.LEAVE

    def _give_back(self, watch: Watch, grace_seconds: float) -> None:
        watch.stop_all("released", grace_seconds)
        self._leaves_at = boottime() + grace_seconds + GOODBYE_SECONDS

    def _begin_to_read_settings(self, reload: Callable[[], NodeSettings]) -> None:
        """Read the settings beside the watch: what applications register takes its time, and leases are renewed on."""

        def read() -> None:
            try:
                with self._reading:  # one after the other, so that the last one read is the last one in force
                    self._settings_read.append(reload())
            except Exception as error:  # noqa: BLE001 - whatever is in the file, the node lives
                log.error("the configuration is not taken over, the old one stays in force: %s", error)
            else:
                self._wake()

        threading.Thread(target=read, name="rota-settings", daemon=True).start()

    def _take_over_settings(self, settings: NodeSettings, watch: Watch, bookkeeper: Bookkeeper) -> None:
        fixed = ("database_url", "state_dir", "name", "lease_seconds", "reuse", "warm_reuse", "output_bytes_max")
        for field in (*fixed, "cgroup"):
            if getattr(settings, field) != getattr(self.settings, field):
                log.warning("a new %s needs a restart; the old one stays in force", field)
        self.settings = settings
        watch.apply(settings)
        bookkeeper.apply(settings)
        log.info("read the configuration again: pools %s, %d slots", ", ".join(settings.pools), settings.slots)

    def _say_goodbye(
        self, database: Database, identity: NodeIdentity, watch: Watch, bookkeeper: Bookkeeper, renewer: Renewer
    ) -> None:
        renewer.stop()
        bookkeeper.stop()
        bookkeeper.join(self._goodbye_seconds)
        if bookkeeper.is_alive():  # it waits for the database, and so would a goodbye
            log.warning("node %s leaves without a goodbye: its lease will end by itself", identity.name)
            return
        try:
            leave_node(database, identity, left_running=watch.count)
        except RotaError as error:
            log.warning("could not say goodbye, the node's lease will end by itself: %s", error)
        log.info("node %s has left", identity.name)

    def _take_tick_lock(self) -> bool:
        # Held until the process ends; passes may overlap, and only say so in their exit status.
        fd = os.open(self.settings.state_dir / "tick.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def own_folder(path: Path) -> None:
    """Make a folder that only this user reads and writes; jobs of other users may pass through to their socket.

    Raises:
        ConfigError: it belongs to somebody else, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o711)
        facts = path.stat()
        if facts.st_uid != os.geteuid():
            raise ConfigError(f"folder {str(path)!r} belongs to user {facts.st_uid}: name another one with --state-dir")
        if facts.st_mode & 0o066:
            path.chmod(0o711)
    except OSError as error:
        raise ConfigError(f"folder {str(path)!r} cannot be used: {error.strerror}") from error


def this_boot() -> str:
    """Name this boot of this machine, as far as its processes are seen from here: containers share a boot, not pids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


def process_started(pid: int) -> int | None:
    """Return when a process began, in clock ticks after boot, or None. Tells a pid that is used again."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *numbers = facts.rpartition(")")[2].split()
    # A zombie has ended: whoever is to reap it may take its time, or never do so, as the first process of a container.
    return None if state in "ZX" else int(numbers[18])


def is_dead_process(boot_id: str, pid: int, pid_started: int) -> bool:
    """Tell whether a process of this machine has certainly ended; one of another boot or machine is not known to."""
    if boot_id != this_boot():
        return False
    return process_started(pid) != pid_started
