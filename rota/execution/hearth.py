"""The hearth: the warm parents that a worker keeps, one for each environment of its Python jobs.

A parent is started for a module that was asked for twice within the time that an unused parent stays: what runs once a
day costs no memory. Until a parent is ready, and whenever there is none, jobs start cold, so nobody ever waits for an
import. A parent never imports after it has begun to fork: for another module, after so many runs, when it has grown or
when its code has changed, a successor is made, and the old one stays until its last job has ended.

Invariant: an import that fails, hangs or kills its parent is not tried again for a while, and costs no job anything.
Used by the crew, in its thread. Nothing here waits.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterable

from rota.execution.home import WARM_FOLDER, start_warm_parent
from rota.execution.linux import boottime
from rota.execution.order import Order
from rota.execution.sweep import remove_dead_sockets
from rota.execution.wire import Channel

PARENTS_MAX = 8  # that are of use: those that only wait for their last job are not counted
IDLE_SECONDS = 300.0
IMPORT_SECONDS_MAX = 60.0
SET_ASIDE_SECONDS = 60.0
WANTED_TIMES = 2
LOOK_SECONDS = 1.0
GROWTH_BYTES_MAX = 256 << 20

_Key = tuple[tuple[str, ...], str | None, tuple[tuple[str, str], ...], frozenset[str]]


class _Parent:
    """One process, from its start until its connection is closed."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, path: str, modules: frozenset[str]) -> None:
        self.process = process
        self.channel = channel
        self.path = path
        self.modules = modules
        self.importing = ""  # what it imports now, or did last
        self.began_at = boottime()


class _Place:
    """What is known about one environment."""

    def __init__(self, order: Order) -> None:
        self.order = order  # any of its jobs, to start a parent from
        self.wanted: dict[str, list[float]] = {}  # module → when it was asked for, the last times
        self.set_aside: dict[str, tuple[float, str]] = {}  # module → until when, and why
        self.serving: _Parent | None = None
        self.coming: _Parent | None = None
        self.is_due = False  # the one that serves asks to be renewed

    @property
    def parents(self) -> list[_Parent]:
        return [parent for parent in (self.serving, self.coming) if parent is not None]


