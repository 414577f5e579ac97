"""Fixtures of the tests of the runner."""

from __future__ import annotations

import pytest

from agent.runner import process
from support.agents import DEADLINE


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed callback is waited for as long as a test waits: a busy machine may need it."""
    monkeypatch.setattr(process, "_KILL_SECONDS", DEADLINE)
