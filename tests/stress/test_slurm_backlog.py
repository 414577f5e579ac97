"""A short run of slurm_backlog.py. The long one is made by hand: `python tests slurm_backlog`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
#: Seconds that a slow machine may take for what an idle one does in two.
LIMIT = 300.0

pytestmark = pytest.mark.timeout(2 * LIMIT)


def test_events_that_wait_are_handled_once_and_in_order() -> None:
    command = [sys.executable, str(TESTS), "slurm_backlog", "--events", "1500", "--living", "200"]
    done = subprocess.run(
        [*command, "--any"], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"1500 events in .*; 200 other jobs", done.stdout)
