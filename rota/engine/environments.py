"""The environments of a node: those that its configuration names, and those that what is installed on it registers.

Called whenever the settings are read.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from rota.errors import Invalid
from rota.execution.registered import GROUP, read_registered
from rota.model.environment import ENVIRONMENTS_MAX, Environment, Environments

log = logging.getLogger("rota.worker")


def gather_environments(configured: Sequence[Environment], *, without: Collection[str] = ()) -> Environments:
    """Put both together; of the same name and version what is configured counts, then the first entry point by name.

    What registers does not see the variables ``without``, which hold secrets. An entry point that cannot be used is
    told in the log and left out.

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
    return Environments(found.values())
