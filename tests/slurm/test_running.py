"""The pool: what waits for what, and as whom callbacks run."""

from __future__ import annotations

import os
import pwd
import random
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.runner import Result, Target
from agent.slurm.running import NoUser, Pool, User, user
from agent.slurm.store import Run
from support.agents import DEADLINE
from support.farms import Recorder, callback

HERE = User("me", (), {})


class Slow(Recorder):
    """Takes a moment for each `kill`, and keeps when callbacks began and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, int]] = []
        self._lock = threading.Lock()

    def kill(self, _: Target) -> None:
        time.sleep(random.random() * 0.002)

    def step(self, what: str, number: int) -> None:
        with self._lock:
            self.steps.append((what, number))


def run_of(number: int, owner: int, item: str | None) -> Run:
    event: dict[str, Any] = {"name": "done", "type": "job", "job": {"id": owner}}
    if item is not None:
        event |= {"type": "work", "extra": item}
    return Run(number, "x", 0.0, owner, event, callback("a.qcb", "kill-self"))


def ran(runs: Sequence[Run], at_once: int) -> list[tuple[str, int]]:
    """Run all; when each began and ended."""
    farm = Slow()
    done: SimpleQueue[tuple[Run, Result]] = SimpleQueue()

    def ended(run: Run, result: Result) -> None:
        farm.step("end", run.number)
        done.put((run, result))

    pool = Pool(
        farm, HERE, {}, at_once, DEADLINE, lambda run: farm.step("begin", run.number), ended
    )
    for run in runs:
        pool.add(run)
    pool.start()
    for _ in runs:
        run, result = done.get(timeout=DEADLINE)
        assert result.outcome == "succeeded"
        pool.ended(run)
        pool.start()
    assert (pool.waiting, pool.running) == (0, {})
    return farm.steps


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([None, "0", "1", "2"])), max_size=12),
    st.integers(1, 4),
)
def test_the_order_of_each_job_is_kept(what: list[tuple[int, str | None]], at_once: int) -> None:
    runs = [run_of(number, owner, item) for number, (owner, item) in enumerate(what)]
    steps = ran(runs, at_once)
    begin = {number: place for place, (what, number) in enumerate(steps) if what == "begin"}
    end = {number: place for place, (what, number) in enumerate(steps) if what == "end"}
    assert begin.keys() == end.keys() == {run.number for run in runs}
    running = 0
    for name, _ in steps:
        running += 1 if name == "begin" else -1
        assert 0 <= running <= at_once
    for first in runs:
        for second in runs[first.number + 1 :]:
            items = first.event.get("extra"), second.event.get("extra")
            if first.owner == second.owner and (None in items or items[0] == items[1]):
                assert end[first.number] < begin[second.number]


def test_a_begin_that_fails_is_tried_again() -> None:
    """The database cannot be written: the callback must not start unmarked."""
    farm = Recorder()
    done: SimpleQueue[Run] = SimpleQueue()
    fails = [OSError("full"), None]

    def begin(_: Run) -> None:
        if error := fails.pop(0):
            raise error

    pool = Pool(farm, HERE, {}, 2, DEADLINE, begin, lambda run, _: done.put(run))
    pool.add(run_of(1, 7, None))
    with pytest.raises(OSError, match="full"):
        pool.start()
    assert farm.asked == []
    assert pool.waiting == 1
    pool.start()
    pool.ended(done.get(timeout=DEADLINE))
    assert farm.asked == ["kill job 7"]


def test_a_callback_whose_thread_cannot_start_still_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Recorder()
    done: SimpleQueue[Run] = SimpleQueue()

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = Pool(farm, HERE, {}, 1, DEADLINE, lambda _: None, lambda run, _: done.put(run))
    for number in (1, 2):
        pool.add(run_of(number, 7, None))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="new thread"):
            pool.start()
    assert (pool.waiting, pool.running) == (2, {})
    for number in (1, 2):
        pool.start()
        run = done.get(timeout=DEADLINE)
        assert run.number == number
        pool.ended(run)
    assert farm.asked == ["kill job 7"] * 2
    assert done.empty()


def test_whom_callbacks_run_as(monkeypatch: pytest.MonkeyPatch) -> None:
    here = pwd.getpwuid(os.geteuid())
    assert user(str(here.pw_uid), "nobody").prefix == ()
    assert user(here.pw_name, "nobody").environment["HOME"] == here.pw_dir
    with pytest.raises(NoUser, match="no user nobody-here"):
        user("nobody-here", "nobody")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = user(None, "nobody")
    assert found.name == "nobody"
    assert f"--reuid={pwd.getpwnam('nobody').pw_uid}" in found.prefix
    assert found.prefix[-1] == "--"
    assert user("root", "nobody").prefix == ()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(NoUser, match="only root"):
        user("root", "nobody")
