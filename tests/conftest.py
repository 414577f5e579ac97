"""What all tests share. Hypothesis: HYPOTHESIS_PROFILE=thorough for a long search."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import strangers
from support.messages import logged
from support.stand_in import Behaviour, StandIn, Start
from support.strangers import Strangers

# A machine that runs other tests at the same time is slow at times; that is no failure.
_SHARED = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ordinary", _SHARED)
settings.register_profile("thorough", _SHARED, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ordinary"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As shells start what runs in the background. What the tests start would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """The texts of what the agent's modules log during the test, in this process."""
    with logged() as texts:
        yield texts


@pytest.fixture(scope="module")
def users() -> Iterator[Strangers]:
    """Two users that exist for these tests only."""
    with strangers.made() as found:
        yield found


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own folders are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        place = Path(folder).resolve()
        place.chmod(0o755)
        yield place


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers that stand in for the agent, each at a pipe of its own."""
    servers: list[StandIn] = []

    def start(*behaviours: Behaviour) -> StandIn:
        servers.append(StandIn(tmp_path / f"pipe{len(servers)}", list(behaviours)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
