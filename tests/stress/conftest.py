"""Fixtures of the short runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder that waits for no disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="agent-") as folder:
        yield Path(folder)
