"""One agent for all tests of a file, and a fresh directory for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import Agent
from support.sites import Site, start


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = start(tmp_path_factory.mktemp("agent"))
    yield agent
    assert agent.stop() == 0


@pytest.fixture
def site(agent: Agent, tmp_path: Path) -> Site:
    return Site(agent, tmp_path)
