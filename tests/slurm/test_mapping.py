"""What a hook's environment says: properties, and the environments that slurmctld 22.05 gave."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.event import DONE, NAMES
from agent.slurm import mapping
from agent.slurm.mapping import BadReport, Report, hosts, report_of
from support.slurm_site import completion, script


def data(environment: dict[str, str]) -> bytes:
    return b"".join(f"{name}={value}\0".encode() for name, value in environment.items())


IDS = st.integers(1, mapping.NO_TASK - 1)
TASKS = st.none() | st.integers(0, 4_000_000)
#: No NUL, which no environment can hold.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@given(IDS, TASKS, TEXTS, TEXTS, st.integers(0, 70_000))
def test_prolog_and_epilog(job: int, task: int | None, name: str, comment: str, uid: int) -> None:
    more = {"SLURM_JOB_NAME": name, "SLURM_JOB_COMMENT": comment, "SLURM_JOB_UID": uid}
    own = min(job, mapping.NO_TASK - 5_000_000)
    found = report_of(data(script("prolog_slurmctld", own, task, **more)))
    assert (found.kind, found.job) == ("prolog", own)
    assert found.task == ("" if task is None else str(task))
    assert found.uid == uid
    assert found.name in (name, "")
    assert found.comment in (comment, "")
    ended = report_of(data(script("epilog_slurmctld", own, task, SLURM_JOB_EXIT_CODE=768)))
    assert (ended.kind, ended.succeeded, ended.task) == ("epilog", False, found.task)


@given(IDS, TASKS, st.sampled_from([*mapping.STATES]))
def test_completion_is_of_the_same_job_and_task(job: int, task: int | None, state: str) -> None:
    own = min(job, mapping.NO_TASK - 5_000_000)
    found = report_of(data(completion(own, state, task)))
    assert (found.kind, found.job, found.state, found.rest) == ("jobcomp", own, state, False)
    assert found.task == ("" if task is None else str(task))


def test_an_array_without_a_task_is_about_those_that_did_not_start() -> None:
    found = report_of(data(completion(103, "CANCELLED", ARRAYJOBID=103)))
    assert (found.job, found.task, found.rest) == (103, "", True)


@given(st.binary(max_size=200))
def test_anything_else_is_refused(environment: bytes) -> None:
    with contextlib.suppress(BadReport):
        assert isinstance(report_of(environment), Report)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (b"A=1", "does not end with NUL"),
        (b"A=1\0", "no hook of Slurm"),
        (b"SLURM_JOB_ID=0\0", "expected the id"),
        (b"SLURM_JOB_ID=-1\0", "expected the id"),
        (b"SLURM_JOB_ID=4294967294\0", "expected the id"),
        (b"JOBID=\xff\0JOBSTATE=FAILED\0", "expected the id"),
        (b"SLURM_SCRIPT_CONTEXT=prolog_task\0SLURM_JOB_ID=1\0", "prolog_slurmctld, "),
    ],
)
def test_the_error_says_what_was_found_and_expected(environment: bytes, said: str) -> None:
    with pytest.raises(BadReport, match=said):
        report_of(environment)


def test_a_variable_that_comes_twice_is_the_first() -> None:
    assert mapping.environment_of(b"A=1\0A=2\0B\0=C\0") == {"A": "1", "": "C"}


def test_every_state_is_an_event_that_triggers_know() -> None:
    assert {name for names in mapping.STATES.values() for name in names} <= NAMES
    assert all(names[-1] in DONE for names in mapping.STATES.values())
    assert "done" in mapping.UNKNOWN


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("label=beauty pass", {"label": "beauty pass"}),
        ("label=a ;pgrp=12; parent=7", {"label": "a", "pgrp": "12", "parent": "7"}),
        ("for the label=a", {}),
        ("label=", {}),
        ("x;label=a=b", {"label": "a=b"}),
    ],
)
def test_what_a_comment_says(comment: str, said: dict[str, str]) -> None:
    assert mapping.said_in(comment) == said


@pytest.mark.parametrize(
    ("dependency", "parent"),
    [
        ("afterok:12(unfulfilled),afterany:13_*(unfulfilled)", 12),
        ("afterok:101_*(unfulfilled)", 101),
        ("after:12+5", 12),
        ("singleton", None),
        ("singleton(unfulfilled),aftercorr:5_1", 5),
        ("", None),
        ("afterok:99999999999", None),
    ],
)
def test_the_parent_is_the_first_dependency(dependency: str, parent: int | None) -> None:
    assert mapping.parent_of(dependency) == parent


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("", []),
        ("gpu1", ["gpu1"]),
        ("gpu1,node[01-03,7]", ["gpu1", "node01", "node02", "node03", "node7"]),
        ("r[1-2]n[0-1]x", ["r1n0x", "r1n1x", "r2n0x", "r2n1x"]),
        ("node[", ["node["]),
        ("node[1-x]", ["node[1-x]"]),
        ("[0-1]", ["0", "1"]),
    ],
)
def test_the_hosts_of_a_list(nodes: str, names: list[str]) -> None:
    assert hosts(nodes) == names


@given(st.text(max_size=40))
def test_any_list_of_hosts_is_read(nodes: str) -> None:
    assert all(hosts(nodes))


def test_many_hosts_are_limited() -> None:
    assert len(hosts("n[0-999999999]")) == mapping.MAX_HOSTS
    assert len(hosts("n[0-9]" * 12)) == mapping.MAX_HOSTS


@given(st.lists(st.integers(0, 999), min_size=1, max_size=20, unique=True))
def test_numbers_in_brackets_are_as_many_hosts(numbers: list[int]) -> None:
    text = ",".join(f"{number:03}" for number in numbers)
    assert hosts(f"n[{text}],m") == [*(f"n{number:03}" for number in numbers), "m"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ()),
        ("7", (7,)),
        ("0-2,9%2", (0, 1, 2, 9)),
        ("1-3%1,5", (1, 2, 3, 5)),
        ("0-9:3%1", (0, 3, 6, 9)),
        ("N/A", ()),
        ("1-3:0,x", (1, 2, 3)),
    ],
)
def test_the_tasks_that_wait_are_a_list_of_ranges(text: str, numbers: tuple[int, ...]) -> None:
    assert mapping.tasks_in(text) == set(numbers)
