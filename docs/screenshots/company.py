"""What the company of the pictures has: its machines, jobs and schedules, and how its jobs use to go.

Data only; ``world`` lets it happen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

ZONE = "Europe/Amsterdam"


class Machine(NamedTuple):
    """A node."""

    name: str
    pools: tuple[str, ...]
    slots: int
    labels: dict[str, str]


MACHINES = (
    Machine("ams-1", ("default", "web"), 6, {"site": "ams", "disk": "ssd"}),
    Machine("ams-2", ("default", "web"), 6, {"site": "ams", "disk": "ssd"}),
    Machine("fra-1", ("default", "reports"), 4, {"site": "fra", "disk": "ssd"}),
    Machine("fra-2", ("default", "reports"), 4, {"site": "fra", "disk": "hdd"}),
    Machine("db-1", ("database",), 2, {"site": "ams", "disk": "nvme"}),
)


@dataclass(frozen=True, slots=True)
class Habit:
    """How the attempts of a job use to go: seconds from and to, how many of a hundred fail, and how."""

    least: float
    most: float
    fails: int = 0
    exit_code: int = 1
    error: tuple[str, str] | None = None  # of a Python function
    result: dict[str, Any] | None = None


# fmt: off
# name: its options, and how it goes
JOBS: dict[str, tuple[dict[str, Any], Habit]] = {
    "backup-database": (
        {"command": ["pg_basebackup", "--pgdata", "/backup/tonight", "--format", "tar", "--compress", "zstd:9"],
         "pool": "database", "timeout": "4h", "retries": 1, "retry_delay": "5m", "priority": 5}, Habit(6200, 7000)),
    "backup-verify": (
        {"shell": "restore-check --sample 2% /backup/tonight", "pool": "database", "after": ["backup-database"],
         "timeout": "2h"}, Habit(1500, 1900)),
    "certificates": ({"shell": "certbot renew --quiet", "pool": "web", "on": "all"}, Habit(3, 9)),
    "exchange-rates": (
        {"call": "finance.rates:fetch", "retries": 5, "retry_delay": "1m", "backoff": "exponential"},
        Habit(2, 6, fails=8, error=("requests.exceptions.ReadTimeout", "api.ecb.example: no answer within 10 s"),
              result={"currencies": 31})),
    "fraud-model": ({"call": "risk.models:train", "pool": "gpu", "timeout": "8h"}, Habit(9000, 9000)),
    "invoices": (
        {"call": "billing.invoices:send_due", "pool": "reports", "retries": 3, "retry_delay": "2m",
         "max_per_key": 1, "concurrency_key": "market"},
        Habit(240, 700, result={"sent": 1284, "amount_eur": 96412.5})),
    "log-rotate": ({"shell": "logrotate /etc/logrotate.d/shop", "pool": "web", "on": "all"}, Habit(1, 4)),
    "loyalty-points": ({"call": "shop.loyalty:grant", "pool": "reports"}, Habit(60, 120)),
    "newsletter": (
        {"call": "marketing.newsletter:send", "delivery": "at_most_once", "timeout": "3h",
         "prefer": ["fra-2"]}, Habit(5400, 7000)),
    "order-export": (
        {"shell": "export-orders --since \"$ROTA_SLOT\" | gzip > /exports/orders-\"$ROTA_RUN_ID\".gz", "retries": 2,
         "retry_delay": "30s", "breaker_failures": 8}, Habit(20, 80, fails=6, exit_code=2)),
    "payment-reconcile": (
        {"call": "finance.payments:reconcile", "pool": "reports", "retries": 2, "retry_delay": "3m",
         "mutexes": ["ledger"]},
        Habit(90, 260, fails=12, error=("finance.LedgerMismatch", "3 payments of provider 2 have no order"),
              result={"payments": 4821, "differences": 0})),
    "price-feed": ({"shell": "feed --market nl,de,be push", "pool": "web", "retries": 2, "retry_delay": "20s"},
                   Habit(12, 45, fails=5, exit_code=75)),
    "search-index": ({"command": ["indexer", "--incremental", "--shards", "8"], "pool": "web", "timeout": "1h"},
                     Habit(240, 760)),
    "sessions-cleanup": ({"sql": "delete from session where expires_at < now() - interval '1 day'",
                          "timeout": "20s"}, Habit(1, 5)),
    "sms-reminders": ({"call": "care.reminders:send", "pool": "reports", "start_within": "3m"}, Habit(10, 50)),
    "stock-sync": (
        {"shell": "stock-sync --supplier all --parallel 4", "pool": "web", "retries": 2, "retry_delay": "45s",
         "rate": "30/1h"}, Habit(25, 110, fails=16, exit_code=3)),
    "thumbnails": ({"call": "media.images:scale", "max_running": 3}, Habit(15, 70, fails=3, exit_code=1)),
    "traffic-hourly": ({"call": "stats.traffic:count", "period": "hour", "period_start": "2026-11-16T00",
                        "settle": "5m"}, Habit(20, 90)),
    "traffic-daily": ({"call": "stats.traffic:sum_up", "period": "day", "period_start": "2026-11-16",
                       "rolls_up": ["traffic-hourly"]}, Habit(20, 60)),
    "revenue-monthly": ({"call": "stats.revenue:close", "period": "month", "period_start": "2026-11",
                         "rolls_up": ["traffic-daily"]}, Habit(20, 60)),
    "warehouse-load": (
        {"call": "warehouse.load:run", "pool": "reports", "after": ["order-export"], "timeout": "30m", "retries": 1},
        Habit(60, 200, result={"rows": 18220})),
}

SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "backup-nightly": ("backup-database", {"cron": "30 2 * * *", "tz": ZONE, "start_within": "4h"}),
    "certificates-daily": ("certificates", {"cron": "15 4 * * *", "tz": ZONE}),
    "exchange-rates": ("exchange-rates", {"cron": "5 16 * * *", "tz": ZONE, "calendars": ["bank-days"]}),
    "fraud-model-weekly": ("fraud-model", {"cron": "0 1 * * wed", "tz": ZONE}),
    "invoices-nl": ("invoices", {"cron": "0 3 * * *", "tz": ZONE, "args": {"market": "nl"}}),
    "invoices-de": ("invoices", {"cron": "0 3 * * *", "tz": "Europe/Berlin", "args": {"market": "de"}}),
    "log-rotate": ("log-rotate", {"cron": "10 */6 * * *"}),
    "loyalty-points": ("loyalty-points", {"cron": "0 5 * * *", "tz": ZONE}),
    "newsletter-tuesday": ("newsletter", {"cron": "30 2 * * wed", "tz": ZONE, "calendars": ["year-end-freeze"]}),
    "order-export": ("order-export", {"cron": "*/30 * * * *"}),
    "payment-reconcile": ("payment-reconcile", {"cron": "20 */3 * * *"}),
    "price-feed": ("price-feed", {"every": "20m", "anchor": "2026-11-01T00:00", "jitter": "2m"}),
    "search-index": ("search-index", {"every": "10m", "anchor": "2026-11-01T00:05"}),
    "sessions-cleanup": ("sessions-cleanup", {"cron": "H * * * *"}),
    "sms-reminders": ("sms-reminders", {"cron": "*/30 8-21 * * *", "tz": ZONE}),
    "stock-sync": ("stock-sync", {"every": "5m", "anchor": "2026-11-01T00:02"}),
    "warehouse-load": ("warehouse-load", {"cron": "*/30 * * * *"}),
}
# fmt: on

CALENDARS: dict[str, dict[str, Any]] = {
    "bank-days": {
        "weekdays": ["sat", "sun"],
        "dates": ["2026-01-01", "2026-04-03", "2026-04-06", "2026-05-01", "2026-12-25", "2026-12-26"],
    },
    "year-end-freeze": {"windows": ["2026-12-18T18:00..2027-01-04T06:00"]},
}

# When attempts of a job fail whatever happens: from, to.
TROUBLE = {
    "stock-sync": ("2026-11-18T01:35", "2026-11-19"),
    "payment-reconcile": ("2026-11-18T00:15", "2026-11-18T00:50"),
    "price-feed": ("2026-11-17T13:10", "2026-11-17T14:30"),
    "order-export": ("2026-11-17T09:25", "2026-11-17T09:55"),
}

OUTPUT = (
    "\x1b[1m{job}\x1b[0m for slot {slot}, attempt {attempt}\n"
    "\x1b[36m[config]\x1b[0m read /etc/shop/{job}.toml\n"
    "\x1b[36m[source]\x1b[0m connected to replica-2 in 14 ms\n"
)
STEP = "\x1b[32m  ok\x1b[0m   batch {number:>3} of {of}  {rows:>6,} rows  {ms:>4} ms\n"
SLOW = "\x1b[33m  slow\x1b[0m batch {number:>3} of {of}  {rows:>6,} rows  {ms:>4} ms\n"
DONE = "\x1b[1;32mdone\x1b[0m\n"
BROKEN = (
    "\x1b[1;31merror\x1b[0m supplier 7 (Lindqvist): HTTP 503 Service Unavailable\n"
    "\x1b[31m      \x1b[0m after 3 tries in 38 s; 41 of 44 suppliers are up to date\n"
)
