"""Nodes that are registered in a test's database, without a process behind them."""

from __future__ import annotations

from collections.abc import Callable

from rota.model.run import NodeIdentity
from rota.store.nodes import leave_node, register_node
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of


def start_node(
    ledger: Ledger,
    name: str = "a",
    *,
    pools: tuple[str, ...] = ("default",),
    slots: int = 4,
    environments: tuple[str, ...] = (),
    secrets: tuple[str, ...] = (),
    zone_data_version: str | None = None,
    keep_runs: str | None = None,
    on_new_pool: Callable[[str], None] | None = None,
) -> None:
    """Register a node, or let it come back: alive for one lease from now."""
    register_node(
        ledger.database,
        NodeIdentity("", f"holder-of-{name}", "boot"),
        host="alpha",
        pid=1,
        pid_started=1,
        pools=pools,
        slots=slots,
        environments=environments,
        secrets=secrets,
        zone_data_version=zone_data_version,
        keep_runs=keep_runs,
        version="0.1.0",
        lease_seconds=LEASE_SECONDS,
        wanted=name,
        on_new_pool=on_new_pool,
    )


def stop_node(ledger: Ledger, name: str = "a") -> None:
    """Let a node say goodbye."""
    assert leave_node(ledger.database, identity_of(name))
