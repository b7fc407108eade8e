"""A node hears, and can renew, however many descriptors its process has open."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from rota.store.wakeup import Pulse
from tests.store.ledger import Ledger


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("this process may not open that many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for number in opened:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_a_connection_that_is_made_beside_a_thousand_jobs_is_waited_on(ledger: Ledger) -> None:
    pulse = Pulse(ledger.connect())
    wake = os.eventfd(0)
    pulse.wait(0.0, wake)  # what came before it listened

    os.eventfd_write(wake, 1)

    assert not pulse.wait(60.0, wake)
    pulse.close()
    os.close(wake)
