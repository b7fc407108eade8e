"""What a node is told: how it works, not what it works on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rota.engine.secrets import NodeSecrets
from rota.errors import Invalid
from rota.model.environment import Environments
from rota.model.job import LEASE_SECONDS, LEASE_SECONDS_MIN
from rota.model.keeping import KEEP_DEFAULT
from rota.model.states import OnTerm

# How long a node waits for an answer of the database. Longer than a statement may wait for a lock, and about as long as
# the kernel takes to notice that the other end is dead; no longer than the server lets a statement last.
ANSWER_SECONDS_MIN = 15.0
ANSWER_SECONDS_MAX = 75.0

# Both streams of an attempt go into one statement, and MariaDB takes statements of 16 MiB, escapes included.
OUTPUT_BYTES_MAX = 2 << 20


def slots_default() -> int:
    """Return how many runs a node takes at once unless told: most jobs wait more than they compute."""
    return max(4, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything a node needs to know, resolved. Durations in seconds."""

    database_url: str = field(repr=False)  # it may hold a password
    state_dir: Path  # sockets, journals and locks of this machine; private to the user
    name: str | None = None  # None: the host's, then host:2, host:3
    pools: tuple[str, ...] = ("default",)
    slots: int = field(default_factory=slots_default)
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    lease_seconds: float = LEASE_SECONDS
    grace_seconds: float = 10.0
    drain_timeout_seconds: float = 60.0
    on_term: OnTerm = OnTerm.AUTO
    cgroup: str = "auto"  # or off, or the path of a directory for cgroups that the operator has prepared
    poll_seconds: float | None = None  # None: as the database needs
    modules: tuple[str, ...] = ()  # imported for the jobs they declare
    import_dirs: tuple[str, ...] = ()  # put on the import path of Python jobs
    reuse: int = 1000  # attempts a guardian serves before it leaves
    warm_reuse: int = 1000  # Python jobs that a warm parent forks before it is renewed; 0: each starts cold
    output_bytes_max: int = 1 << 20  # kept of each stream of an attempt, half head and half tail
    keep_output_seconds: float | None = 30 * 86400.0  # after an attempt has ended; None: for ever
    keep_audit_seconds: float | None = 365 * 86400.0  # what people did; None: for ever
    keep_runs: Mapping[str, float | None] = field(default_factory=lambda: dict(KEEP_DEFAULT))  # by how they ended
    python: str = sys.executable
    # Variables of this process.
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    connections: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)  # URLs, of jobs of SQL
    environments: Environments = field(default_factory=Environments)  # that jobs may ask for
    secrets: NodeSecrets = field(default_factory=NodeSecrets)  # that jobs may name

    def __post_init__(self) -> None:
        if self.lease_seconds < LEASE_SECONDS_MIN:
            raise Invalid("lease", self.lease_seconds, f"a lease lasts at least {LEASE_SECONDS_MIN:g} s")
        if self.slots < 1:
            raise Invalid("slots", self.slots, "a node takes at least one run at once")
        if not 0 <= self.output_bytes_max <= OUTPUT_BYTES_MAX:
            raise Invalid("output_bytes_max", self.output_bytes_max, f"a stream keeps at most {OUTPUT_BYTES_MAX} bytes")
        if not self.pools:
            raise Invalid("pool", self.pools, "a node works for at least one pool")

    @property
    def answer_seconds(self) -> float:
        """How long a silent database is waited for: a renewal must be able to go another way in time."""
        return min(ANSWER_SECONDS_MAX, max(ANSWER_SECONDS_MIN, self.lease_seconds / 3))
