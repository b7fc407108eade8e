"""The secrets that a node can supply: read afresh for each attempt, from where its configuration says.

Invariant: a value goes into an order and nowhere else; log and sentences name the secret and its place. What cannot be
read is not offered: the node claims nothing that needs it, and looks again every few seconds whether it can. Asked by
the bookkeeper what to claim for, and by the watch for the values.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping

from rota.alerts.channel import Channel, facts_text
from rota.errors import Invalid
from rota.execution.linux import boottime
from rota.execution.masking import SHORTEST
from rota.model.secret import SECRETS_MAX, SecretSource

log = logging.getLogger("rota.worker")

SECRET_BYTES_MAX = 32 * 1024
SECRETS_BYTES_MAX = 128 * 1024  # of one job: each is looked for in all that it says
LOOK_AGAIN_SECONDS = 10.0  # whether a secret that could not be read can be now


class Unavailable(Exception):
    """A secret cannot be had here and now. The sentence is for people, and names no value."""


class NodeSecrets:
    """What the configuration of one node names. Used by two threads."""

    def __init__(
        self,
        sources: Iterable[SecretSource] = (),
        environment: Mapping[str, str] | None = None,
        *,
        channels: Iterable[Channel] = (),
        clock: Callable[[], float] = boottime,
    ) -> None:
        """Take up to ``SECRETS_MAX``, each channel being one; ``environment`` is the worker's."""
        self._sources = {source.name: source for source in sources}
        self._channels = {channel.variable: channel for channel in channels}
        if (count := len(self._sources) + len(self._channels)) > SECRETS_MAX:
            rule = f"a node has at most {SECRETS_MAX}, with the channels of its alerts"
            raise Invalid("secrets", f"{count} secrets", rule)
        self._names = frozenset(self._sources)  # of those that are offered by themselves
        self._sources |= {part.name: part for channel in self._channels.values() for part in channel.hidden}
        self._environment = os.environ if environment is None else environment
        self._clock = clock
        self._lock = threading.Lock()
        self._look_at = dict.fromkeys(self._sources, 0.0)  # those that are not offered, and when to look again
        self._told: set[str] = set()  # those of which the log knows that they cannot be read
        self._warned: set[str] = set()  # those of which it knows that others may read them

    @property
    def variables(self) -> frozenset[str]:
        """The variables of the worker's environment that hold one."""
        return frozenset(source.env for source in self._sources.values() if source.env is not None)

    def offered(self) -> tuple[str, ...]:
        """Return the names of those that can be read, sorted, as far as is known."""
        with self._lock:
            now = self._clock()
            for name in [name for name, look_at in self._look_at.items() if look_at <= now]:
                try:
                    self._read(name)
                except Unavailable as error:
                    self._withdraw(name, error)
            readable = self._sources.keys() - self._look_at.keys()
            whole = {name for name, one in self._channels.items() if readable >= {part.name for part in one.hidden}}
            return tuple(sorted((self._names & readable) | whole))

    def read(self, names: Iterable[str]) -> dict[str, str]:
        """Read these now; of a channel, what may be shown of it and each of its parts.

        Raises:
            Unavailable: one is not configured, or cannot be read; it is not offered any more.
            Invalid: they are too large together.
        """
        found: dict[str, str] = {}
        with self._lock:
            for name in self._spread(names, found):
                try:
                    found[name] = self._read(name)
                except Unavailable as error:
                    self._withdraw(name, error)
                    raise
        if (size := sum(len(value.encode()) for value in found.values())) > SECRETS_BYTES_MAX:
            rule = f"those of a job have at most {SECRETS_BYTES_MAX} bytes together; these have {size}"
            raise Invalid("secrets", ", ".join(found), rule)
        return found

    def _spread(self, names: Iterable[str], found: dict[str, str]) -> list[str]:
        """Return the names of what is to be read, and put into ``found`` what is known already."""
        wanted: list[str] = []
        for name in names:
            if (channel := self._channels.get(name)) is not None:
                found[name] = facts_text(channel)
                wanted += [part.name for part in channel.hidden]
            elif name in self._names:
                wanted.append(name)
            else:
                raise Unavailable(f"secret {name} is not in its configuration")
        return wanted

    def _withdraw(self, name: str, error: Unavailable) -> None:
        self._look_at[name] = self._clock() + LOOK_AGAIN_SECONDS
        if name not in self._told:
            self._told.add(name)
            log.warning("%s; runs of jobs that name it are not taken until it can be read", error)

    def _read(self, name: str) -> str:
        source = self._sources[name]
        if source.text is not None:
            self._look_at.pop(name, None)
            return source.text
        try:
            value = self._read_variable(source.env) if source.file is None else self._read_file(name, source.file)
        except (OSError, ValueError) as error:
            why = (error.strerror or type(error).__name__) if isinstance(error, OSError) else _reason(error)
            # Not as its cause: that of a decoding error holds the bytes.
            raise Unavailable(f"secret {name} cannot be read from {source}: {why}") from None
        self._look_at.pop(name, None)
        if name in self._told:
            self._told.discard(name)
            log.info("secret %s can be read again", name)
        return value

    def _read_variable(self, variable: str | None) -> str:
        value = self._environment.get(variable or "")
        if value is None:
            raise ValueError("it is not set")
        return _checked(value.encode("utf-8", "surrogateescape"))

    def _read_file(self, name: str, path: str) -> str:
        # Not waiting for whoever writes into a pipe of that name.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError("it is no regular file")
            if mode & (stat.S_IRGRP | stat.S_IROTH) and name not in self._warned:
                self._warned.add(name)
                log.warning("secret %s: others than its owner may read file %s", name, path)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return _checked(file.read(SECRET_BYTES_MAX + 3))  # with the end of its line, and one more
        finally:
            os.close(descriptor)


def _checked(data: bytes) -> str:
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(data) > SECRET_BYTES_MAX:
        raise ValueError(f"it is longer than {SECRET_BYTES_MAX} bytes")
    if b"\0" in data:
        raise ValueError("it holds the character NUL, which no variable can")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8; keep it in base64") from None
    if len(text) < SHORTEST or not text.strip():
        raise ValueError(f"it is shorter than {SHORTEST} characters, which cannot be kept out of what a job says")
    return text


def _reason(error: ValueError) -> str:
    return "its path cannot be used" if isinstance(error, UnicodeError) else str(error)
