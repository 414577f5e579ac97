"""A short run of agreement.py, and that it finds what it is there to find.

The long run is made by hand: `scripts/agreement`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
#: Seconds that a slow machine may take for what an idle one does in three.
LIMIT = 250.0


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=LIMIT, check=False
    )


def test_every_client_gives_the_answers_of_the_pipe() -> None:
    done = run(str(TESTS), "agreement", "--questions", "200")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 questions" in done.stdout
    assert " 0 differ" in done.stdout


def test_a_client_that_leaves_something_out_is_found() -> None:
    broken = (
        "import sys; sys.path.insert(0, sys.argv.pop(1));"
        "from agent import client;"
        "about = client._params;"
        "client._params = lambda *args: about(*args[:3], None);"
        "from clients import drivers;"
        "del drivers.CLIENTS['perl'], drivers.CLIENTS['c'];"
        "from stress import agreement; sys.exit(agreement.main())"
    )
    done = run("-c", broken, str(TESTS), "--questions", "200", "--seed", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert ", python: Question(" in done.stdout
