"""What is counted of the web server's logs: two trees of jobs with periods, and an export that needs both.

    hits (hour) ──► hits_daily (day) ──► hits_monthly (month)
                         └───────────────┐
                                         ├──► export (day)
    errors (6 hours) ──► errors_daily ───┘

Each job does one period: it reads what belongs to that, and writes one file of its own, whole. So it may be done again
at any time, by whichever machine, and the outcome is that of having been done once.
"""

import json
from pathlib import Path

from rota import Rota, current_run

rota = Rota()  # ROTA_DB

FOLDER = Path(__file__).parent
START = "2026-10-30"  # the first day; `hits` begins with the first hour of it, `hits_monthly` with its month


@rota.job(period="hour", period_start=START, retry_delay="2s")
def hits() -> int:
    """Count the lines of the access log of one hour."""
    return write("hits", count_lines("access"))


@rota.job(period="day", period_start=START, rolls_up=["hits"])
def hits_daily() -> int:
    """Sum up the hours of a day."""
    return write("hits_daily", sum_up("hits"))


@rota.job(period="month", period_start=START, rolls_up=["hits_daily"])
def hits_monthly() -> int:
    """Sum up the days of a month."""
    return write("hits_monthly", sum_up("hits_daily"))


@rota.job(period="6 hours", period_start=START, retry_delay="2s")
def errors() -> int:
    """Count the lines of the error log of a quarter of a day."""
    return write("errors", count_lines("error"))


@rota.job(period="day", period_start=START, rolls_up=["errors"])
def errors_daily() -> int:
    """Sum up the quarters of a day."""
    return write("errors_daily", sum_up("errors"))


@rota.job(period="day", period_start=START, after=["hits_daily", "errors_daily"])
def export() -> None:
    """Write what others fetch: a table of one line, once both of a day's numbers are there."""
    day = current_run().period.name
    hits, errors = (json.loads(path_of(job, day).read_text())["count"] for job in ("hits_daily", "errors_daily"))
    write_whole(FOLDER / "export" / f"{day}.csv", f"day,hits,errors\n{day},{hits},{errors}\n")


def count_lines(kind: str) -> int:
    """Count the lines of a log from the start of this run's range up to its end."""
    period = current_run().period
    log = FOLDER / "logs" / f"{kind}-{period.start:%Y-%m-%d}.log"
    # Until the log of the day is there this raises, and the period is tried again: an hour whose log has not come
    # is not one without hits.
    moments = [line.split()[0] for line in log.read_text().splitlines()]
    low, high = f"{period.range_start:%Y-%m-%dT%H:%M:%S}Z", f"{period.range_end:%Y-%m-%dT%H:%M:%S}Z"
    return sum(low <= moment < high for moment in moments)


def sum_up(job: str) -> int:
    """Add the counts of a job whose periods lie within that of this run. All are there: that is what it waited for."""
    period = current_run().period
    found = [json.loads(path.read_text()) for path in (FOLDER / "counts" / job).glob("*.json")]
    low, high = period.start.isoformat(), period.end.isoformat()
    return sum(one["count"] for one in found if low <= one["start"] < high)


def write(job: str, count: int) -> int:
    """Keep the count of this period, in the place of what was there before."""
    period = current_run().period
    counted = {"period": period.name, "start": period.start.isoformat(), "count": count}
    write_whole(path_of(job, period.name), json.dumps(counted) + "\n")
    return count


def path_of(job: str, period: str) -> Path:
    """Return the file of one period of a job: what a name of a period has in it may be in that of a file."""
    return FOLDER / "counts" / job / f"{period}.json"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds all of the old one or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.half")
    half.write_text(text)
    half.replace(path)
