"""A short run of stress/restarts.py, and that it can fail.

The long run is made by hand: `scripts/restarts --seconds 60`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from agent.client import Client
from stress import restarts
from support.agents import DEADLINE

pytestmark = pytest.mark.timeout(10 * DEADLINE)


def test_some_restarts_under_a_supervisor(
    in_memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = restarts.Run(in_memory, seed=1)
    run.go(seconds=1.0)
    assert restarts.report(run, 1.0), capsys.readouterr().out
    assert "all was well" in capsys.readouterr().out
    assert min(run.count.values()) > 0
    assert run.count["restarts"] >= 2
    assert {instance for instance, _ in run.seen[0] & run.seen[1]} == set()


def test_a_record_that_nobody_has_is_lost() -> None:
    logged = [("a", 1), ("a", 2), ("b", 1)]
    assert restarts.lost(0, logged, set(logged)) == []
    assert restarts.lost(0, logged, {("a", 1), ("b", 1)}) == [
        "agent 0: the record ('a', 2) is lost"
    ]
    (other,) = restarts.lost(1, logged, {*logged, ("c", 1)})
    assert "not in the log" in other


def test_a_wrong_answer_is_wrong(in_memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = restarts.Run(in_memory, seed=1)
    agent = run.agents[0].start()
    try:
        with Client(str(agent.pipe), DEADLINE) as one:
            good: Any = one.list(code=True)
    finally:
        agent.stop()
    assert (run.check(0, 1, good), run.wrong) == (1, [])
    mixed = copy.deepcopy(good)
    mixed["callbacks"][0]["trigger"] = mixed["callbacks"][0]["trigger"].replace("0001", "0002")
    torn = copy.deepcopy(good)
    torn["callbacks"][0]["code"] += "\n"
    for floor, answer, why in (
        (2, good, "not one from 2 to 1"),
        (1, mixed, "two versions in one answer"),
        (1, torn, "no version has this trigger or code"),
        (1, {**good, "callbacks": []}, "two versions"),
    ):
        run.wrong.clear()
        run.check(0, floor, answer)
        assert why in run.wrong[0]
        assert not restarts.report(run, 1.0)
        assert "WRONG: " in capsys.readouterr().out
