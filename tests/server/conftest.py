"""An agent that the tests of one module share, and a site of it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import Agent
from support.requests import CONF
from support.sites import Site, start


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = start(tmp_path_factory.mktemp("agent"))
    yield agent
    # Whatever was sent to it, it goes on, and it said nothing of its own faults.
    assert agent.status()["state"] == "ok"
    assert agent.stop() == 0
    assert "Traceback" not in agent.errors.read_text()
    assert "internal" not in agent.errors.read_text()


@pytest.fixture
def site(agent: Agent, tmp_path: Path) -> Site:
    site = Site(agent, tmp_path)
    site.serve(CONF, a_py="0\n", q_qcb="fail-self\n")
    return site