class Hearth:
    """Warm parents, by environment."""

    def __init__(
        self, folder: str, *, runs_max: int, watch: Callable[[Channel], None], unwatch: Callable[[Channel], None]
    ) -> None:
        self._folder = folder
        self._runs_max = runs_max
        self._watch = watch
        self._unwatch = unwatch
        self._places: dict[_Key, _Place] = {}
        self._by_fileno: dict[int, tuple[_Place, _Parent]] = {}
        self._leaving: list[tuple[subprocess.Popen[bytes], str]] = []
        self._look_at = 0.0
        self.notes: list[str] = []  # for the worker's log

    def clear(self) -> None:
        """Remove what parents that were killed have left in the folder; other workers may keep theirs beside us."""
        remove_dead_sockets(f"{self._folder}/{WARM_FOLDER}/")

    def choose(self, order: Order) -> tuple[dict[str, str] | None, str | None]:
        """Give what the guardian of this order needs to ask a warm parent; None: cold, and why, if that is worth it."""
        if order.call is None or self._runs_max < 1:
            return None, None
        now = boottime()
        module = order.call.partition(":")[0]
        place = self._place_of(order)
        until, why = place.set_aside.get(module, (0.0, ""))
        if now < until:
            return None, why
        place.set_aside.pop(module, None)
        place.wanted[module] = [*place.wanted.get(module, ())[1 - WANTED_TIMES :], now]
        if place.serving is not None and module in place.serving.modules:
            if place.is_due:
                self._prepare(place, now)
            return {"path": place.serving.path, "target": order.call}, None
        return None, self._prepare(place, now)

    def _place_of(self, order: Order) -> _Place:
        # All that the imports may depend on, but for the facts of the run.
        variables = {name: value for name, value in order.environment.items() if not name.startswith("ROTA_")}
        how = (order.argv[:2], order.cwd)  # the interpreter, and whether it has Rota of its own
        key = (*how, tuple(sorted(variables.items())), frozenset(order.secrets))
        if key not in self._places:
            self._places[key] = _Place(order)
        return self._places[key]

    def _prepare(self, place: _Place, now: float) -> str | None:
        """Start a parent for what is wanted here, unless one is there or coming. Say why not."""
        if place.coming is not None:
            return None
        modules = frozenset(
            module
            for module, times in place.wanted.items()
            if len(times) >= WANTED_TIMES and now - times[0] < IDLE_SECONDS and module not in place.set_aside
        )
        if not modules or (place.serving is not None and modules <= place.serving.modules and not place.is_due):
            return None
        if place.serving is None and sum(1 for other in self._places.values() if other.parents) >= PARENTS_MAX:
            return f"{PARENTS_MAX} other environments have their warm parents here, which is the most"
        path = f"{self._folder}/{WARM_FOLDER}/{os.getpid()}-{secrets.token_hex(4)}"
        try:
            process, channel = start_warm_parent(path, f"{self._folder}/warm.log", place.order)
        except (OSError, ValueError) as error:  # a folder or variables, written by hand, that no process can have
            why = f"no warm parent could be started: {getattr(error, 'strerror', None) or error}"
            self._set_aside(place, modules, why)
            return why
        parent = place.coming = _Parent(process, channel, path, modules)
        self._by_fileno[channel.fileno()] = (place, parent)
        self._watch(channel)
        channel.send(
            {"op": "prepare", "modules": sorted(modules), "runs_max": self._runs_max}
            | {"growth_bytes_max": GROWTH_BYTES_MAX, "secrets": sorted(place.order.secrets)}
        )
        return None

    # -- hearing from parents

    def knows(self, fileno: int) -> bool:
        """Tell whether this is the connection to a parent."""
        return fileno in self._by_fileno

    def hear(self, fileno: int) -> None:
        """Take what a parent says."""
        known = self._by_fileno[fileno]
        place, parent = known
        parent.channel.flush()
        for message, _ in parent.channel.receive():
            match message["op"]:
                case "importing":
                    parent.importing = message["module"]
                    parent.began_at = boottime()
                case "failed":
                    self._set_aside(place, [message["module"]], message["why"])
                case "ready":
                    if place.serving is not None:
                        place.serving.channel.send({"op": "linger"})  # some guardians may have been sent to it just now
                        self._let_go(place.serving)
                    place.serving, place.coming, place.is_due = parent, None, False
                case "renew":
                    if message["at_once"] and parent is place.serving:
                        self._let_go(parent)
                    place.is_due = place.serving is not None
                    self._prepare(place, boottime())
                case "unfit":
                    self._let_go(parent)
                    self._set_aside(place, place.wanted, message["why"])
                case _:
                    pass
            if self._by_fileno.get(fileno) is not known:
                return  # it was let go
        if parent.channel.lost:
            self._lose(place, parent)

    def _lose(self, place: _Place, parent: _Parent) -> None:
        """Deal with a parent that has died. After a failed import that was told it only has left."""
        was_coming = parent is place.coming
        self._end(parent) if was_coming else self._let_go(parent)
        if not was_coming:
            self._set_aside(place, place.wanted, "the warm parent died")
        elif not parent.importing:
            self._set_aside(place, place.wanted, "the process that was to import it died before; see warm.log")
        elif parent.importing not in place.set_aside:
            self._set_aside(place, [parent.importing], "the process that imported it died of it")

    def distrust(self, path: str, why: str) -> None:
        """Take note that a guardian was not served at ``path``, and had to start its job cold."""
        for place in self._places.values():
            if place.serving is not None and place.serving.path == path:
                self._let_go(place.serving)
                self._set_aside(place, place.wanted, why)

    def _set_aside(self, place: _Place, modules: Iterable[str], why: str) -> None:
        """Start the callables of these modules cold for a while."""
        for module in modules:
            place.set_aside[module] = (boottime() + SET_ASIDE_SECONDS, f"{module} has no warm parent: {why}")
        self.notes.append(f"callables of {', '.join(modules)} start cold for {SET_ASIDE_SECONDS:g} s: {why}"[:500])

    # -- letting go

    def look_after(self) -> None:
        """Let go of parents that nobody needs, end imports that hang, reap. To be called often; it looks seldom."""
        now = boottime()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        for key, place in list(self._places.items()):
            place.wanted = {module: times for module, times in place.wanted.items() if now - times[-1] < IDLE_SECONDS}
            place.set_aside = {module: held for module, held in place.set_aside.items() if now < held[0]}
            coming = place.coming
            if coming is not None and now - coming.began_at > IMPORT_SECONDS_MAX:
                self._end(coming)
                modules = [coming.importing] if coming.importing else [*place.wanted]
                self._set_aside(place, modules, f"its import took longer than {IMPORT_SECONDS_MAX:g} s")
            if not place.wanted:
                for parent in place.parents:
                    self._end(parent) if parent is place.coming else self._let_go(parent)
                if not place.set_aside:
                    del self._places[key]
        self._reap()

    def _reap(self) -> None:
        for process, path in self._leaving:
            if process.poll() is not None:
                _remove(path)  # it has, unless it was killed
        self._leaving = [leaving for leaving in self._leaving if leaving[0].returncode is None]

    def _let_go(self, parent: _Parent) -> None:
        """Close the connection to a parent: it leaves as soon as its last job has ended."""
        place, _ = self._by_fileno.pop(parent.channel.fileno())
        if place.serving is parent:
            place.serving = None
        if place.coming is parent:
            place.coming = None
        self._unwatch(parent.channel)
        parent.channel.close()
        self._leaving.append((parent.process, parent.path))

    def _end(self, parent: _Parent) -> None:
        """Kill a parent that is not ready, so has no job, and what its imports may have started."""
        self._let_go(parent)
        try:
            os.killpg(parent.process.pid, signal.SIGKILL)  # nobody has reaped it, so it is no stranger's group
        except ProcessLookupError:
            pass

    def close(self) -> list[subprocess.Popen[bytes]]:
        """Let go of all. Give the processes that are still there."""
        for place in self._places.values():
            for parent in place.parents:
                self._end(parent) if parent is place.coming else self._let_go(parent)
        self._places.clear()
        self._reap()
        return [process for process, _ in self._leaving]


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
