"""A short run of stress/soak.py, and that it can fail.

The long run is made by hand: `scripts/soak --minutes 10`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stress import soak
from support.agents import DEADLINE
from support.rogues import MISBEHAVIOURS

TESTS = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it measures by /proc"),
    # On a slow machine it goes on until it has shown and measured enough.
    pytest.mark.timeout(11 * DEADLINE),
]


def test_some_seconds_of_everything_at_once(tmp_path: Path) -> None:
    command = [sys.executable, str(TESTS), "soak", "--minutes", "0.1", "--growth", "100"]
    done = subprocess.run(
        [*command, "--folder", tmp_path],
        capture_output=True,
        text=True,
        timeout=10 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all was well" in done.stdout
    assert "p99" in done.stdout
    assert not list(tmp_path.iterdir())


def report(**what: Any) -> bool:
    """What is said of a run in which all was well but for this."""
    tried = {way.__name__: 1 for way in MISBEHAVIOURS}
    client = {"wrong": [], "refused": 0, "late": 0, "seconds": [0.001] * 100}
    results = {
        "client 0": client | what.get("client", {}),
        "rogues": {"count": tried | what.get("tried", {})},
        "editor": {"count": {}, "wrong": what.get("edits", [])},
        "log": {"count": {}},
    }
    if "failed" in what:
        results[what["failed"]] = None
    memory, descriptors = what.get("memory", 100.0), what.get("descriptors", 20)
    # The history is full from minute 4 on. Until then memory grows, and that says nothing.
    measures = [soak.Measure(n, 60.0 + 10 * n, 20) for n in range(4)]
    measures += [soak.Measure(n, 100.0 + n % 2 * 30, 20, True) for n in (4, 5, 6, 7)]
    measures += [soak.Measure(n, memory + n % 2 * 30, descriptors, True) for n in (8, 9, 10)]
    left = {"state": what.get("state", "ok"), "last_reload": {"diagnostics": []}}
    log, said = what.get("log", "{}\n"), what.get("said", "")
    well: bool = soak.report(
        10.0, soak.MAX_GROWTH_MIB, measures, results, left, log, what.get("status", 0), said, True
    )
    return well


def test_a_run_in_which_all_was_well() -> None:
    assert report()
    assert report(memory=100.0 + soak.MAX_GROWTH_MIB)
    assert report(said="callback-agent: refused a client\n")


def test_a_history_that_does_not_get_full_is_not_waited_for() -> None:
    measures = [soak.Measure(n, 100.0, 20, n == 10) for n in range(11)]
    first, last = soak.compared(measures, 10.0)
    assert [m.minutes for m in first] == [2, 3, 4]
    assert [m.minutes for m in last] == [8, 9, 10]
    assert soak.compared(measures[:2], 10.0) == ([], [])


@pytest.mark.parametrize(
    "what",
    [
        {"client": {"wrong": ["of no version"]}},
        {"client": {"seconds": []}},
        {"edits": ["version 3 was not served"]},
        {"failed": "rogues"},
        {"failed": "client 0"},
        {"memory": 120.0},
        {"descriptors": 30},
        {"state": "degraded"},
        {"log": '{"half'},
        {"status": 1},
        {"said": "Traceback (most recent call last)"},
        {"said": "callback-agent: internal error in lookup"},
        {"tried": {"flood": 0}},
    ],
    ids=str,
)
def test_a_run_in_which_something_was_wrong(
    what: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not report(**what)
    assert "WRONG: " in capsys.readouterr().out
