"""Real workers carry out a tree of periods, of which one dies in the middle: each is done, in order."""

from __future__ import annotations

from datetime import timedelta

from rota.store.database import now_of
from rota.store.jobs import edit_job
from rota.store.period_view import list_periods
from tests.cluster.cluster import Cluster


def test_a_tree_of_periods_is_carried_out_in_order_by_workers_of_which_one_dies(cluster: Cluster) -> None:
    start = cluster.database.read(now_of) - timedelta(days=2)

    def add(name: str, period: str, **options: object) -> None:
        cluster.add_shell(name, 'note "$ROTA_JOB:$ROTA_PERIOD:$ROTA_KEY"')
        change = {"period": period, "period_start": start, **options}
        edit_job(cluster.database, name, lambda spec: spec.edited(**change), actor="test")

    add("parts", "3 hours", periods_at_once=3)
    add("days", "day", rolls_up=["parts"])
    add("export", "day", after=["days"])
    first = cluster.start("a", lease_seconds=3.0)
    second = cluster.start("b", lease_seconds=3.0)
    cluster.wait(
        lambda: len([one for one in list_periods(cluster.database, "parts") if one["finished_at"]]) > 3, "some"
    )
    first.kill()

    def finished(name: str, count: int) -> bool:
        rows = list_periods(cluster.database, name)
        return len([row for row in rows if row["finished_at"] is not None]) >= count

    cluster.wait(lambda: finished("export", 2), "two days are exported")

    told = [entry.what.split(":") for entry in cluster.ledger.entries()]
    at = {(words[0], words[1]): number for number, words in enumerate(told)}  # the last time, should it be repeated
    for days in list_periods(cluster.database, "days"):
        if days["finished_at"] is None:
            continue
        name = days["period"]
        within = [one for one in at if one[0] == "parts" and one[1].startswith(name)]
        assert len(within) == 8 or start.strftime("%Y-%m-%d") == name
        first_of_day = min(number for number, words in enumerate(told) if words[:2] == ["days", name])
        assert all(at[one] < first_of_day for one in within)
        assert first_of_day < at["export", name]
    assert all(words[2] == f"{words[0]}/{words[1]}" for words in told)
    assert second.trouble() == []
