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

    def look(self, *rows: Row, ended: Sequence[Row] = ()) -> list[str]:
        """squeue shows these rows of job 7; the events that follow."""
        job, _ = jobs.seen(self.known, 7, "wrap")
        job.array = job.array or any(row.task for row in rows)
        missing = frozenset(self.follower.missing())
        answer = Answer(queue.uptime(), [*rows], missing, [*rows, *ended])
        return [*map(str, self.follower.look(job, rows, self.known, answer, 1.0))]

    def miss(self) -> None:
        for _ in range(queue.MISSED):
            self.look()
        assert self.follower.missing() == {(7, ""), (7, None)}


def row(state: str, task: str = "", reason: str = "Resources", **more: Any) -> Row:
    """What squeue shows of job 7."""
    texts = dict.fromkeys(("dependency", "partition", "nodes", "directory", "command"), "")
    numbers = dict.fromkeys(("priority", "submitted", "started", "ended"), 0)
    who = {"user": "mia", "uid": 1000, "name": "wrap", "comment": "", **more}
    return Row(7, 7, task, state, reason, **texts, **numbers, **who)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED"])
@pytest.mark.parametrize("task", [None, 3])
def test_slurm_requeues_what_its_nodes_lost(
    monkeypatch: pytest.MonkeyPatch, state: str, task: int | None
) -> None:
    """Only the queue shows whether it will run again."""
    time = 100.0
    monkeypatch.setattr(queue, "uptime", lambda: time)
    name = "" if task is None else str(task)
    kind, at = ("job", "") if task is None else ("work", f"-{task}")
    for rows, events in (
        ([row("PENDING", name)], [f"waiting-{kind}-self{at}"]),
        ([], [f"{mapping.STATES[state][0]}-{kind}-self{at}"]),
    ):
        place = Place()
        place.hook(script("prolog_slurmctld", 7, task, SLURM_ARRAY_TASK_COUNT=9))
        place.hook(completion(7, state, task, ARRAYJOBID=7 if name else 0))
        time += queue.GRACE
        found = place.look(*rows, ended=[] if rows else [row(state, name)])
        assert [one for one in found if "-host-" not in one] == events
        assert place.follower.due is None


def test_what_is_over_and_waits_again_is_requeued() -> None:
    """RequeueExit and RequeueExitHold of slurm.conf: the completion plugin is told FAILED."""
    place = Place()
    place.hook(script("prolog_slurmctld", 7))
    place.hook(completion(7, "FAILED"))
    assert place.look(row("PENDING")) == ["waiting-job-self"]
    assert place.look(row("PENDING")) == []
    place.hook(script("prolog_slurmctld", 7, SLURM_JOB_RESTART_COUNT=1))
    place.hook(completion(7, "FAILED", END=2))
    held = row("SPECIAL_EXIT", reason="JobHeldUser")
    assert place.look(held) == ["waiting-job-self", "blocked-job-self"]
    assert place.look(row("PENDING")) == ["unblock-job-self", "waiting-job-self"]
    # An id that is used again is another job's.
    place.hook(script("prolog_slurmctld", 7, SLURM_JOB_RESTART_COUNT=2))
    place.hook(completion(7, "CANCELLED", END=3))
    assert place.look(row("PENDING", uid=1)) == []


@pytest.mark.parametrize(
    ("reason", "held"),
    [
        ("JobHeldUser", True),
        ("JobHeldUser,JobHeldAdmin", True),
        ("job requeued in held state", True),
        ("launch failed requeued held", True),
        ("launch_failed_requeued_held", True),
        ("JobHoldMaxRequeue", True),
        ("JobHeldUser,Resources", False),
        ("Dependency", False),
        ("", False),
    ],
)
def test_what_slurm_holds_by_itself_is_held(reason: str, held: bool) -> None:
    assert row("PENDING", reason=reason).is_held is held


def test_slurm_reports_nothing_of_a_task_that_is_cancelled_before_it_starts() -> None:
    place = Place()
    assert place.look(row("PENDING", "0-9:3%1")) == ["waiting-job-self"]
    place.hook(script("prolog_slurmctld", 8, 0, SLURM_ARRAY_JOB_ID=7, SLURM_ARRAY_TASK_COUNT=4))
    rows = (row("RUNNING", "0"), row("PENDING", "3,9%1"))
    for _ in range(queue.MISSED):
        assert place.look(*rows) == []
    assert place.look(*rows) == ["killed-work-self-6"]
    assert place.look(*rows) == []
    # All that has not started is cancelled together: this is reported once, without its numbers.
    report = completion(7, "CANCELLED", ARRAYJOBID=7)
    found = mapping.report_of(b"".join(f"{k}={v}\0".encode() for k, v in report.items()))
    events = jobs.reported(place.known, found, 1.0)
    assert [*map(str, events)] == ["killed-work-self-3", "killed-work-self-9"]


def test_a_task_of_which_only_squeue_knows_that_it_ran_was_not_cancelled() -> None:
    place = Place()
    place.look(row("PENDING", "0-2"))
    ended = [row("COMPLETED", "1")]
    for _ in range(queue.MISSED):
        assert place.look(row("PENDING", "0,2"), ended=ended) == []
    assert place.look(row("PENDING", "0,2"), ended=ended) == ["complete-work-self-1"]
