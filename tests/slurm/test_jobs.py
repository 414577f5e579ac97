"""Which events follow from reports: in any order, by two ways, and again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.slurm import jobs, mapping
from agent.slurm.known import Known
from agent.slurm.mapping import Report
from support.slurm_site import completion, script

NOW = 1_795_784_737.0


def report(environment: dict[str, str]) -> Report:
    return mapping.report_of(b"".join(f"{k}={v}\0".encode() for k, v in environment.items()))


class Slurm:
    """Reports to what is known, and keeps the events."""

    def __init__(self) -> None:
        self.known = Known()
        self.events: list[str] = []

    def tell(self, environment: dict[str, str]) -> list[str]:
        one = report(environment)
        events = [
            f"{event.name}-{event.type}-{one.job}" + (f"-{event.extra}" if event.extra else "")
            for event in jobs.reported(self.known, one, NOW)
            if event.type != "host"
        ]
        self.events += events
        return events

    def prolog(self, job: int, task: int | None = None, **more: Any) -> list[str]:
        return self.tell(script("prolog_slurmctld", job, task, **more))

    def epilog(self, job: int, task: int | None = None, **more: Any) -> list[str]:
        more = {"SLURM_JOB_EXIT_CODE": 0, **more}
        return self.tell(script("epilog_slurmctld", job, task, **more))

    def jobcomp(self, job: int, state: str, task: int | None = None, **more: Any) -> list[str]:
        return self.tell(completion(job, state, task, **more))


@given(st.data())
def test_an_array_in_any_order_makes_each_event_once(data: st.DataObject) -> None:
    """What one task reports is in order but for its end; the tasks are mixed in any way."""
    told = sorted(mapping.STATES.keys() - mapping.MAYBE_AGAIN)
    states = data.draw(st.lists(st.sampled_from(told), min_size=1, max_size=6))
    count = {"SLURM_ARRAY_TASK_COUNT": len(states)}
    queues = []
    for task, state in enumerate(states):
        ends = [
            script("epilog_slurmctld", 100, task, SLURM_JOB_EXIT_CODE=0, **count),
            completion(100, state, task),
        ]
        if data.draw(st.booleans()):
            ends.reverse()
        queues.append([script("prolog_slurmctld", 100, task, **count), *ends])
    slurm = Slurm()
    while any(queues):
        queue = data.draw(st.sampled_from([one for one in queues if one]))
        slurm.tell(queue.pop(0))
    names = [mapping.STATES[state] for state in states]
    worst = next(n for n in ("failed", "killed", "complete") if n in {each[-1] for each in names})
    expected = [
        *("submit-job-100", "running-job-100", f"{worst}-job-100"),
        *(f"running-work-100-{task}" for task in range(len(states))),
        *(f"{name}-work-100-{task}" for task, each in enumerate(names) for name in each),
    ]
    assert Counter(slurm.events) == Counter(expected)
    assert slurm.events[:2] == ["submit-job-100", "running-job-100"]
    assert slurm.events[-1] == f"{worst}-job-100"
    for task in range(len(states)):
        own = [event for event in slurm.events if event.endswith(f"work-100-{task}")]
        assert own[0].startswith("running")


@given(st.lists(st.sampled_from(["p", "e", "c"]), max_size=8))
def test_reports_that_come_again_make_no_event_again(order: list[str]) -> None:
    slurm = Slurm()
    slurm.prolog(7)
    for one in order:
        if one == "p" and not slurm.known.jobs[7].is_over:
            slurm.prolog(7)
        if one == "e":
            slurm.epilog(7)
        if one == "c":
            slurm.jobcomp(7, "FAILED")
    ended = ["failed-job-7"] if "c" in order else []
    assert slurm.events == ["submit-job-7", "running-job-7", *ended]


def test_a_job_that_is_requeued_runs_twice() -> None:
    """As slurmctld 22.05 reports it: PENDING first, and then the epilog with the next count."""
    slurm = Slurm()
    slurm.prolog(7)
    assert slurm.jobcomp(7, "PENDING", END=1) == ["waiting-job-7"]
    assert slurm.epilog(7, SLURM_JOB_RESTART_COUNT=1) == []
    assert slurm.known.tasks[7][""].state == "waiting"
    assert slurm.prolog(7, SLURM_JOB_RESTART_COUNT=1) == ["running-job-7"]
    assert slurm.jobcomp(7, "COMPLETED", END=2) == ["complete-job-7"]
    assert slurm.prolog(7, SLURM_JOB_RESTART_COUNT=2) == ["running-job-7"]


@pytest.mark.parametrize("state", sorted(mapping.MAYBE_AGAIN))
def test_what_slurm_may_requeue_by_itself_is_not_over_yet(state: str) -> None:
    """As slurmctld 22.05 reports a preempted job, and one whose node failed, in any order."""
    slurm = Slurm()
    for job, ends in ((7, ("epilog", "jobcomp")), (8, ("jobcomp", "epilog"))):
        slurm.prolog(job)
        for end in ends:
            more = {"SLURM_JOB_EXIT_CODE": 0}
            told = slurm.jobcomp(job, state) if end == "jobcomp" else slurm.epilog(job, **more)
            assert told == []
        task = slurm.known.tasks[job][""]
        assert (task.state, task.succeeded) == ("ending", False)
    # squeue showed already that it waits.
    jobs.again(slurm.known, slurm.known.jobs[7], "")
    assert slurm.jobcomp(7, state, END=9) == []
    assert slurm.known.tasks[7][""].state == "waiting"


def test_a_task_of_a_finished_array_that_is_requeued_ends_the_array_again() -> None:
    slurm = Slurm()
    for task, state in enumerate(("COMPLETED", "FAILED")):
        slurm.prolog(100, task, SLURM_ARRAY_TASK_COUNT=2)
        slurm.jobcomp(100, state, task)
    assert slurm.events[-1] == "failed-job-100"
    again = {"SLURM_JOB_RESTART_COUNT": 1, "SLURM_ARRAY_TASK_COUNT": 2}
    assert slurm.prolog(100, 1, **again) == ["running-job-100", "running-work-100-1"]
    ended = slurm.jobcomp(100, "COMPLETED", 1, END=9)
    assert ended == ["complete-work-100-1", "complete-job-100"]


def test_the_completion_plugin_may_come_after_squeue_told_the_end() -> None:
    slurm = Slurm()
    slurm.prolog(7)
    slurm.epilog(7)
    jobs.ended(slurm.known, slurm.known.jobs[7], "", ("complete",), NOW)
    assert slurm.jobcomp(7, "COMPLETED", END=5) == []
    assert slurm.prolog(7, SLURM_JOB_RESTART_COUNT=1) == ["running-job-7"]
    jobs.ended(slurm.known, slurm.known.jobs[7], "", ("failed",), NOW)
    assert slurm.jobcomp(7, "FAILED", END=6) == []


def test_an_id_that_is_used_again_is_a_new_job() -> None:
    slurm = Slurm()
    slurm.prolog(7)
    slurm.jobcomp(7, "FAILED")
    assert slurm.prolog(7, SLURM_JOB_NAME="other") == ["submit-job-7", "running-job-7"]
    assert slurm.known.jobs[7].label == "other"
    assert slurm.known.forgotten == {7}


def test_tasks_that_never_started_end_with_the_array() -> None:
    slurm = Slurm()
    for task in (0, 1):
        slurm.prolog(107, task, SLURM_ARRAY_TASK_COUNT=10)
        slurm.epilog(107, task, SLURM_ARRAY_TASK_COUNT=10)
    assert slurm.jobcomp(107, "CANCELLED", ARRAYJOBID=107) == []
    assert slurm.jobcomp(107, "CANCELLED", 1) == ["killed-work-107-1"]
    assert slurm.jobcomp(107, "COMPLETED", 0) == ["complete-work-107-0", "killed-job-107"]
    # None of them started.
    ended = slurm.jobcomp(103, "CANCELLED", ARRAYJOBID=103)
    assert ended == ["submit-job-103", "killed-job-103"]


def test_a_node_belongs_to_the_array_of_its_task() -> None:
    slurm = Slurm()
    slurm.prolog(100, 3)
    on_node = report(script("prolog_slurmd", 104, SLURMD_NODENAME="node1"))
    assert [str(e) for e in jobs.reported(slurm.known, on_node, NOW)] == [
        "assigned-host-self-node1"
    ]
    unknown = report(script("epilog_slurmd", 999, SLURMD_NODENAME="node1"))
    assert jobs.reported(slurm.known, unknown, NOW) == []
    assert 999 not in slurm.known.jobs


def test_nobody_joins_the_group_of_another_user() -> None:
    slurm = Slurm()
    slurm.prolog(10, SLURM_JOB_UID=1)
    slurm.prolog(11, SLURM_JOB_UID=1, SLURM_JOB_COMMENT="pgrp=10;label=mine")
    slurm.prolog(12, SLURM_JOB_UID=2, SLURM_JOB_COMMENT="pgrp=10;parent=10;label=theirs")
    slurm.prolog(13, SLURM_JOB_UID=1, SLURM_JOB_COMMENT="pgrp=99")
    jobs = slurm.known.jobs
    assert [jobs[n].pgrp for n in (10, 11, 12, 13)] == [10, 10, 12, 13]
    assert (jobs[11].label, jobs[12].parent) == ("mine", 0)


def test_a_parent_in_a_comment_may_become_known_later() -> None:
    slurm = Slurm()
    comment: dict[str, Any] = {"SLURM_JOB_COMMENT": "parent=10"}
    slurm.prolog(11, **comment)
    assert slurm.known.jobs[11].parent == 0
    slurm.prolog(10)
    slurm.epilog(11, **comment)
    assert (slurm.known.jobs[11].parent, slurm.known.jobs[11].pgrp) == (10, 10)


def test_a_job_without_a_comment_has_no_parent() -> None:
    """Slurm's ids of some tasks are not known: they are not the id that nothing has."""
    slurm = Slurm()
    slurm.prolog(100, 0)
    slurm.jobcomp(100, "CANCELLED", ARRAYJOBID=100)
    tasks = [(100, name, task) for name, task in slurm.known.tasks[100].items()]
    slurm.known = Known(slurm.known.jobs.values(), tasks)
    slurm.prolog(7)
    assert (slurm.known.jobs[7].parent, slurm.known.jobs[7].pgrp) == (0, 7)
    assert slurm.known.job(0) is None


