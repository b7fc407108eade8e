"""Which faults happen when: drawn from a seed, so that a plan can be printed and carried out again.

Invariant: of five hosts at most three are down at a time, and the database has one fault at a time; so there is always
somebody who could do the work, and what waits longer than a lease and a little waits for no good reason.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

CALM_SECONDS = 6.0  # at the beginning: the workers have to start first
GAP_SECONDS_MEAN = 4.0
RECOVERY_SECONDS = 2.0  # that a host gets after a fault before its next one, on top of its restart
DATABASE_GAP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Step:
    """One fault: what, to whom, from when, for how long."""

    at: float  # seconds after the beginning
    kind: str  # kill, stop, network, database
    what: str  # of kill and stop: who; of network and database: what happens
    hosts: tuple[str, ...] = ()  # none: the database, and so everybody
    seconds: float = 0.0
    amount: float = 0.0  # of a delay: seconds; of a cut: bytes; of one among several processes: which

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# (weight, kind, what); a database without a server has no network.
HOST_FAULTS = (
    (4, "kill", "worker"),
    (4, "kill", "guardian"),
    (2, "kill", "guardians"),
    (3, "kill", "nursery"),
    (5, "kill", "host"),
    (3, "stop", "worker"),
    (4, "stop", "guardian"),
    (2, "stop", "nursery"),
    (2, "stop", "guardians and nursery"),
    (4, "stop", "host"),
    (3, "network", "unplug"),
    (3, "network", "hold"),
    (3, "network", "swallow"),
    (3, "network", "delay"),
    (3, "network", "reset"),
    (5, "network", "cut"),
    (2, "network", "refuse"),
)
SERVER_FAULTS = ((3, "restart"), (3, "crash"), (2, "lock rows"), (2, "lock table"))
FILE_FAULTS = ((5, "lock file"), (3, "disk full"))


def make_plan(seed: int, hosts: Sequence[str], seconds: float, lease: float, *, has_server: bool) -> list[Step]:
    """Draw the faults of ``seconds``, all of which end within them."""
    chance = random.Random(seed)
    host_faults = [fault for fault in HOST_FAULTS if has_server or fault[1] != "network"]
    down_max = max(1, len(hosts) * 3 // 5)
    busy_until = dict.fromkeys(hosts, 0.0)
    database_at = CALM_SECONDS + chance.uniform(0, DATABASE_GAP_SECONDS)
    at = CALM_SECONDS
    plan: list[Step] = []
    while at < seconds - 2 * lease:
        if at >= database_at:
            step = _of_database(chance, at, lease, has_server)
            database_at = at + step.seconds + chance.uniform(1, 2) * DATABASE_GAP_SECONDS
            plan.append(step)
        free = [host for host in hosts if busy_until[host] <= at]
        room = down_max - (len(hosts) - len(free))
        if room > 0:
            # Now and then the same thing happens to several at once.
            count = min(room, len(free), chance.choice((1, 1, 1, 1, 2, 3)))
            step = _of_hosts(chance, at, lease, tuple(sorted(chance.sample(free, count))), host_faults)
            for host in step.hosts:
                busy_until[host] = at + step.seconds + RECOVERY_SECONDS
            plan.append(step)
        at += max(0.3, chance.expovariate(1 / GAP_SECONDS_MEAN))
    return plan


def _of_database(chance: random.Random, at: float, lease: float, has_server: bool) -> Step:
    faults = SERVER_FAULTS if has_server else FILE_FAULTS
    what = chance.choices([what for _, what in faults], [weight for weight, _ in faults])[0]
    match what:
        case "restart" | "crash":
            seconds = chance.choice((0.0, 1.0, chance.uniform(1, lease)))
        case "lock table" | "disk full":
            seconds = chance.uniform(1, lease)
        case _:
            seconds = chance.uniform(1, 1.5 * lease)
    return Step(round(at, 2), "database", what, (), round(seconds, 2))


def _of_hosts(
    chance: random.Random, at: float, lease: float, hosts: tuple[str, ...], faults: Sequence[tuple[int, str, str]]
) -> Step:
    _, kind, what = chance.choices(faults, [weight for weight, _, _ in faults])[0]
    amount = 0.0
    match kind, what:
        case "kill", "host":
            seconds = chance.uniform(1, 2 * lease)  # until it is switched on again
        case "kill", _:
            seconds, amount = 1.0, float(chance.randrange(100))
        case "stop", _:
            seconds, amount = chance.uniform(0.5, 2 * lease), float(chance.randrange(100))
        case "network", "delay":
            seconds, amount = chance.uniform(lease / 2, 2 * lease), round(chance.uniform(0.05, 0.8), 2)
        case "network", "cut":
            seconds, amount = chance.uniform(lease / 2, 2 * lease), float(chance.randrange(1, 6000))
        case "network", "reset":
            seconds = 0.5
        case _:
            seconds = chance.uniform(1, 2 * lease)
    return Step(round(at, 2), kind, what, hosts, round(seconds, 2), amount)
