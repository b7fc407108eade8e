"""The environments of a node: those that its configuration names, and those that what is installed on it registers.

Called whenever the settings are read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from threading import Thread

from rota.errors import Invalid
from rota.execution.registered import GROUP, read_registered
from rota.model.environment import ENVIRONMENTS_MAX, Environment, Environments

log = logging.getLogger("rota.worker")

LOOK_SECONDS_MAX = 2.0


def gather_environments(configured: Sequence[Environment], *, without: Collection[str] = ()) -> Environments:
    """Put both together; of the same name and version what is configured counts, then the first entry point by name.

    What registers does not see the variables ``without``, which hold secrets. An entry point that cannot be used is
    told in the log and left out; an environment that lacks its interpreter or a folder is told, and stays: it may come
    back while the worker runs.

    Raises:
        Invalid: more are configured than a node may have.
    """
    found = {one.spelled: one for one in configured}
    configured_count = len(found)
    for registered in read_registered(without=without):
        label = f"the entry point {registered.entry_point!r} of {GROUP}"
        if registered.fault is not None:
            log.warning("%s is left out: %s", label, registered.fault)
            continue
        facts = dict(registered.facts)
        try:
            one = Environment.checked(facts.pop("name"), **facts)
        except Invalid as error:
            log.warning("%s is left out: %s", label, error)
            continue
        if one.spelled in found:
            of = "the configuration" if one.spelled in list(found)[:configured_count] else "another entry point"
            log.info("%s is left out: %s has %s too", label, of, one.spelled)
        elif len(found) >= ENVIRONMENTS_MAX:
            log.warning("%s is left out: a node has at most %d environments", label, ENVIRONMENTS_MAX)
        else:
            found[one.spelled] = one
    looker = Thread(target=_tell_missing, args=(tuple(found.values()),), daemon=True)
    looker.start()
    looker.join(LOOK_SECONDS_MAX)  # a disk that does not answer holds up no worker
    return Environments(found.values())


def _tell_missing(environments: Sequence[Environment]) -> None:
    """Tell in the log what is not there of each: a job that asks for it would fail."""
    for one in environments:
        needs = [("interpreter", one.interpreter), *(("folder", folder) for folder in one.python_path)]
        # Not by Path, which refuses what it may not look at.
        missing = [f"{what} {path}" for what, path in needs if path is not None and not os.path.exists(path)]  # noqa: PTH110
        if missing:
            log.warning(
                "environment %s is broken, and runs that ask for it fail here: there is no %s; put it back, or correct "
                "the environment where it is registered",
                one.spelled,
                ", no ".join(missing),
            )
