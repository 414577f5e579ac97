"""When the daemon does what it does now and then."""

from __future__ import annotations

import time

import pytest

from agent.slurm.queue import uptime
from agent.slurm.reporting import RETRY_INTERVAL, SCAN_INTERVAL, Times


@pytest.fixture(autouse=True)
def clock_that_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)


def test_what_failed_is_not_tried_again_at_once() -> None:
    times = Times()
    assert times.wait(uptime() - 5) == 0.0
    times.retry()
    assert times.wait(uptime() - 5) == pytest.approx(RETRY_INTERVAL)
    # It was told once.
    assert times.wait(None) == 0.0


def test_one_question_at_a_time() -> None:
    times = Times()
    assert times.tidies()
    assert times.asks(None, 60.0)
    assert not times.asks(uptime() - 5, 60.0)
    assert times.wait(uptime() - 5) == pytest.approx(SCAN_INTERVAL)
    times.answered()
    assert not times.asks(None, 60.0)
    assert not times.asks(uptime() + 60, 60.0)
    assert times.wait(uptime() - 5) == 0.0
    assert times.asks(uptime() - 5, 60.0)
