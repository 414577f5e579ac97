"""The commands as processes, in an environment of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stand_in import ROOT, SOON, Run, StandIn
from support import commands


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[StandIn]:
    server = StandIn(tmp_path / "pipe")
    yield server
    server.stop()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing of this machine's own settings counts."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CALLBACK_AGENT_", "XDG_")) and name not in ("QBDIR", "NO_COLOR")
    }
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TERM": "xterm",
    }


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    def run(*arguments: str | bytes, **changed: str) -> subprocess.CompletedProcess[str]:
        return commands.run(
            *arguments, cwd=tmp_path, env={**environment, **changed}, timeout=2 * SOON
        )

    return run
