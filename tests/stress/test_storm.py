"""A short run of storm.py, and that it finds what it is there to find.

The long run is made by hand: `scripts/storm --storms 10000`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
#: Seconds that a slow machine may take for what an idle one does in three.
LIMIT = 300.0

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="leases tell who still writes"),
    pytest.mark.timeout(2 * LIMIT),
]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TESTS), "storm", "--folder", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)


def test_what_is_served_after_a_storm_is_what_a_fresh_start_serves(in_memory: Path) -> None:
    done = run(in_memory, "--storms", "96")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d{2,} storms in .* 0 wrong", done.stdout)
    assert not list(in_memory.iterdir())


def test_a_reloader_that_judges_only_once_is_found(in_memory: Path) -> None:
    broken = (
        "import sys; sys.path.insert(0, sys.argv.pop(1));"
        "from agent.reload import directory_state as state;"
        "state._is_evaluated = lambda d, inputs: d.evaluation is not None;"
        "from stress import storm; sys.exit(storm.main())"
    )
    command = [sys.executable, "-c", broken, str(TESTS), "--folder", str(in_memory)]
    command += ["--storms", "24"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "a fresh start" in done.stdout
