"""A web server that is made up: it writes the logs of one day, always the same ones for the same day.

python webserver.py 2026-10-30            the day is over: its access log and its error log arrive
python webserver.py --late 2026-10-30T14  lines of that hour arrive that were held up on their way
"""

from __future__ import annotations

import random
import sys
from datetime import datetime, timedelta
from pathlib import Path

LOGS = Path(__file__).parent / "logs"
PAGES = ("/", "/about", "/products", "/products/7", "/search?q=lamp")
ERRORS = ("upstream timed out", "no such file", "client closed the connection")
LATE_LINES = 5


def write_day(day: str) -> None:
    """Write both logs of a day, each whole: nobody sees half a log."""
    dice = random.Random(day)
    access: list[str] = []
    errors: list[str] = []
    for hour in range(24):
        begins = datetime.fromisoformat(day) + timedelta(hours=hour)
        count = dice.randint(0, 3) if hour < 7 else dice.randint(4, 9)
        access += [access_line(dice, begins) for _ in range(count)]
        if dice.random() < 0.3:
            moment = begins + timedelta(seconds=dice.randrange(3600))
            errors.append(f"{moment.isoformat()}Z [error] {dice.choice(ERRORS)}")
    LOGS.mkdir(exist_ok=True)
    for kind, lines in ("access", access), ("error", errors):
        half = LOGS / f".{kind}-{day}.half"
        half.write_text("".join(f"{line}\n" for line in sorted(lines)))
        half.rename(LOGS / f"{kind}-{day}.log")
        print(f"{kind}-{day}.log: {len(lines)} lines")


def write_late(hour: str) -> None:
    """Append lines of an hour to the log of its day, after it was written."""
    dice = random.Random(hour)
    begins = datetime.fromisoformat(f"{hour}:00")
    path = LOGS / f"access-{begins:%Y-%m-%d}.log"
    with path.open("a") as log:
        log.writelines(f"{access_line(dice, begins)}\n" for _ in range(LATE_LINES))
    print(f"{path.name}: {LATE_LINES} more lines of {hour}")


def access_line(dice: random.Random, begins: datetime) -> str:
    """Make up a line of the hour that begins then."""
    moment = begins + timedelta(seconds=dice.randrange(3600))
    status = dice.choice((200, 200, 200, 304, 404))
    return f"{moment.isoformat()}Z 192.0.2.{dice.randint(1, 254)} GET {dice.choice(PAGES)} {status}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--late", hour]:
            write_late(hour)
        case [day]:
            write_day(day)
        case _:
            sys.exit(__doc__)
