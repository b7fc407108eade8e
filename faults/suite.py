"""Carries out a plan on a cluster under load, writes down what it did and when, and asks the checker.

Everything is undone at the end, whatever happens: faults are ended, hosts switched off, the server stopped, names and
folders removed. What a suite that was killed could not undo, the next one does.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rota
from faults import host as hosts_module
from faults.checker import Report, check_database
from faults.host import ROOT, Host
from faults.job import boottime
from faults.load import Requests, add_jobs, add_schedules, ask, wait_until_quiet
from faults.network import Network, network, remove_abandoned, why_not
from faults.plan import Step, make_plan
from faults.proxy import Mode, Proxy
from faults.target import Target, target

FOLDER_PREFIX = "rota-faults-"
KEPT_PREFIX = "rota-kept-faults-"
LOOK_SECONDS = 0.05
START_SECONDS_MAX = 60.0
SLOTS = 8


@dataclass(frozen=True, slots=True)
class Options:
    database: str
    seed: int
    seconds: float = 300.0
    rest: float = 120.0
    hosts: int = 5
    lease: float = 6.0
    isolation: str = "auto"  # namespaces, processes
    only: tuple[str, ...] = ()  # kinds of faults; none: all
    keep: bool = False  # the folder with all logs

    @property
    def names(self) -> list[str]:
        return [f"h{number}" for number in range(1, self.hosts + 1)]

    def plan(self) -> list[Step]:
        steps = make_plan(self.seed, self.names, self.seconds, self.lease, has_server=self.database != "sqlite")
        return [step for step in steps if not self.only or step.kind in self.only or step.what in self.only]


@dataclass(slots=True)
class Outcome:
    """What came of it, as it is published."""

    options: Options
    origin: str
    isolation: str
    faults: list[dict[str, Any]]
    report: Report
    quiet: bool
    retries: int = 0
    trouble: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "database": self.origin,
            "seed": self.options.seed,
            "seconds": self.options.seconds,
            "hosts": self.options.hosts,
            "lease_seconds": self.options.lease,
            "isolation": self.isolation,
            "rota": rota.__version__,
            "python": platform.python_version(),
            "linux": platform.release(),
            "cpus": os.cpu_count(),
            "quiet_within_rest": self.quiet,
            "faults": len(self.faults),
            "faults_that_hit_nobody": sum(not fault["hit"] for fault in self.faults if fault["hosts"]),
            "faults_by_kind": dict(sorted(Counter(f"{f['kind']} {f['what']}" for f in self.faults).items())),
            "trouble": self.trouble,
            **self.report.as_dict(),
        }


Say = Callable[[str], None]


class Suite:
    """A cluster, its load, and what is done to it."""

    def __init__(self, options: Options, folder: Path, place: Target, cables: Network | None, say: Say) -> None:
        self.options = options
        self.folder = folder
        self.target = place
        self.faults: list[dict[str, Any]] = []  # as they were carried out
        self.trouble: list[str] = []
        self._network = cables
        self._say = say
        self._ledger = folder / "ledger"
        self._hosts: dict[str, Host] = {}
        self._proxies: dict[str, Proxy] = {}
        self._requests: Requests | None = None
        self._begun = 0.0
        self._order = itertools.count()

    def run(self) -> Outcome:
        # The offset of the clocks first: everything that is compared later uses it.
        expected: dict[str, Any] = {"lease": self.options.lease, "boottime_offset": time.time() - boottime()}
        self._ledger.touch()
        (self.folder / "locks").mkdir()
        self._migrate()
        self._make_hosts()
        with rota.Rota(self.target.url) as client:
            add_jobs(client, {"LEDGER": str(self._ledger), "LOCKS": str(self.folder / "locks")})
            for host in self._hosts.values():
                host.switch_on()
            self._wait_for_nodes()
            self._say(f"{len(self._hosts)} hosts are up; load and faults for {self.options.seconds:g} s")
            expected["schedules"] = add_schedules(client, self.options.seconds)
            self._requests = Requests(client, self.target.url, self.options.seed)
            self._requests.start(self.options.seconds)
            self._carry_out(self.options.plan())
            self._requests.finish()
            self._say(f"the faults are over; rest for {self.options.rest:g} s at most")
            quiet = wait_until_quiet(self.target.url, self.options.rest)
            expected["requests"] = self._requests.asked
        expected["faults"] = self.faults
        (self.folder / "expected.json").write_text(json.dumps(expected, indent=1))
        kept = self.folder / "tables.json" if self.options.keep else None
        report = check_database(self.target.url, expected, self._ledger, kept)
        isolation = "namespaces" if self._network else "processes"
        return Outcome(self.options, self.target.origin, isolation, self.faults, report, quiet, trouble=self.trouble)

    def close(self) -> None:
        """Undo all of it."""
        if self._requests is not None:
            self._requests.give_up()
        for host in self._hosts.values():
            for pid in host.processes("host"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            host.switch_off()
        for proxy in self._proxies.values():
            proxy.close()

    # -- beginning

    def _migrate(self) -> None:
        environment = {**os.environ, "ROTA_DB": self.target.url}
        subprocess.run(
            [sys.executable, "-m", "rota", "db", "upgrade"], cwd=ROOT, env=environment, check=True, capture_output=True
        )

    def _make_hosts(self) -> None:
        options = ["--lease", f"{self.options.lease:g}s", "--slots", str(SLOTS), "-I", str(ROOT)]
        for name in self.options.names:
            namespace = self._network.add(name) if self._network else None
            url = self.target.url
            if self.target.has_server:
                address = self._network.address if self._network else "127.0.0.1"
                proxy = self._proxies[name] = Proxy(address, self.target.address)
                url = self.target.url_through(address, proxy.port)
            self._hosts[name] = Host(name, self.folder / name, namespace=namespace, url=url, options=options)

    def _wait_for_nodes(self) -> None:
        until = time.monotonic() + START_SECONDS_MAX
        while ask(self.target.url, "select count(*) from rota_node where state = 'alive'") < len(self._hosts):
            if time.monotonic() > until:
                logs = "\n".join(f"--- {host.name}\n{host.said()}" for host in self._hosts.values())
                raise RuntimeError(f"not all hosts came up within {START_SECONDS_MAX:g} s\n{logs}")
            time.sleep(LOOK_SECONDS)

    # -- faults

    def _carry_out(self, plan: list[Step]) -> None:
        """Begin and end each fault at its time, all of them from this one thread."""
        self._begun = time.monotonic()
        agenda: list[tuple[float, int, Callable[[], None]]] = []

        def at(seconds: float, action: Callable[[], None]) -> None:
            heapq.heappush(agenda, (seconds, next(self._order), action))

        for step in plan:
            at(step.at, lambda step=step: self._begin(step, at))
        at(self.options.seconds, lambda: None)
        while agenda:
            moment, _, action = heapq.heappop(agenda)
            while (left := self._begun + moment - time.monotonic()) > 0:
                time.sleep(min(left, LOOK_SECONDS))
            action()

    def _begin(self, step: Step, at: Callable[[float, Callable[[], None]], None]) -> None:
        done = {
            "kind": step.kind, "what": step.what, "hosts": list(step.hosts), "at": boottime(), "until": None,
            "hit": len(step.hosts), "everyone": step.kind == "database",  # nobody can do anything meanwhile
            # Both that would kill a job in time are stopped with it.
            "cannot_kill": step.kind == "stop" and step.what in ("host", "guardians and nursery"),
        }  # fmt: skip
        self.faults.append(done)
        self._say(f"{step.at:6.1f} s  {step.kind} {step.what} {' '.join(step.hosts)} {step.seconds:g} s")
        begin: Callable[[Step], Callable[[], None]] = {
            "kill": self._kill,
            "stop": self._stop,
            "network": self._cable,
            "database": self._database,
        }[step.kind]
        end = begin(step)
        if step.kind == "stop" and not self.target.has_server:
            # A process that is stopped in the middle of a transaction keeps the one lock that a file has.
            done["everyone"] = self.target.is_locked()

        def finish() -> None:
            end()
            done["until"] = boottime()

        at(time.monotonic() - self._begun + step.seconds, finish)

    def _kill(self, step: Step) -> Callable[[], None]:
        hit = 0
        for name in step.hosts:
            host = self._hosts[name]
            if step.what == "host":
                host.switch_off()
                hit += 1
            else:
                hit += len(self._signal(host, step, signal.SIGKILL))

        self.faults[-1]["hit"] = hit

        def end() -> None:
            for name in step.hosts:
                if not self._hosts[name].is_on:
                    self._hosts[name].switch_on()

        return end

    def _stop(self, step: Step) -> Callable[[], None]:
        stopped = [pid for name in step.hosts for pid in self._signal(self._hosts[name], step, signal.SIGSTOP)]
        self.faults[-1]["hit"] = len(stopped)

        def end() -> None:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        return end

    def _signal(self, host: Host, step: Step, number: int) -> list[int]:
        """Send a signal to those of a host that a step names, and return who they are."""
        match step.what:
            case "guardians":
                pids = host.processes("guardian")
            case "guardians and nursery":
                # The nursery first, else it would see to those that are stopped.
                pids = host.processes("nursery") + host.processes("guardian")
            case "guardian":
                found = host.processes("guardian")
                pids = [found[int(step.amount) % len(found)]] if found else []
            case role:
                pids = host.processes(role)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def _cable(self, step: Step) -> Callable[[], None]:
        if step.what == "unplug" and self._network is not None:
            for name in step.hosts:
                self._network.unplug(name)
            cables = self._network
            return lambda: [cables.plug(name) for name in step.hosts] and None
        modes = {"unplug": Mode.HOLD, "hold": Mode.HOLD, "swallow": Mode.SWALLOW, "delay": Mode.DELAY, "cut": Mode.CUT,
                 "refuse": Mode.REFUSE}  # fmt: skip
        proxies = [self._proxies[name] for name in step.hosts]
        for proxy in proxies:
            if step.what == "reset":
                proxy.reset_all()
            else:
                proxy.set(modes[step.what], step.amount)
        return lambda: [proxy.set(Mode.PASS) for proxy in proxies] and None

    def _database(self, step: Step) -> Callable[[], None]:
        match step.what:
            case "restart" | "crash":
                self.target.stop(kill=step.what == "crash")
                return self.target.start
            case "disk full":
                if self.target.disk is None:
                    self.trouble.append("no full disk: no file system could be mounted")
                    return lambda: None
                self.target.fill_disk()
                return self.target.empty_disk
            case _:
                over = self.target.lock(step.what, step.seconds, self.trouble.append)
                return lambda: over.wait() and None


@contextlib.contextmanager
def opened(options: Options, say: Say) -> Iterator[Suite]:
    """Make the cluster, and leave nothing of it behind."""
    parent = Path(tempfile.gettempdir())
    remove_abandoned()
    hosts_module.kill_abandoned(str(parent / FOLDER_PREFIX))
    hosts_module.remove_abandoned(parent, FOLDER_PREFIX)
    reason = "asked for" if options.isolation == "processes" else why_not()
    if reason is not None:
        if options.isolation == "namespaces":
            raise RuntimeError(f"no namespaces: {reason}")
        say(f"hosts are plain processes: {reason}")
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=parent))
    try:
        with contextlib.ExitStack() as stack:
            cables = stack.enter_context(network()) if reason is None else None
            place = stack.enter_context(target(options.database, folder))
            suite = Suite(options, folder, place, cables, say)
            stack.callback(suite.close)
            yield suite
    finally:
        if options.keep:
            # By another name: the next suite removes what bears this one.
            say(f"everything is kept in {folder.rename(parent / f'{KEPT_PREFIX}{os.getpid()}')}")
        shutil.rmtree(folder, ignore_errors=True)


def run(options: Options, say: Say) -> Outcome:
    """Run it all once."""
    assert threading.current_thread() is threading.main_thread(), "a server dies with the thread that started it"
    with opened(options, say) as suite:
        return suite.run()