def test_the_group_is_the_root_of_the_chain_of_dependencies() -> None:
    slurm = Slurm()
    known = slurm.known
    for number, parent in ((10, ""), (11, "afterok:10(unfulfilled)"), (12, "afterany:11")):
        job, _ = jobs.seen(known, number, "render")
        known.describe(job, 1, "mia", "", parent)
    other, _ = jobs.seen(known, 13, "render")
    known.describe(other, 2, "tom", "", "afterok:12")
    assert [known.jobs[n].pgrp for n in (10, 11, 12, 13)] == [10, 10, 10, 13]
    assert [known.jobs[n].parent for n in (10, 11, 12, 13)] == [0, 10, 11, 12]


def test_a_group_is_forgotten_when_all_of_it_is_over() -> None:
    slurm = Slurm()
    for number in (10, 11):
        slurm.prolog(number, SLURM_JOB_COMMENT="pgrp=10")
    slurm.prolog(20)
    slurm.jobcomp(10, "COMPLETED")
    slurm.jobcomp(20, "COMPLETED")
    assert slurm.known.forget_over(NOW) == []
    assert slurm.known.forget_over(NOW + 1) == [20]
    slurm.jobcomp(11, "COMPLETED")
    assert sorted(slurm.known.forget_over(NOW + 1)) == [10, 11]
    assert slurm.known.jobs == {}
