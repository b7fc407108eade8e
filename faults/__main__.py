"""``python -m faults --database postgresql --seed 1``: five hosts under load and random faults, and what came of it.

Ends with 0 when every promise held and with 1 when one did not. The same seed, database and options make the same plan;
which run is hit depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import NoReturn

from faults.results import table_of
from faults.suite import Options, run
from tests.servers import Unavailable

FINDINGS_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--database", choices=["postgresql", "mariadb", "sqlite", "mysql"], default="postgresql")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0, help="of load and faults")
    parser.add_argument("--rest", type=float, default=120.0, help="at most, until all is quiet again")
    parser.add_argument("--hosts", type=int, default=5)
    parser.add_argument("--lease", type=float, default=6.0, help="of the workers, in seconds")
    parser.add_argument("--isolation", choices=["auto", "namespaces", "processes"], default="auto")
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND", help="kill, stop, unplug, ...; repeatable"
    )
    parser.add_argument("--plan", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--keep", action="store_true", help="keep the folder with ledger and logs")
    parser.add_argument("--json", type=Path, default=Path("faults.json"), help="where the outcome goes")
    given = parser.parse_args()
    options = Options(
        given.database, given.seed, given.seconds, given.rest, given.hosts, given.lease, given.isolation,
        tuple(given.only), given.keep,
    )  # fmt: skip
    if given.plan:
        for step in options.plan():
            print(json.dumps(step.as_dict()))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        outcome = run(options, lambda text: print(text, file=sys.stderr, flush=True))
    except Unavailable as reason:
        print(f"not measured: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; everything is undone", file=sys.stderr)
        return 130
    found = outcome.as_dict()
    given.json.write_text(json.dumps(found, indent=2) + "\n")
    for finding in found["findings"][:FINDINGS_SHOWN]:
        print(f"{finding['what']}: run {finding['run']}: {finding['text']}")
    print(table_of([found]))
    return 0 if found["holds"] else 1


def _interrupt(*_: object) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):  # from here on all is undone, whoever is impatient
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
