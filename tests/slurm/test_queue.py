"""Questions to squeue: each has one answer, and what is asked for is forgotten in time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from agent.slurm import jobs, mapping, queue
from agent.slurm.commands import Row, SlurmError
from agent.slurm.daemon import Daemon, Options
from agent.slurm.known import Known
from agent.slurm.queue import Answer, Follower
from support.agents import DEADLINE, wait_for
from support.farms import Recorder
from support.slurm_site import completion, script


class Shown:
    """A queue that is empty, and first fails as it is told."""

    def __init__(self, *fails: Exception) -> None:
        self.fails = [*fails]
        self.asked = 0

    def rows(self, ids: Sequence[int] = (), *, ended: bool = False) -> list[Row]:
        self.asked += 1
        if self.fails:
            raise self.fails.pop(0)
        return []


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def asked(shown: Shown) -> Answer:
    answers: SimpleQueue[Answer] = SimpleQueue()
    queue.ask(shown, [], answers.put)
    answer = answers.get(timeout=DEADLINE)
    assert answers.empty()
    return answer


def test_each_question_has_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(SlurmError("down"), ValueError("a mistake"))
    assert asked(shown).error == "down"
    assert asked(shown).error.endswith("ValueError: a mistake")
    assert asked(shown).error == ""
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        assert asked(shown).error == "squeue cannot be asked: can't start new thread"


def test_squeue_is_asked_again_after_a_step_that_failed_with_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spool").mkdir(mode=0o700)
    shown = Shown()
    spool, state, log = (str(tmp_path / name) for name in ("spool", "state", "log"))
    options = Options("/none", spool, state, log, run_as=str(os.geteuid()), poll=0.01)
    daemon = Daemon(options, shown, lambda _: Recorder())
    daemon._step()
    wait_for(lambda: not daemon._messages.empty())

    def fails() -> Any:
        raise ValueError("a mistake")

    with monkeypatch.context() as patched:
        patched.setattr(daemon._spool, "waiting", fails)
        daemon._step()
    assert "a mistake" in (tmp_path / "log").read_text()
    assert shown.asked == 1
    wait_for(lambda: daemon._step() and shown.asked >= 2)


class Place:
    """What is known of jobs, and followed."""

    def __init__(self) -> None:
        self.known = Known()
        self.follower = Follower(self.known)

    def hook(self, environment: dict[str, str]) -> None:
        report = mapping.report_of(b"".join(f"{k}={v}\0".encode() for k, v in environment.items()))
        jobs.reported(self.known, report, 1.0)
        job = self.known.job(report.job)
        self.follower.touched(job.id if job else report.job, report.task, self.known)

    def look(self) -> None:
        """squeue shows nothing of job 7."""
        answer = Answer(queue.uptime())
        self.follower.look(self.known.jobs[7], [], self.known, answer, 1.0)

    def miss(self) -> None:
        for _ in range(queue.MISSED):
            self.look()
        assert self.follower.missing() == {(7, ""), (7, None)}


def end(place: Place) -> None:
    place.hook(completion(7, "COMPLETED"))


def forget(place: Place) -> None:
    place.follower.forget([7])


@pytest.mark.parametrize("done", [end, forget])
def test_the_end_of_a_job_is_not_asked_for_after_it_is_known(
    done: Callable[[Place], None],
) -> None:
    place = Place()
    place.hook(script("prolog_slurmctld", 7))
    place.miss()
    done(place)
    assert place.follower.missing() == set()


def test_a_job_that_is_forgotten_has_no_end_to_come() -> None:
    place = Place()
    place.hook(script("prolog_slurmctld", 7))
    place.hook(script("epilog_slurmctld", 7, SLURM_JOB_EXIT_CODE=0))
    assert place.follower.due is not None
    forget(place)
    assert place.follower.due is None


def test_of_jobs_that_nobody_knows_nothing_is_kept() -> None:
    place = Place()
    place.hook(script("prolog_slurmctld", 7))
    place.hook(script("epilog_slurmd", 999, SLURMD_NODENAME="node1"))
    early = Answer(0.0)
    assert not place.follower.is_newer(7, early)
    assert place.follower.is_newer(999, Answer(0.5))
