"""Asking for all jobs at once gives what asking for each of them gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.client import Client, Refused
from agent.slurm import asking
from agent.slurm.asking import Agent
from agent.slurm.known import Event, Job, Known
from agent.slurm.store import Pending
from support.agents import running, write

TRIGGERS = [
    *("complete-job-self", "complete-job-parent", "complete-job-*", "complete-job-12"),
    *("complete-job-render", "complete-job-self && complete-job-parent"),
    *("failed-work-*-7", "failed-work-render-7 || complete-job-*", "failed-work-self-*"),
    *("complete-job-* && failed-work-*-7", "complete-job-render && failed-work-self-7"),
]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("asking")
    conf = "".join(f"a{number}.py = {trigger}\n" for number, trigger in enumerate(TRIGGERS))
    files = {f"a{number}_py": "pass\n" for number in range(len(TRIGGERS))}
    with running(folder, write(folder / "callback", conf, **files)) as agent:
        yield agent.pipe


JOBS = st.lists(
    st.builds(
        lambda label, parent, pgrp, over: (label, parent, pgrp, over),
        st.sampled_from(["", "render", "comp"]),
        st.sampled_from([0, 10, 11, 12]),
        st.sampled_from([10, 11, 12]),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from([Event("complete", "job"), Event("failed", "work", "7")]),
    ),
    max_size=5,
)


def keep(pending: Pending, owner: int, answer: Any) -> None:
    for callback in answer["callbacks"]:
        pending.get(owner, {}).pop((callback["path"], callback["trigger"]), None)
    for one in answer["partial"]:
        pending.setdefault(owner, {})[one["path"], one["trigger"]] = one["missing"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(JOBS, EVENTS)
def test_all_at_once_is_as_one_by_one(
    pipe: Path,
    jobs: list[tuple[str, int, int, bool]],
    events: list[tuple[int, Event]],
) -> None:
    known = Known(
        Job(10 + n, label, parent, pgrp, state="over" if over else "running")
        for n, (label, parent, pgrp, over) in enumerate(jobs)
    )
    agent, client = Agent(str(pipe)), Client(str(pipe))
    pending: Pending = {}
    alone: Pending = {}
    for place, event in events:
        job = known.jobs[10 + place % len(jobs)]
        found = agent.ask(event, job, known, pending)
        living = known.living_groups()
        expected = []
        for owner in known.jobs.values():
            near = owner is job or owner.pgrp == job.pgrp or owner.parent == job.id
            if not near and owner.pgrp not in living:
                continue
            waits = [
                {"path": path, "trigger": trigger, "missing": missing}
                for (path, trigger), missing in alone.get(owner.id, {}).items()
            ]
            asked: Any = Agent.asked(event, job)
            one: Any = {"owner": owner.as_owner(), "pending": waits}
            answer = client.lookup(asked, **one)
            keep(alone, owner.id, answer)
            expected += [(owner.id, c["path"], c["trigger"]) for c in answer["callbacks"]]
        fires = [(owner, c["path"], c["trigger"]) for owner, c in found.fires]
        assert sorted(fires) == sorted(expected)
        for owner_id, path, trigger in fires:
            pending.get(owner_id, {}).pop((path, trigger), None)
        for owner_id, path, trigger, missing in found.partial:
            pending.setdefault(owner_id, {})[path, trigger] = missing
        assert {n: waits for n, waits in pending.items() if waits} == {
            n: waits for n, waits in alone.items() if waits
        }
    agent.close()
    client.close()


def test_many_owners_are_asked_for_in_several_requests(pipe: Path) -> None:
    label = "x" * 2000
    known = Known(Job(10 + n, label, pgrp=10, state="running") for n in range(600))
    assert asking.MAX_CHARACTERS < 600 * 2000
    agent = Agent(str(pipe))
    found = agent.ask(Event("complete", "job"), known.jobs[10], known, {})
    fired = {(owner, c["trigger"]) for owner, c in found.fires}
    assert fired >= {(10 + n, "complete-job-*") for n in range(600)}
    assert {owner for owner, trigger in fired if trigger == "complete-job-self"} == {10}
    agent.close()


def test_an_event_that_the_agent_refuses(pipe: Path) -> None:
    known = Known([Job(10, pgrp=10)])
    agent = Agent(str(pipe))
    with pytest.raises(Refused) as refused:
        agent.ask(Event("complete", "work", ""), known.jobs[10], known, {})
    assert refused.value.index == 0
    agent.close()
