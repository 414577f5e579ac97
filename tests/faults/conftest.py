"""Fixtures of the tests of the rows."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.steps import Stranger
from support import editors


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "callback"


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mounts with `mount ...`, the mount point last; all is unmounted at the end."""
    points: list[Path] = []

    def mounts(*arguments: str | Path) -> None:
        editors.run("mount", *arguments)
        points.append(Path(arguments[-1]))

    yield mounts
    for point in reversed(points):
        while os.path.ismount(point):
            editors.run("umount", "-l", point)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder that waits for no disk: for what is done ten thousand times, or timed."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="agent-") as folder:
        yield Path(folder)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """Needs root. pytest's own folders are closed to others, so this one is elsewhere."""
    editors.need("setpriv")
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        someone = Stranger(Path(folder))
        runs = subprocess.run(
            [*someone.prefix, sys.executable, "-c", "import agent"],
            cwd="/",
            capture_output=True,
            check=False,
        )
        if runs.returncode:
            pytest.skip("another user may not run this Python, or not read the package")
        yield someone
