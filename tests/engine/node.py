"""A node without threads and processes: its bookkeeper, stepped by hand, and a watch that only listens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rota.engine.bookkeeper import Acknowledge, Bookkeeper, Idle, Message, RenewalWanted, Start
from rota.engine.settings import NodeSettings
from rota.model.run import Claim, End
from rota.store.database import Database
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of


class Node:
    """One node of a test. Its job ends when the test says so."""

    def __init__(self, ledger: Ledger, name: str = "a", *, slots: int = 10, database: Database | None = None) -> None:
        self.ledger = ledger
        self.told: list[Message] = []
        self.settings = NodeSettings(
            database_url=ledger.url,
            state_dir=Path("/nonexistent"),
            name=name,
            slots=slots,
            lease_seconds=LEASE_SECONDS,
            environment={},
        )
        self.database = database or ledger.connect()
        self.bookkeeper = Bookkeeper(
            self.database, identity_of(name), self.settings, self.told.append, clock=ledger.clock.uptime
        )

    def round(self) -> list[Message]:
        """Do one round, as after a hint, and return what the watch was told in it."""
        before = len(self.told)
        self.bookkeeper.hint()
        self.bookkeeper.round()
        return self.told[before:]

    def settle(self) -> None:
        """Do rounds until nothing is left to do now."""
        for _ in range(20):
            if any(isinstance(message, Idle) for message in self.round()):
                return
        raise AssertionError("the node does not come to rest")

    @property
    def started(self) -> list[Claim]:
        """All that the watch was told to start, in order."""
        return [claim for message in self.told if isinstance(message, Start) for claim in message.claims]

    @property
    def acknowledged(self) -> list[str]:
        return [claim_id for message in self.told if isinstance(message, Acknowledge) for claim_id in message.claim_ids]

    @property
    def was_told_of_cancellation(self) -> bool:
        return any(isinstance(message, RenewalWanted) for message in self.told)

    def start_one(self) -> Claim:
        """Do one round in which exactly one run is started."""
        before = len(self.started)
        self.round()
        (claim,) = self.started[before:]
        return claim

    def end(self, claim: Claim, kind: str = "succeeded", **facts: Any) -> None:
        """Let an attempt end, and have that written."""
        self.bookkeeper.hear_end(End(claim.claim_id, claim.run_id, kind, **facts))
        self.bookkeeper.round()
